"""From a contrast and candidate nodes to a `Circuit`: rank, wire, prune, measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float

from tl_knowledge.circuits.circuit import Circuit
from tl_knowledge.circuits.edges import Edge, refuse_overlaps
from tl_knowledge.circuits.measured import Measured, measured_sites
from tl_knowledge.circuits.paths import Shares, answer_node, find_edges, find_needs, measure_shares, measure_wired
from tl_knowledge.circuits.settings import CircuitSettings
from tl_knowledge.circuits.work import circuit_work
from tl_knowledge.engine.forecast import parts_bar
from tl_knowledge.engine.progress import progress_shown
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import ComponentError, CorruptionError
from tl_knowledge.models.hook_names import attention_pattern
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.runs.contrast import Contrast
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.runs.nodes import Node
from tl_knowledge.runs.windows import unit_count

__all__ = ["LADDER", "MOST_CANDIDATES", "SMALLEST_TOTAL", "assemble", "nothing_in"]

LADDER = (1, 2, 5, 10, 20, 40, 80, 160)
MOST_CANDIDATES = 2000
SMALLEST_TOTAL = 1e-9


def assemble(
    contrast: Contrast,
    candidates: Sequence[Node],
    prompt: Prompt,
    settings: CircuitSettings,
    *,
    fixed: Sequence[Node] = (),
    words: str,
    target: str,
    memory_budget: float,
    **details: Any,
) -> Circuit:
    """Rank the candidates, wire the best of them with the fixed ones, prune, and measure what is left.

    Args:
        fixed: nodes that are there whatever their rank.
        words: what the two runs are.
        target: the answer as text.
        memory_budget: bytes that the runs' activations may take.
        details: what the provenance should have besides the settings.

    Raises:
        CorruptionError: the two runs do not differ in the metric, so there is nothing to explain.
        ComponentError: no candidate, or nodes that hold each other.
    """
    model, total = contrast.model, float(contrast.total_effect.mean())
    if abs(total) < SMALLEST_TOTAL:
        raise CorruptionError(f"{nothing_in(contrast, target)}, so there is nothing to explain; pass another target, or stronger noise.")
    parts = _measured_parts(contrast, candidates, prompt, settings, fixed, memory_budget)
    return Circuit(
        **parts.fields,
        sources=contrast.sources,
        total_effect=total,
        n_layers=layer_count(model),
        n_heads=unit_count(model, "head"),
        contrast=words,
        target=target,
        clean_probability=contrast.clean_probability,
        corrupted_probability=contrast.corrupted_probability.cpu(),
        settings=settings,
        provenance=provenance_of(
            model,
            engine=parts.engine,
            seed=settings.seed,
            has_bos=prompt.has_bos,
            settings=settings,
            **details | {"prompt": prompt.text, "noise": repr(settings.noise)},
        ),
    )


class _Parts(NamedTuple):
    """A circuit's fields that are measured, by name, and the engine that measured them."""

    fields: dict[str, Any]
    engine: str


def _measured_parts(
    contrast: Contrast, candidates: Sequence[Node], prompt: Prompt, settings: CircuitSettings, fixed: Sequence[Node], memory_budget: float
) -> _Parts:
    able, smallest = _able(contrast, candidates), settings.threshold * abs(float(contrast.total_effect.mean()))
    effects, needs = measured_sites(contrast, settings, memory_budget)
    work = circuit_work(contrast, able, settings, fixed)
    with parts_bar(contrast.model, contrast.tokens, what="circuit", work=work, progress=progress_shown(), leave=False) as bar:
        with bar.part("sites"):
            considered = [*fixed, *_best(able, settings, effects, needs)]
            _check_considered(considered)
        with bar.part("edges"):
            weighted, engine = find_edges(contrast, considered, memory_budget)
        with bar.part("needs"):
            every = _with_needs(weighted, find_needs(contrast, considered, memory_budget))
        edges = _connected(_pruned(every, smallest, set(considered)), contrast)
        ends = {node for edge in edges for node in (edge.source, edge.target)}
        nodes = [node for node in considered if node in ends] or considered[:1]
        with bar.part("shares"):
            shares, growth = _shares(contrast, considered, nodes, memory_budget)
            shares = replace(shares, wired=measure_wired(contrast, nodes, edges, memory_budget))
        with bar.part("heads"):
            patterns, labels = _patterns(contrast, nodes), _labels(contrast.model, prompt, contrast)
            head_reads = _head_reads(contrast, nodes, prompt, patterns, labels, effects)
            measured = {"effect": effects.of(nodes).cpu(), "need": needs.of(nodes).cpu()}
    found = {"nodes": tuple(nodes), "edges": tuple(edges), "considered": len(considered), "patterns": patterns, "labels": labels}
    return _Parts(found | measured | {"shares": shares, "growth": growth, "head_reads": head_reads}, engine)


def nothing_in(contrast: Contrast, target: str) -> str:
    """That two runs do not differ, in words."""
    if contrast.metric == PROBABILITY:
        return f"P({target!r}) is {contrast.clean_probability:.2g} in both runs"
    return f"{contrast.metric.of_answer(target)} is {contrast.metric.number(contrast.clean_score)} in both runs, on average"


def _able(contrast: Contrast, candidates: Sequence[Node]) -> list[Node]:
    """The candidates that can be other ones in the two runs."""
    return [node for node in candidates if node not in contrast.sources and node.pos >= min(s.pos for s in contrast.sources)]


