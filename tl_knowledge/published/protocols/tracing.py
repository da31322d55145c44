"""Protocols of causal tracing: one prompt, a fact set, and noise on every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.datasets import known_facts
from tl_knowledge.models.hook_names import Module
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.published.protocol import Measured, Protocol, number
from tl_knowledge.published.workbench import Workbench
from tl_knowledge.runs.windows import TraceVariant
from tl_knowledge.tracing import PerturbationVariant, TraceAverage, perturb_embeddings, trace, trace_facts
from tl_knowledge.wording import counted

__all__ = ["OneTrace", "PerturbationProtocol", "TraceProtocol"]

ROUNDING = 1e-4  # of a probability
STATES_AND_MODULES = ("resid_post", "mlp_out", "attn_out")
SPACE_NEEDLE = Fact("The Space Needle", "{} is in downtown", " Seattle")


@dataclass(frozen=True)
class OneTrace(Protocol):
    """The heat maps of one fact.

    Attributes:
        fact: as published; FactLM and rehearsals take their first known one.
        noise: its standard deviation, or a rule.
        samples: noise draws.
        window: of modules.
    """

    fact: Fact = SPACE_NEEDLE
    noise: float | str = "3 subject sd"
    samples: int = 10
    window: int = 10

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Clean and corrupted probability, and each component's largest effect."""
        fact = known_facts(bench.model, bench.facts()[:10], progress=False)[0] if bench.own_data else self.fact
        prompt = Prompt.from_fact(bench.model, fact)
        figures: list[go.Figure] = []
        rows: list[dict[str, Any]] = []
        for component in STATES_AND_MODULES:
            window = 1 if component == "resid_post" else self.window
            noise = bench.noise(self.noise, [fact])
            traced = trace(
                bench.model, prompt, noise, component=component, window=window, samples=self.samples, variant="meng2022_code", progress=bench.progress
            )
            if not rows:
                clean = float(traced.clean_probability)
                rows.append(number("one fact", "P clean", 100 * clean, n=1))
                rows.append(number("one fact", "P corrupted", 100 * (clean - float(traced.total_effect.mean())), n=1))
            effect = traced.mean_effect.nan_to_num(nan=-1.0)
            layer, position = divmod(_first_largest(effect.flatten().tolist()), effect.shape[1])
            rows.append(number(f"{component}, largest effect", "effect", 100 * float(effect.max()), n=1))
            rows.append(number(f"{component}, largest effect", "layer", traced.layers[layer], n=1))
            rows.append(number(f"{component}, largest effect", "token", position, n=1))
            figures.append(traced.plot())
        return Measured(rows, figures, [f"prompt: {fact.text}; answer:{fact.target}"])


@dataclass(frozen=True)
class TraceProtocol(Protocol):
    """Average indirect effects of a fact set.

    Attributes:
        corrupt: sides.
        components: what is restored.
        sever: modules to sever while the state at the last corrupted token is restored.
        noise: its standard deviation, or a rule.
        window: of modules.
        samples: noise draws.
        variant: whose noise stream and windows.
        roles: token roles whose largest average effect is a row of the table.
    """

    corrupt: tuple[str, ...] = ("subject",)
    components: tuple[str, ...] = STATES_AND_MODULES
    sever: tuple[Module, ...] = ()
    noise: float | str = "3 subject sd"
    window: int = 10
    samples: int = 10
    variant: TraceVariant = "meng2022_code"
    roles: tuple[str, ...] = ("last subject token", "last token")

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Total effects, and the largest average effect of every component at every role."""
        facts = bench.facts()
        noise = bench.noise(self.noise, facts)
        average = trace_facts(
            bench.asked,
            facts,
            noise,
            corrupt=self.corrupt,  # pyright: ignore[reportArgumentType]
            components=self.components,  # pyright: ignore[reportArgumentType]
            sever=self.sever,
            window=self.window,
            samples=self.samples,
            variant=self.variant,
            store=bench.part("traces"),
            runner=bench.runner,
            workers=bench.workers,
            progress=bench.progress,
        )
        figures = [average.plot_heat_maps(), average.plot()] + ([average.plot_severed()] if self.sever else [])
        return Measured(_totals(average) + _peaks(average, self.roles), figures, _left_out(average))


def _totals(average: TraceAverage) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for total in average.total_effects().to_dict(orient="records"):
        row, n = f"{total['corrupt']} corrupted", total["facts"]
        rows.append(number(row, "P clean", 100 * total["clean"], n=n))
        rows.append(number(row, "P corrupted", 100 * total["corrupted"], n=n))
        rows.append(number(row, "total effect", 100 * total["total_effect"], low=100 * total["low"], high=100 * total["high"], n=n))
    return rows


def _peaks(average: TraceAverage, roles: tuple[str, ...]) -> list[dict[str, Any]]:
    """The largest average effect over layers of every component, severing and role, and its layer."""
    frame = average.to_dataframe()
    rows: list[dict[str, Any]] = []
    for key, group in frame.groupby(["corrupt", "component", "severed", "role"], sort=False):
        corrupt, component, severed, role = map(str, key)  # pyright: ignore[reportArgumentType]
        if severed == "none" and role not in roles:
            continue
        best = group.iloc[_first_largest(group["effect"].tolist())]
        name = f"{component} at {role}" + ("" if severed == "none" else f", {severed} severed")
        name += "" if len(average.sides) == 1 else f" ({corrupt} corrupted)"
        rows.append(number(name, "effect", 100 * best["effect"], low=100 * best["low"], high=100 * best["high"], n=best["facts"]))
        rows.append(number(name, "layer", best["layer"], n=best["facts"]))
    return rows


def _first_largest(effects: Sequence[float]) -> int:
    """The first that is as large as any: windows that hold all layers of a small model have one effect, but for rounding."""
    most = float(np.nanmax(effects))
    return next(i for i, effect in enumerate(effects) if effect >= most - ROUNDING)


def _left_out(average: TraceAverage) -> list[str]:
    return (
        [f"{len(average.skipped)} of {counted(average.given, 'fact')} were left out, most because the model does not know them."]
        if average.skipped
        else []
    )


@dataclass(frozen=True)
class PerturbationProtocol(Protocol):
    """Noise on every token's embedding.

    Attributes:
        variant: where the noise is added, and how often.
    """

    variant: PerturbationVariant = "ours"

    @override
    def measure(self, bench: Workbench) -> Measured:
        """The mean drop of the right answer's probability, of all facts and by relation."""
        test = perturb_embeddings(bench.model, bench.facts(), variant=self.variant, progress=bench.progress)
        rows: list[dict[str, Any]] = []
        for r in test.by_relation().to_dict(orient="records"):
            name = "all relations" if r["relation"] == "all" else f"relation {r['relation']}"
            rows.append(number(name, "drop", 100 * r["drop"], low=100 * r["low"], high=100 * r["high"], n=r["facts"]))
        clean = float(np.mean(test.table["clean"]))
        return Measured([*rows, number("all relations", "P clean", 100 * clean, n=len(test.table))], [test.plot()])
