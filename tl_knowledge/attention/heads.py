"""Which heads move relational knowledge to where it is said: what they read, what they restore, and what they write.

For every head at the last position, of the clean run and of runs with the subject or the relation corrupted:

- how much of the subject and of the relation it *attends* to, from the last token and from the last relation token;
- how far each corruption *moves* that attention (total variation distance between the patterns, 0 to 1);
- its indirect *effect*: restored alone at the last position, the probability of the answer that comes back;
- *knockout*: how the clean run's probability changes when the head writes nothing, at any position;
- what it *writes* of the answer directly, by the tokens it reads (see `tl_knowledge.direct_logit_attribution`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.attention.direct import direct_logit_attribution
from tl_knowledge.attention.settings import AttentionSettings
from tl_knowledge.door import public
from tl_knowledge.drawing import HtmlView, Points, pattern_view, scatter
from tl_knowledge.engine.progress import show_progress
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import MEMORY_BUDGET, rows_engine
from tl_knowledge.errors import UnsupportedModelError, check_choice
from tl_knowledge.models.hook_names import attention_pattern, component_hook
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import Result
from tl_knowledge.results.statistics import largest_rows
from tl_knowledge.runs.arguments import answer_label, choose_answer, resolve_noise, sample_count
from tl_knowledge.runs.contrast import Contrast, node_hooks, noise_contrast
from tl_knowledge.runs.corruption import Noise, PromptSwap
from tl_knowledge.runs.interventions import Intervention, Value, intervene, measure_nodes
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.runs.nodes import Node
from tl_knowledge.runs.several import each_prompt
from tl_knowledge.runs.windows import unit_count
from tl_knowledge.wording import counted

__all__ = ["AttentionAnalysis", "Side", "analyse_attention"]

Side: TypeAlias = Literal["subject", "relation"]
SIDES: tuple[Side, ...] = ("subject", "relation")
LABELLED = 6


@dataclass(frozen=True, eq=False)
class AttentionAnalysis(Result):
    """One row a head.

    Attributes:
        table: ``layer``, ``head``; ``subject_from_last``, ``relation_from_last``, ``subject_from_relation``, ``relation_from_relation``: attention to
            a span's tokens from the last token and from the last relation token; ``moved_subject``, ``moved_relation``: how far corrupting that span
            moves the last token's attention; ``effect_subject``, ``effect_relation``: indirect effects, in probability; ``knockout``: relative change
            of the clean probability; ``direct``, of that ``direct_subject``, ``direct_relation``, ``direct_other``, in logits, and ``rank`` of the
            answer among what the head writes (0: promoted most).
        patterns: the clean run's attention by layer, ``[head query key]``.
        total_effect: clean minus corrupted probability, by corrupted side.
        labels: the prompt's tokens.
        target: the scored answer.
        settings: how it was corrupted, and what was scored.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "effect_subject"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    patterns: dict[int, Float[torch.Tensor, "head query key"]]
    total_effect: dict[str, float]
    clean_probability: float
    labels: tuple[str, ...]
    target: str
    settings: AttentionSettings
    provenance: Provenance

    def headline(self) -> str:
        """Heads, the answer, samples and model."""
        return (
            f"{counted(len(self.table), 'head')} for P({self.target.strip()!r}); "
            f"{counted(self.settings.samples, 'noise sample')}; {self.provenance.model}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a head, as a copy."""
        return self.table.copy()

    def top(self, k: int = 10, *, by: str = "effect_subject") -> pd.DataFrame:
        """The k heads that stand out most in some column, in either direction.

        Raises:
            ComponentError: k smaller than 1.
            InputError: no such column.
        """
        check_choice("by", by, map(str, self.table.columns))
        return largest_rows(self.table, k, by, either_sign=True)

    def plot(self) -> go.Figure:
        """Attention moved against indirect effect, one point a head: relation against subject."""
        names = [f"{layer}.{head}" for layer, head in zip(self.table["layer"], self.table["head"], strict=True)]
        samples, largest = self.settings.samples, float(self.table[[f"effect_{side}" for side in SIDES]].abs().to_numpy().max())
        groups: dict[str, Points] = {}
        for side in SIDES:
            effects = [float(value) for value in self.table[f"effect_{side}"]]
            best = [i for i in sorted(range(len(effects)), key=lambda i: -abs(effects[i]))[:LABELLED] if abs(effects[i]) > 0.1 * largest]
            moved = [float(value) for value in self.table[f"moved_{side}"]]
            total = self.total_effect[side]
            groups[f"{side} corrupted (costs {total:.1%})"] = Points(moved, effects, [f"head {name}" for name in names], frozenset(best))
        return scatter(
            groups,
            title=f"Heads that carry P({self.target.strip()!r}): relation against subject",
            subtitle=(
                f"{counted(len(names), 'head')} at the last token; clean {self.clean_probability:.1%}; "
                f"{counted(samples, 'sample')}; {self.provenance.model}"
            ),
            x_axis="attention moved by the corruption (total variation)",
            y_axis="indirect effect of the head (probability)",
        )

    def attention_view(self, *, limit: int = 6, by: str = "effect_subject") -> HtmlView:
        """Attention patterns of the heads that stand out, as a circuitsvis view that works offline.

        Raises:
            ComponentError: ``limit`` smaller than 1.
        """
        best = self.top(limit, by=by)
        heads = list(zip(best["layer"].astype(int), best["head"].astype(int), strict=True))
        return pattern_view(self.patterns, heads, self.labels, f"the {counted(len(heads), 'head')} of the largest {by.replace('_', ' of ')}")


@each_prompt
@public
def analyse_attention(
    model: AnyModel,
    prompt: Prompt,
    noise: Noise | PromptSwap | float | str | None = None,
    *,
    samples: int = 10,
    target: str | int | None = None,
    seed: int = 0,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> AttentionAnalysis:
    """Analyse every head's part in a fact, from the subject's and from the relation's side.

    Args:
        prompt: with a subject; the relation is every other token. A list of prompts gives a list of analyses.
        noise, samples, target, seed: as in `tl_knowledge.trace`.
        memory_budget: bytes that the runs' activations may take.
        progress: show a progress bar of each round of runs that takes more than two seconds.

    Raises:
        PromptError: a prompt without subject or relation.
        UnsupportedModelError: the model shows no attention patterns, or no way from heads to logits.
        ModelError, CorruptionError, TargetError, NumericalError: as `tl_knowledge.trace`.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> heads = tlk.analyse_attention(model, prompt)
        >>> len(heads.table) == model.cfg.n_layers * model.cfg.n_heads
        True
    """
    model = as_model(model)
    check_fits(model, prompt)
    hidden = [layer for layer in range(layer_count(model)) if attention_pattern(layer) not in model.hook_dict]
    if hidden:
        raise UnsupportedModelError(f"the model shows no attention pattern in layers {hidden}; load it with attn_implementation='eager'.")
    corruption = resolve_noise(model, prompt, noise, seed, "ours")
    answer = choose_answer(model, prompt, target, False)
    settings = AttentionSettings(
        noise=corruption,
        samples=sample_count(samples, corruption),
        seed=(corruption.seed or 0) if isinstance(corruption, Noise) else 0,
        answer=tuple(answer.tolist()),
    )
    hooks = node_hooks(model, ["head"])

    def contrast_of(side: Side, count: int) -> Contrast:
        return noise_contrast(model, prompt, answer, prompt.span(side).positions, corruption, count, hooks, PROBABILITY)

    with show_progress(progress):
        contrasts = {side: contrast_of(side, settings.samples) for side in SIDES}
        patterns = _patterns(contrasts["subject"])
        table = _attended(patterns[0], prompt)
        for side, contrast in contrasts.items():
            moved = _patterns(contrast, corrupted=True)
            table[f"moved_{side}"] = _distance(patterns[0], moved, prompt.last.last)
            table[f"effect_{side}"] = measure_nodes(contrast, _heads(model, prompt.last.last), memory_budget).mean(1).tolist()
        table["knockout"] = _knocked_out(contrast_of("subject", 1), len(prompt), memory_budget)
        table = table.merge(_written(model, prompt, target, progress), on=["layer", "head"], how="left")
    first = next(iter(contrasts.values()))
    return AttentionAnalysis(
        table=table,
        patterns=dict(enumerate(patterns[0])),
        total_effect={side: float(contrast.total_effect.mean()) for side, contrast in contrasts.items()},
        clean_probability=first.clean_probability,
        labels=prompt.labels,
        target=answer_label(model, prompt, answer),
        settings=settings,
        provenance=provenance_of(
            model,
            engine=rows_engine(model),
            seed=settings.seed,
            has_bos=prompt.has_bos,
            settings=settings,
            noise=repr(corruption),
            prompt=prompt.text,
        ),
    )


def _heads(model: HookedModel, pos: int) -> list[Node]:
    """Every head at one position."""
    return [Node("head", layer, pos, (head,)) for layer in range(layer_count(model)) for head in range(unit_count(model, "head"))]


def _patterns(contrast: Contrast, *, corrupted: bool = False) -> torch.Tensor:
    """Attention ``[sample layer head query key]`` of the clean run (one sample) or the corrupted runs."""
    names = [attention_pattern(layer) for layer in range(layer_count(contrast.model))]
    rows = contrast.tokens.expand(contrast.samples if corrupted else 1, -1)
    patterns = record(contrast.model, rows, contrast.corrupting if corrupted else contrast.cleaning, names)
    return torch.stack([patterns[name] for name in names], dim=1).cpu()


def _attended(pattern: torch.Tensor, prompt: Prompt) -> pd.DataFrame:
    """Attention ``[layer head query key]`` summed over spans, from the last token and the last relation token."""
    layers, heads = pattern.shape[:2]
    table = pd.DataFrame([(layer, head) for layer in range(layers) for head in range(heads)], columns=["layer", "head"])  # pyright: ignore
    for query, pos in (("last", prompt.last.last), ("relation", prompt.relation.last)):
        for span in SIDES:
            table[f"{span}_from_{query}"] = pattern[:, :, pos, list(prompt.span(span))].sum(-1).flatten().tolist()
    return table


def _distance(clean: torch.Tensor, corrupted: torch.Tensor, query: int) -> list[float]:
    """Total variation distance between the clean and each corrupted pattern of one query, mean over samples."""
    return ((corrupted - clean)[..., query, :].abs().sum(-1) / 2).mean(0).flatten().tolist()


def _knocked_out(contrast: Contrast, length: int, memory_budget: float) -> list[float]:
    """Relative change of the clean probability when a head writes nothing at any position; one sample is enough where no noise is left."""
    model, z = contrast.model, contrast.clean[component_hook("head", 0)]
    nothing = z.new_zeros(contrast.samples, 1, z.shape[-1])
    sources: dict[Node, Value] = dict.fromkeys(contrast.sources, "clean")
    silenced = [{replace(head, pos=pos): nothing for pos in range(length)} for head in _heads(model, 0)]
    runs = [Intervention(sources | writes) for writes in silenced]
    clean = contrast.clean_probability
    return [(value - clean) / clean if clean else float("nan") for value in intervene(contrast, runs, memory_budget).score[:, 0].tolist()]


def _written(model: HookedModel, prompt: Prompt, target: str | int | None, progress: bool) -> pd.DataFrame:
    """What each head writes of the answer."""
    written = direct_logit_attribution(model, prompt, target=target, progress=progress).table.query("component == 'head'")
    if len(written) < layer_count(model) * unit_count(model, "head"):
        raise UnsupportedModelError("what attention writes is not the sum of its heads (a norm lies after it), so they cannot be told apart here.")
    return written.drop(columns="component").rename(columns={span: f"direct_{span}" for span in ("subject", "relation", "other")})