def _best(able: Sequence[Node], settings: CircuitSettings, effects: Measured, needs: Measured) -> list[Node]:
    """The top candidates by effect, need, or the larger of both."""
    if not able:
        return []
    every = [measured.of(able).mean(1).abs() for measured, other in ((effects, "need"), (needs, "effect")) if settings.rank != other]
    score = torch.stack(every).amax(0)
    order = score.argsort(descending=True, stable=True)[: settings.limit].tolist()
    return [able[i] for i in order if score[i] > 0]


def _check_considered(considered: Sequence[Node]) -> None:
    """Refuse no node at all, and nodes that hold each other."""
    if not considered:
        raise ComponentError("no site lies between the sources and the answer; trace more layers or positions.")
    refuse_overlaps(considered)


def _shares(contrast: Contrast, considered: Sequence[Node], nodes: Sequence[Node], memory_budget: float) -> tuple[Shares, pd.DataFrame]:
    """What the circuit's nodes explain, and what the first 1, 2, 5, ... of those considered do, one row each."""
    steps = [count for count in LADDER if count < len(considered)] + [len(considered)]
    *ladder, shares = measure_shares(contrast, [*(considered[:count] for count in steps), nodes], memory_budget)
    names = ("restored", "faithfulness", "completeness")
    growth = [{"nodes": count, **{n: float(getattr(s, n).mean()) for n in names}} for count, s in zip(steps, ladder, strict=True)]
    return shares, pd.DataFrame(growth)


def _with_needs(edges: list[Edge], needs: Mapping[tuple[Node, Node], float]) -> list[Edge]:
    """The same edges with their needs, and edges that only a need shows."""
    weighted = {(edge.source, edge.target): edge for edge in edges}
    only_needed = [Edge(source, target, 0.0, need) for (source, target), need in needs.items() if (source, target) not in weighted and need]
    return [replace(edge, need=needs.get(pair, 0.0)) for pair, edge in weighted.items()] + only_needed


def _pruned(edges: list[Edge], smallest: float, nodes: set[Node]) -> list[Edge]:
    """The strong edges, and each node's strongest edge in and out, strongest first.

    Sites that only together bring the answer back carry little one by one; dropping them with their edges would take the circuit apart.
    """
    ranked = sorted(edges, key=lambda edge: -abs(edge.strength))
    kept: dict[tuple[str, Node], Edge] = {}
    for edge in ranked:
        for way, node in (("in", edge.target), ("out", edge.source)):
            if node in nodes:
                kept.setdefault((way, node), edge)
    strongest = {id(edge) for edge in kept.values()}
    return [edge for edge in ranked if abs(edge.strength) >= smallest or id(edge) in strongest]


def _connected(edges: list[Edge], contrast: Contrast) -> list[Edge]:
    """The edges on a path from a source to the answer."""

    def reached(starts: set[Node], forward: bool) -> set[Node]:
        seen, new = set(starts), set(starts)
        while new:
            new = {b for e in edges for a, b in [(e.source, e.target) if forward else (e.target, e.source)] if a in new} - seen
            seen |= new
        return seen

    between = reached(set(contrast.sources), True) & reached({answer_node(contrast)}, False)
    return [edge for edge in edges if edge.source in between and edge.target in between]


def _head_reads(
    contrast: Contrast, nodes: Sequence[Node], prompt: Prompt, patterns: Mapping[int, torch.Tensor], labels: tuple[str, ...], effects: Measured
) -> pd.DataFrame:
    """Each head at the circuit's attention nodes: its own effect, and how much of each span it attends to in the clean run."""
    every = range(unit_count(contrast.model, "head"))
    heads = [Node("head", n.layer, n.pos, (h,)) for n in nodes if n.component == "attn_out" for h in every]
    heads += [node for node in nodes if node.component == "head"]
    columns = ["layer", "head", "pos", "token", "effect", "subject", "relation", "reads"]
    if not heads:
        return pd.DataFrame(columns=columns)  # pyright: ignore[reportArgumentType]
    rows: list[dict[str, Any]] = []
    for node, effect in zip(heads, effects.of(heads).mean(1).tolist(), strict=True):
        row = {"layer": node.layer, "head": node.units[0], "pos": node.pos, "token": labels[node.pos], "effect": effect}
        pattern = patterns.get(node.layer)
        weights = None if pattern is None else pattern[node.units[0], node.pos]
        for name in ("subject", "relation"):
            inside = prompt.spans.get(name)
            row[name] = float("nan") if weights is None or inside is None else float(weights[list(inside)].sum())
        best = [] if weights is None else weights.topk(min(3, node.pos + 1)).indices.tolist()
        row["reads"] = ", ".join(f"{labels[p].strip() or labels[p]} {float(weights[p]):.0%}" for p in best) if weights is not None else ""
        rows.append(row)
    return pd.DataFrame(rows, columns=columns).sort_values("effect", key=abs, ascending=False, ignore_index=True)  # pyright: ignore


def _patterns(contrast: Contrast, nodes: Sequence[Node]) -> dict[int, Float[torch.Tensor, "head query key"]]:
    """The clean run's attention in the layers of attention nodes; nothing where the model does not show it."""
    layers = sorted({node.layer for node in nodes if node.component in ("attn_out", "head")})
    names = {attention_pattern(layer): layer for layer in layers if attention_pattern(layer) in contrast.model.hook_dict}
    recorded = record(contrast.model, contrast.tokens, contrast.cleaning, names)
    return {layer: recorded[name][0].cpu() for name, layer in names.items() if name in recorded}


def _labels(model: HookedModel, prompt: Prompt, contrast: Contrast) -> tuple[str, ...]:
    """The prompt's tokens, and those of the answer that follow it."""
    appended = contrast.tokens[0, len(prompt) :].tolist()
    return (*prompt.labels, *(model.tokenizer.decode([token]) if model.tokenizer else str(token) for token in appended))
