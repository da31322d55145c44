"""Runs of the corrupted prompt with values written at some nodes, and values read at others: many in one growing batch.

A run is born where its first value is written; before that it *is* the corrupted run (see `tl_knowledge.engine.rows`). What a node would have been
is read before anything is written there, so one run that restores one node and holds all others tells what reaches each of them directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from more_itertools import chunked

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.narrowing import may_narrow, narrow_attention, narrow_mlp
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.engine.rows import (
    as_index,
    budget_rows,
    grow_rows,
    growing_rows_refusal,
    keep_positions,
    rows_engine,
    run_rows,
)
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.contrast import Contrast
from tl_knowledge.runs.nodes import Node, hook_of, stage

__all__ = ["Intervention", "Outcomes", "Value", "intervene", "measure_nodes"]

Value: TypeAlias = Literal["clean", "corrupted"] | torch.Tensor
"""What is written at a node: its value in the clean or corrupted run, or ``[sample ...]``."""


@dataclass(frozen=True, eq=False)
class Intervention:
    """One run: values written at some nodes, and nodes to read.

    Attributes:
        writes: what is written where.
        reads: nodes whose value is recorded as it would have been without its own write.
    """

    writes: Mapping[Node, Value]
    reads: tuple[Node, ...] = ()

    @property
    def born_at(self) -> int:
        """The last layer at whose output this run still is the corrupted run; ``-1`` for the input of block 0."""
        first = min(self.writes, key=stage)
        return max(-1, first.layer if first.component == "resid_post" else first.layer - 1)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What interventions gave.

    Attributes:
        score: ``[run sample]``: the contrast's metric.
        readings: ``[sample ...]`` by run and node.
        engine: ``"rows"``, or ``"loop"`` with the reason why the model refuses growing rows.
    """

    score: Float[torch.Tensor, "run sample"]
    readings: dict[tuple[int, Node], torch.Tensor]
    engine: str


