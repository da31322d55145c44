"""Some interventions in one forward: their rows grow out of known runs, read, write, and run only where they can differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Float

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.narrowing import KnownRows, may_narrow, narrow_attention, narrow_mlp, narrowed_hooks, packed_places
from tl_knowledge.engine.recording import Reached, stop
from tl_knowledge.engine.rows import as_index, grow_rows, keep_positions, run_rows
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.bases import Base, Value, birth, joined, recorded_from
from tl_knowledge.runs.contrast import Contrast, stream_names
from tl_knowledge.runs.nodes import Node, hook_of, stage
from tl_knowledge.runs.reach import RunPlaces, needed_places

__all__ = ["Intervention", "InterventionBatch"]


@dataclass(frozen=True, eq=False)
class Intervention:
    """One run: values written at some nodes, and nodes to read.

    Attributes:
        writes: what is written where.
        reads: nodes whose value is recorded as it would have been without its own write.
        scored: whether the answer is wanted, too; where not, a run ends with what is read.
    """

    writes: Mapping[Node, Value]
    reads: tuple[Node, ...] = ()
    scored: bool = True


class InterventionBatch:
    """``samples`` rows for each intervention, in order of birth.

    Args:
        runs: by number, those of one batch scored or not together.
        started: which known run each is a copy of up to which layer's output.
        readings: where what is read is put, by number and node.
    """

    def __init__(
        self,
        contrast: Contrast,
        runs: Mapping[int, Intervention],
        started: Mapping[int, tuple[Base, int]],
        readings: dict[tuple[int, Node], torch.Tensor],
    ) -> None:
        self.contrast, self.runs, self.readings = contrast, runs, readings
        self.samples, self.device = contrast.samples, contrast.tokens.device
        self.start = {k: i * contrast.samples for i, k in enumerate(runs)}
        self.base, self.born_at = {k: started[k][0] for k in runs}, {k: started[k][1] for k in runs}
        self.bases = list({id(base): base for base in self.base.values()}.values())
        self.recording_hooks: Hooks = []
        self.places: dict[str, torch.Tensor] = {}  # inside modules that run on packed positions: which of these each row's position is

    def run(self) -> Float[torch.Tensor, "run sample"] | None:
        """The score of every run, or nothing where they are only read; readings are put in their place on the way."""
        contrast, first = self.contrast, dict[int, int]()
        for base in self.bases:
            first[id(base)] = sum(other.recorded_rows for other in self.bases[: len(first)])
        source = {k: [first[id(base)] + row for row in base.rows(self.samples)] for k, base in self.base.items()}
        births: dict[int, list[int]] = {}
        for k, layer in self.born_at.items():
            births.setdefault(layer, []).extend(source[k])
        streams = [joined(self.bases, name) for name in stream_names(contrast.model)]
        grown = grow_rows(streams, {layer: as_index(rows, self.device) for layer, rows in births.items()}, alone=True)
        heads, others = self._acting(alive=True)
        hooks = grown + heads + self._narrowing([row for rows in source.values() for row in rows]) + others + self.recording_hooks
        return self._answer(lambda hooks: run_rows(contrast.model, contrast.tokens, hooks), hooks)

    def run_whole(self) -> Float[torch.Tensor, "run sample"] | None:
        """One run of whole rows, from their tokens on, where rows cannot grow."""
        batch = repeat(self.contrast.tokens, "1 pos -> sample pos", sample=self.samples)
        hooks = [*self.contrast.corrupting, *(pair for acting in self._acting() for pair in acting)]
        with torch.no_grad():
            return self._answer(lambda hooks: run_model(self.contrast.model, batch, hooks), hooks)

    def _answer(self, forward: Callable[[Hooks], torch.Tensor], hooks: Hooks) -> Float[torch.Tensor, "run sample"] | None:
        """The scores of a forward; of runs that are only read none, and the forward ends with what is read last."""
        if not all(one.scored for one in self.runs.values()):
            last = max((node for one in self.runs.values() for node in one.reads), key=stage)
            with suppress(Reached):
                forward([*hooks, (hook_of(last), stop)])
            return None
        logits = forward(hooks + keep_positions(as_index(self.contrast.answer_positions, self.device)[None]))
        return rearrange(self.contrast.score(logits), "(run sample) -> run sample", sample=self.samples)

    def recording(self) -> dict[str, torch.Tensor]:
        """What a batch of one run will hold where its base is recorded, once it has run; before its birth that is what the base holds.

        Where nothing of the run could be another, or nobody looks, that is what the base holds, too: `Base.carries` says for which runs it will do.
        """
        ((base, born_at),) = zip(self.base.values(), self.born_at.values(), strict=True)
        recorded = {name: value.expand(self.samples, *value.shape[1:]) for name, value in base.recorded.items()}

        def keep(name: str, activation: torch.Tensor, *, hook: object) -> None:
            recorded[name] = activation

        known = {*stream_names(self.contrast.model), *narrowed_hooks(self.contrast.model)} & {*recorded}
        self.recording_hooks = [(name, partial(keep, name)) for name in recorded_from(self.contrast.model, born_at, sorted(known))]
        return recorded

    def _acting(self, *, alive: bool = False) -> tuple[Hooks, Hooks]:
        """At every hook first read, then write: inside attention, and elsewhere.

        Args:
            alive: leave out what comes before a run's birth.
        """
        reads: dict[str, list[tuple[int, Node]]] = {}
        writes: dict[str, list[tuple[int, Node, Value]]] = {}
        for k, one in self.runs.items():
            for node in one.reads:
                reads.setdefault(hook_of(node), []).append((k, node))
            for node, value in one.writes.items():
                if not alive or birth(node) >= self.born_at[k]:
                    writes.setdefault(hook_of(node), []).append((k, node, value))
        names = sorted({*reads, *writes})
        acting = [(name, self._act(name, reads.get(name, []), writes.get(name, []))) for name in names]
        inside = {component_hook("head", layer) for layer in range(layer_count(self.contrast.model))}
        return [pair for pair in acting if pair[0] in inside], [pair for pair in acting if pair[0] not in inside]

    def _act(self, name: str, reads: Sequence[tuple[int, Node]], writes: Sequence[tuple[int, Node, Value]]) -> HookFn:
        def act(activation: torch.Tensor, *, hook: object) -> torch.Tensor | None:
            places = self.places.get(name)
            for k, node in reads:
                rows = slice(self.start[k], self.start[k] + self.samples)
                at = activation[rows, node.pos] if places is None else activation[0, places[rows, node.pos]]
                self.readings[k, node] = (at[:, list(node.units)] if node.units else at).clone()
            if not writes:
                return None
            changed = activation.clone()
            for index, values in self._written(name, writes):
                if places is None:
                    changed[index] = values
                else:
                    _write_packed(changed[0], places, index, values)
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

    def _narrowing(self, source: Sequence[int]) -> Hooks:
        """Run modules where a run can differ from the one that it started from; elsewhere take what that one has there.

        Neurons are written and read among the packed positions of their MLP.
        """
        contrast, model, hooks = self.contrast, self.contrast.model, list[tuple[str, HookFn]]()
        needed = [*narrowed_hooks(model), *stream_names(model)]
        if not may_narrow(model) or not all(name in base.recorded for base in self.bases for name in needed):
            return hooks
        places = [RunPlaces(one.writes, one.reads, self.base[k].differing(one.writes)) for k, one in self.runs.items()]
        answer, length = contrast.answer_positions[0], contrast.tokens.shape[1]
        known = KnownRows(_Joined(self.bases), 0)
        rows = as_index(source, self.device)
        neurons = {node.layer for one in self.runs.values() for node in (*one.writes, *one.reads) if node.component == "neuron"}
        for layer, needs in enumerate(needed_places(places, layer_count(model), length, answer)):
            alive = sum(born_at < layer for born_at in self.born_at.values())
            if not alive:
                continue
            entering, attended, transformed = (self._each(each[:alive]) for each in (needs.entering, needs.attended, needs.transformed))
            own = rows[: alive * self.samples]
            of_mlp = narrow_mlp(model, layer, transformed, own, known)
            if of_mlp and layer in neurons:
                self.places[component_hook("neuron", layer)] = packed_places(transformed)
            hooks += of_mlp
            hooks += narrow_attention(model, layer, entering, attended, own, known)
        return hooks

    def _each(self, of_runs: torch.Tensor) -> torch.Tensor:
        """Places of every sample of some runs; at least one, so that no module runs on nothing."""
        rows = repeat(of_runs.to(self.device), "run pos -> (run sample) pos", sample=self.samples)
        rows[0, 0] |= ~rows.any()
        return rows


def _write_packed(packed: torch.Tensor, places: torch.Tensor, index: tuple[torch.Tensor, ...], values: torch.Tensor) -> None:
    """Write at rows, positions (and units) that are run; the others hold what is written there already."""
    rows, positions, *units = index
    place = places[rows, positions]
    run = place >= 0
    packed[(place[run], *(each[run] for each in units))] = values[run]


class _Joined(Mapping[str, torch.Tensor]):
    """What some runs hold at each hook, made when it is asked for."""

    def __init__(self, bases: Sequence[Base]) -> None:
        self.bases = bases

    def __getitem__(self, name: str) -> torch.Tensor:
        return joined(self.bases, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.bases[0].recorded)

    def __len__(self) -> int:
        return len(self.bases[0].recorded)
