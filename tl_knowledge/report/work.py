"""How much work a report will be, counted part by part before it is done, so that it can be said how long it takes."""

from __future__ import annotations

from collections.abc import Iterable

from tl_knowledge.engine.forecast import counted_work
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.report.settings import ReportSettings
from tl_knowledge.runs.roles import SIDES
from tl_knowledge.runs.windows import unit_count

__all__ = ["report_work"]

EDIT_RUNS = 60 * 21  # of ROME's defaults: 20 steps, each a forward and a backward of 21 texts
STEPS = 20  # of an attribution
NEIGHBOURS = 1 / 4  # what share of a circuit's pairs of sites is measured, of all


def report_work(
    model: HookedModel, prompt: Prompt, settings: ReportSettings, *, wordings: int, edited: bool, components: int, modules: int
) -> dict[str, float]:
    """Floating-point operations of each part, by its name, in order; of an edit as if it were made by ROME.

    Args:
        wordings: of the fact, whose neurons are attributed.
        edited: whether there is an edit.
        components: how many are traced of either side.
        modules: how many of them are a circuit's candidates.
    """
    layers, length, heads, samples = layer_count(model), len(prompt), unit_count(model, "head"), settings.samples
    first = {side: prompt.span(side).first for side in SIDES}
    traced = {side: _sites(layers, range(first[side], length), length) for side in SIDES}

    def circuit(side: str, candidates: int, kept: int) -> tuple[float, float]:
        passes, sites = traced[side]
        runs = (candidates * sites + 2 * NEIGHBOURS * kept**2 + kept * heads / 2) * samples
        return runs * passes / sites, runs

    both = [tuple(components * samples * count for count in traced[side]) for side in SIDES]
    circuits = [circuit(side, modules, settings.limit) for side in SIDES]
    attention = [(samples * layers * heads * layers / 2, samples * layers * heads) for _ in SIDES]
    edit = (EDIT_RUNS * length * layers / 2, EDIT_RUNS / 2)
    after = [tuple(modules * samples * count for count in traced["subject"]), circuits[0]]
    parts: dict[str, Iterable[tuple[float, ...]]] = {
        "edit": [edit] if edited else [],
        "traces of the subject": [both[0]],
        "traces of the relation": [both[1]],
        "neurons": [(3 * STEPS * wordings * layers**2 / 2, wordings * STEPS), circuit("subject", 2, settings.limit // 2)],
        "circuits": circuits,
        "heads": [*attention, (layers * heads * length * layers / 2, layers * heads)],
        "direct effects": [(2 * length * layers, layers * (heads + 2) * 2 + layers)],
        "what the edit does": after if edited else [],
    }
    return {name: float(sum(counted_work(model, *counts) for counts in each)) for name, each in parts.items()}


def _sites(layers: int, positions: range, length: int) -> tuple[float, float]:
    """How many tokens go through how many blocks when a module is restored at each of some positions and layers, and how many runs those are."""
    return sum(length - pos for pos in positions) * layers * (layers - 1) / 2, float(len(positions) * layers)
