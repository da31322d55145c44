"""From a contrast and candidate nodes to a `Circuit`: rank, wire, prune, measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd
import torch
from jaxtyping import Float

from tl_knowledge.circuits.circuit import Circuit
from tl_knowledge.circuits.edges import Edge, refuse_overlaps
from tl_knowledge.circuits.paths import answer_node, find_edges, find_needs, measure_needs, measure_shares, measure_wired
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import ComponentError, CorruptionError
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.hook_names import attention_pattern
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.spans import Span
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.runs.contrast import Contrast, Metric
from tl_knowledge.runs.interventions import measure_nodes
from tl_knowledge.runs.nodes import Node
from tl_knowledge.runs.windows import unit_count

__all__ = ["Rank", "Settings", "assemble", "check_settings"]

Rank: TypeAlias = Literal["either", "effect", "need"]
"""Nodes rank by what they restore alone (``"effect"``), by what is lost without them (``"need"``), or by the larger of the two."""

LADDER = (1, 2, 5, 10, 20, 40, 80, 160)
MOST_CANDIDATES = 2000
SMALLEST_TOTAL = 1e-9


@dataclass(frozen=True)
class Settings:
    """How a circuit is built; see `tl_knowledge.circuits.from_trace`."""

    limit: int
    rank: Rank
    threshold: float
    memory_budget: float


def check_settings(limit: int, rank: str, threshold: float, metric: str, memory_budget: float) -> Settings:
    """Refuse settings out of range.

    Raises:
        ComponentError: one of them.
    """
    if limit < 1:
        raise ComponentError(f"limit={limit} keeps no node; pass at least 1 (20 is usual).")
    if rank not in get_args(Rank):
        raise ComponentError(f"rank {rank!r} is unknown; pass 'either', 'effect' or 'need'.")
    if metric not in get_args(Metric):
        raise ComponentError(f"metric {metric!r} is unknown; pass 'probability' or 'log_probability'.")
    if not 0 <= threshold < 1:
        raise ComponentError(f"threshold {threshold} is no share of the total effect; pass a number from 0 to below 1, for example 0.02.")
    return Settings(limit, rank, threshold, memory_budget)  # pyright: ignore[reportArgumentType]


def assemble(
    contrast: Contrast,
    candidates: Sequence[Node],
    prompt: Prompt,
    settings: Settings,
    *,
    fixed: Sequence[Node] = (),
    words: str,
    target: str,
    corrupted: Span,
    seed: int,
    details: Mapping[str, Any],
) -> Circuit:
    """Rank the candidates, wire the best of them with the fixed ones, prune, and measure what is left.

    Raises:
        CorruptionError: the two runs do not differ in the answer's probability, so there is nothing to explain.
        ComponentError: no candidate, or nodes that hold each other.
    """
    total = float(contrast.total_effect.mean())
    if abs(total) < SMALLEST_TOTAL:
        raise CorruptionError(
            f"P({target!r}) is {contrast.clean_probability:.2g} in both runs, so there is nothing to explain; pass another target, or stronger noise."
        )
    looked_at = [*fixed, *_best(contrast, candidates, settings)]
    if not looked_at:
        raise ComponentError("no site lies between the sources and the answer; trace more layers or positions.")
    refuse_overlaps(looked_at)
    budget = settings.memory_budget
    found, engine = find_edges(contrast, looked_at, budget)
    every = _with_needs(found, find_needs(contrast, looked_at, budget))
    edges = _connected(_pruned(every, settings.threshold * abs(total), set(looked_at)), contrast)
    used = {node for edge in edges for node in (edge.source, edge.target)}
    nodes = [node for node in looked_at if node in used] or looked_at[:1]
    steps = [count for count in LADDER if count < len(looked_at)] + [len(looked_at)]
    *ladder, shares = measure_shares(contrast, [*(looked_at[:count] for count in steps), nodes], budget)
    names = ("restored", "faithfulness", "completeness")
    growth = [{"nodes": count, **{n: float(getattr(s, n).mean()) for n in names}} for count, s in zip(steps, ladder, strict=True)]
    model, about = contrast.model, {"rank": settings.rank, "limit": settings.limit, "n_layers": layer_count(contrast.model), "prompt": prompt.text}
    patterns, labels = _patterns(contrast, nodes), _labels(model, prompt, contrast)
    return Circuit(
        nodes=tuple(nodes),
        edges=tuple(edges),
        sources=contrast.sources,
        metric=contrast.metric,
        total_effect=total,
        effect=measure_nodes(contrast, nodes, budget).cpu(),
        need=measure_needs(contrast, nodes, budget).cpu(),
        shares=replace(shares, wired=measure_wired(contrast, nodes, edges, budget)),
        growth=pd.DataFrame(growth),
        head_reads=_head_reads(contrast, nodes, prompt, patterns, labels, budget),
        patterns=patterns,
        considered=len(looked_at),
        threshold=settings.threshold,
        contrast=words,
        corrupted=corrupted,
        labels=labels,
        target=target,
        clean_probability=contrast.clean_probability,
        corrupted_probability=contrast.corrupted_probability.cpu(),
        provenance=Provenance(
            **describe_model(model),
            prepends_bos=prompt.has_bos,
            seed=seed,
            engine=engine,
            settings={**details, **about, "n_heads": unit_count(model, "head")},
        ),
    )


def _best(contrast: Contrast, candidates: Sequence[Node], settings: Settings) -> list[Node]:
    """The top candidates by effect, need, or the larger of both."""
    able = [node for node in candidates if node not in contrast.sources and node.pos >= min(s.pos for s in contrast.sources)]
    if not able:
        return []
    zero = contrast.total_effect.new_zeros(len(able))
    effect = zero if settings.rank == "need" else measure_nodes(contrast, able, settings.memory_budget).mean(1).abs()
    need = zero if settings.rank == "effect" else measure_needs(contrast, able, settings.memory_budget).mean(1).abs()
    score = torch.maximum(effect, need)
    order = score.argsort(descending=True, stable=True)[: settings.limit].tolist()
    return [able[i] for i in order if score[i] > 0]


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
        found, new = set(starts), set(starts)
        while new:
            new = {b for e in edges for a, b in [(e.source, e.target) if forward else (e.target, e.source)] if a in new} - found
            found |= new
        return found

    between = reached(set(contrast.sources), True) & reached({answer_node(contrast)}, False)
    return [edge for edge in edges if edge.source in between and edge.target in between]


def _head_reads(
    contrast: Contrast, nodes: Sequence[Node], prompt: Prompt, patterns: Mapping[int, torch.Tensor], labels: tuple[str, ...], budget: float
) -> pd.DataFrame:
    """Each head at the circuit's attention nodes: its own effect, and how much of each span it attends to in the clean run."""
    every = range(unit_count(contrast.model, "head"))
    heads = [Node("head", n.layer, n.pos, (h,)) for n in nodes if n.component == "attn_out" for h in every]
    heads += [node for node in nodes if node.component == "head"]
    columns = ["layer", "head", "pos", "token", "effect", "subject", "relation", "reads"]
    if not heads:
        return pd.DataFrame(columns=columns)  # pyright: ignore[reportArgumentType]
    effects = measure_nodes(contrast, heads, budget).mean(1).tolist()
    rows: list[dict[str, Any]] = []
    for node, effect in zip(heads, effects, strict=True):
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
    found = record(contrast.model, contrast.tokens, contrast.cleaning, names)
    return {layer: found[name][0].cpu() for name, layer in names.items() if name in found}


def _labels(model: HookedModel, prompt: Prompt, contrast: Contrast) -> tuple[str, ...]:
    """The prompt's tokens, and those of the answer that follow it."""
    appended = contrast.tokens[0, len(prompt) :].tolist()
    return (*prompt.labels, *(model.tokenizer.decode([token]) if model.tokenizer else str(token) for token in appended))