def intervene(contrast: Contrast, interventions: Sequence[Intervention], memory_budget: float) -> Outcomes:
    """Run all interventions, as many at a time as the memory budget (bytes) allows; one after the other where rows cannot grow.

    A progress bar is shown where the caller further up lets it (`show_progress`).

    Raises:
        NumericalError: a score that is not finite.
    """
    model, samples = contrast.model, contrast.samples
    refusal = growing_rows_refusal(model)
    scores = contrast.corrupted_score.new_empty(len(interventions), samples)
    readings: dict[tuple[int, Node], torch.Tensor] = {}
    fitting = budget_rows(model, contrast.tokens.shape[1], len(contrast.answer_positions), memory_budget) - samples
    size = 1 if refusal else max(1, fitting // samples)
    order = sorted(range(len(interventions)), key=lambda k: interventions[k].born_at)
    with progress_bar(what="interventions", unit="run", progress=progress_shown(), total=len(order), leave=False) as bar:
        for chunk in chunked(order, size):
            batch = _Batch(contrast, {k: interventions[k] for k in chunk}, grown=not refusal, readings=readings)
            scores[chunk] = batch.run()
            bar.update(len(chunk))
    if not bool(scores.isfinite().all()):
        raise NumericalError("path interventions gave a score that is not finite; load the model in float32, or lower the noise.")
    return Outcomes(scores, readings, rows_engine(model))


def measure_nodes(contrast: Contrast, nodes: Sequence[Node], memory_budget: float) -> Float[torch.Tensor, "node sample"]:
    """Each node's effect, in the contrast's metric."""
    runs = [Intervention({node: "clean"}) for node in nodes]
    return intervene(contrast, runs, memory_budget).score - contrast.corrupted_score


class _Batch:
    """Some interventions in one forward: the corrupted rows, then ``samples`` rows for each intervention in order of birth."""

    def __init__(self, contrast: Contrast, runs: Mapping[int, Intervention], *, grown: bool, readings: dict[tuple[int, Node], torch.Tensor]) -> None:
        self.contrast, self.runs, self.grown, self.readings = contrast, runs, grown, readings
        self.samples, self.device = contrast.samples, contrast.tokens.device
        first = contrast.samples if grown else 0
        self.start = {k: first + i * contrast.samples for i, k in enumerate(runs)}

    def run(self) -> Float[torch.Tensor, "run sample"]:
        """The score of every run; readings are put in their place on the way."""
        contrast, positions = self.contrast, as_index(self.contrast.answer_positions, self.device)[None]
        if self.grown:
            births: dict[int, list[int]] = {}
            for one in self.runs.values():
                births.setdefault(one.born_at, []).extend(range(self.samples))
            parents = {layer: as_index(rows, self.device) for layer, rows in births.items()}
            hooks = grow_rows(contrast.streams(), parents) + self._narrowing() + self._acting() + keep_positions(positions)
            logits = run_rows(contrast.model, contrast.tokens, hooks)[self.samples :]
        else:
            batch = repeat(contrast.tokens, "1 pos -> sample pos", sample=self.samples)
            with torch.no_grad():
                logits = run_model(contrast.model, batch, contrast.corrupting + self._acting() + keep_positions(positions))
        return rearrange(contrast.score(logits), "(run sample) -> run sample", sample=self.samples)

    def _acting(self) -> Hooks:
        """At every hook first read, then write."""
        reads: dict[str, list[tuple[int, Node]]] = {}
        writes: dict[str, list[tuple[int, Node, Value]]] = {}
        for k, one in self.runs.items():
            for node in one.reads:
                reads.setdefault(hook_of(node), []).append((k, node))
            for node, value in one.writes.items():
                writes.setdefault(hook_of(node), []).append((k, node, value))
        names = sorted({*reads, *writes})
        return [(name, self._act(name, reads.get(name, []), writes.get(name, []))) for name in names]

    def _act(self, name: str, reads: Sequence[tuple[int, Node]], writes: Sequence[tuple[int, Node, Value]]) -> HookFn:
        def act(activation: torch.Tensor, *, hook: object) -> torch.Tensor | None:
            for k, node in reads:
                at = activation[self.start[k] : self.start[k] + self.samples, node.pos]
                self.readings[k, node] = (at[:, list(node.units)] if node.units else at).clone()
            if not writes:
                return None
            changed = activation.clone()
            for index, values in self._written(name, writes):
                changed[index] = values
            return changed

        return act

    def _written(self, name: str, writes: Sequence[tuple[int, Node, Value]]) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        """Rows, positions (and units) of one hook's writes with their values: clean ones, corrupted ones, and given ones.

        Made when the hook runs, so that the values of one hook at a time are held.
        """
        for kind, run in (("clean", self.contrast.clean), ("corrupted", self.contrast.corrupted)):
            own = [(k, node) for k, node, value in writes if isinstance(value, str) and value == kind]
            if own:
                positions, units = self._places(own)
                values = run[name][:, positions] if units is None else run[name][:, positions, units]
                values = values.expand(self.samples, *values.shape[1:])
                yield self._index(own), rearrange(values, "sample place ... -> (place sample) ...")
        given = [(k, node, value) for k, node, value in writes if isinstance(value, torch.Tensor)]
        if given:
            values = [rearrange(value, "sample unit ... -> (unit sample) ...") if node.units else value for _, node, value in given]
            yield self._index([(k, node) for k, node, _ in given]), torch.cat(values)

    def _index(self, own: Sequence[tuple[int, Node]]) -> tuple[torch.Tensor, ...]:
        """Every sample's row of each write, its position, and its unit where the component has units."""
        positions, units = self._places(own)
        starts = as_index([self.start[k] for k, node in own for _ in node.units or (0,)], self.device)
        rows = (starts[:, None] + torch.arange(self.samples, device=self.device)).flatten()
        each = [index.repeat_interleave(self.samples) for index in (positions, units) if index is not None]
        return (rows, *each)

    def _places(self, own: Sequence[tuple[int, Node]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Positions, and units where the component has them, one a unit."""
        positions = as_index([node.pos for _, node in own for _ in node.units or (0,)], self.device)
        units = as_index([unit for _, node in own for unit in node.units], self.device)
        return positions, units if len(units) else None

    def _narrowing(self) -> Hooks:
        """Skip what equals the corrupted run: positions before a run's first write, and in the last layer all but the answer's.

        What is written or read inside a module (heads, neurons) needs that module to keep its shape.
        """
        contrast, model, hooks = self.contrast, self.contrast.model, list[tuple[str, HookFn]]()
        touched = {node.component for one in self.runs.values() for node in (*one.writes, *one.reads)}
        length, last = contrast.tokens.shape[1], layer_count(model) - 1
        where = torch.arange(length, device=self.device)
        for layer in range(last + 1) if may_narrow(model) else ():
            alive = [one for one in self.runs.values() if one.born_at < layer]
            if not alive:
                continue
            first = as_index([min(node.pos for node in one.writes) for one in alive], self.device)[:, None]
            own = torch.cat([torch.ones(self.samples, length, dtype=torch.bool, device=self.device), self._each(where >= first)])
            read = own & (where >= contrast.answer_positions[0]) if layer == last else own
            source = torch.arange(self.samples, device=self.device).repeat(len(alive) + 1)
            if "neuron" not in touched:
                hooks += narrow_mlp(model, layer, read, source)
            if "head" not in touched:
                hooks += narrow_attention(model, layer, own, read, source)
        return hooks

    def _each(self, of_runs: torch.Tensor) -> torch.Tensor:
        return repeat(of_runs, "run pos -> (run sample) pos", sample=self.samples)
