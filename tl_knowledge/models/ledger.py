"""The ledger of a model's blocks: what their matrices (and the bias of ``W_out``) were, and what has been added since.

Each place (a layer's ``W_out``, its bias, or another matrix) that anything was added to is always written anew, from the weights as they were::

    W_out = original + sum of what is added now        (in float64, rounded once)

So additions leave in any order, what stays is what it alone would have given, and with nothing left the weights are what they were, bit for bit.

A change is written into all places or into none: whatever stops it (an interrupt, memory that runs out) leaves the weights as they were before, or
as they should be after, and the ledger says which. Weights are compared by their bits, so that a model with NaN in it is no exception.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float

from tl_knowledge.door import public
from tl_knowledge.errors import ModelStateError, NumericalError
from tl_knowledge.models.description import fingerprint_of, weight_digests, weights_digest
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.matrices import BlockMatrix, held_matrix, memory_like, parameters_sharing, part_of
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.routed import has_routes
from tl_knowledge.models.weights import OutputBias, output_bias, output_weights

__all__ = [
    "WeightLedger",
    "check_made_for",
    "forget_edits",
    "has_written_edits",
    "ledger_of",
    "unedited_fingerprint",
    "written_keys",
    "written_records",
]

_ledgers: WeakKeyDictionary[object, WeightLedger] = WeakKeyDictionary()

Place: TypeAlias = int | OutputBias | BlockMatrix
"""What can be written: the ``W_out`` of the layer of that number, a layer's bias of it, or another matrix of a block (in the shape it is held in)."""

WAY_OUT = "undo that change first, or accept the weights as they are now with tl_knowledge.editing.forget_edits(model)"


@dataclass(frozen=True, eq=False)
class _Addition:
    """What one edit adds, by place, the keys it was planned for, by layer, and what its method has later edits know, by name."""

    deltas: Mapping[Place, torch.Tensor]
    keys: Mapping[int, torch.Tensor]
    records: Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class _State:
    """Everything that a ledger knows; replaced as a whole, so that it is never half changed.

    Attributes:
        additions: by the edits' own keys, in order.
        original: every place that something was added to, as it was.
        written: the same places as they are now.
    """

    additions: Mapping[Hashable, _Addition] = field(default_factory=dict[Hashable, _Addition])
    original: Mapping[Place, torch.Tensor] = field(default_factory=dict[Place, torch.Tensor])
    written: Mapping[Place, torch.Tensor] = field(default_factory=dict[Place, torch.Tensor])

    def with_additions(self, model: HookedModel, additions: Mapping[Hashable, _Addition], places: Iterable[Place]) -> _State:
        """The state after some places' additions have become others; nothing is written yet."""
        original, written = dict(self.original), dict(self.written)
        for place in places:
            before = original.get(place)
            before = _held(model, place).detach().clone() if before is None else before
            added = [each.deltas[place].to(before.device).double() for each in additions.values() if place in each.deltas]
            if added:
                original[place] = before
                written[place] = (before.double() + torch.stack(added).sum(0)).to(before.dtype)
                _check_finite(written[place], before, place)
            else:
                del original[place], written[place]
        return _State(additions, original, written)


class WeightLedger:
    """What has been added to a model's weights, in order."""

    def __init__(self) -> None:
        self._state = _State()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._state.additions

    def __len__(self) -> int:
        return len(self._state.additions)

    def add(
        self,
        model: HookedModel,
        key: Hashable,
        deltas: Mapping[Place, torch.Tensor],
        keys: Mapping[int, torch.Tensor] | None = None,
        records: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Add to the weights at some places.

        Args:
            keys: by layer, the keys that the addition was planned for.
            records: what later edits should know of it, by name.

        Raises:
            ModelStateError: added already, or the weights were changed by someone else.
            NumericalError: an addition that is not finite, or too large for the weights' type.
        """
        if key in self:
            raise ModelStateError("this edit is already written into the model; revert(model) takes it back first.")
        for place, delta in deltas.items():
            if not bool(delta.isfinite().all()):
                raise NumericalError(f"the edit's change of {_called(place)} is not finite, so it is not written; plan the edit anew.")
        addition = _Addition(dict(deltas), dict(keys or {}), dict(records or {}))
        self._move(model, dict(self._state.additions) | {key: addition}, deltas)

    def remove(self, model: HookedModel, key: Hashable) -> None:
        """Take an addition back, whichever came after it.

        Raises:
            ModelStateError: it was never added, or the weights were changed by someone else.
        """
        if key not in self:
            raise ModelStateError("this edit is not written into the model; write_into(model) comes before revert(model).")
        left = {other: addition for other, addition in self._state.additions.items() if other != key}
        self._move(model, left, self._state.additions[key].deltas)

    def keys(self, layer: int) -> list[Float[torch.Tensor, "fact d_mlp"]]:
        """The keys that the present additions were planned for, an addition at a time."""
        return [addition.keys[layer] for addition in self._state.additions.values() if layer in addition.keys]

    def records(self, name: str) -> list[Float[torch.Tensor, "..."]]:
        """What the present additions have under a name, an addition at a time."""
        return [addition.records[name] for addition in self._state.additions.values() if name in addition.records]

    def unedited(self, model: HookedModel) -> str:
        """Fingerprint of the weights as they were before any addition.

        Raises:
            ModelStateError: edited weights were changed by someone else.
        """
        self._check_untouched(model, self._state.written)
        digests, changed = weight_digests(model), list(self._state.original.items())
        touched = {name: each for place, _ in changed for name, each in parameters_sharing(model, _held(model, place)).items()}
        for name, parameter in touched.items():
            memory = memory_like(parameter)
            part_of(memory, parameter).copy_(parameter.detach())
            for place, before in changed:
                held = _held(model, place)
                if held.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr():
                    part_of(memory, held).copy_(before)
            if name in digests:
                digests[name] = weights_digest(part_of(memory, parameter))
        return fingerprint_of(digests)

    def _move(self, model: HookedModel, additions: Mapping[Hashable, _Addition], places: Iterable[Place]) -> None:
        """Go over to other additions, in all places or in none."""
        before, places = self._state, list(places)
        self._check_untouched(model, [place for place in places if place in before.written])
        after = before.with_additions(model, additions, places)
        old = {place: before.written.get(place, after.original.get(place)) for place in places}
        new = {place: after.written.get(place, before.original.get(place)) for place in places}
        try:
            _put(model, new)
            self._state = after
        except BaseException:
            _put(model, old)
            self._state = before
            raise

    def _check_untouched(self, model: HookedModel, places: Iterable[Place]) -> None:
        for place in places:
            if not _same_bits(_held(model, place), self._state.written[place]):
                raise ModelStateError(f"{_called(place)} was changed by something else since an edit was written; {WAY_OUT}.")


def ledger_of(model: HookedModel) -> WeightLedger:
    """The model's ledger, opened at the first use."""
    return _ledgers.setdefault(model, WeightLedger())


@public
def forget_edits(model: AnyModel) -> None:
    """Take the weights as they are now for the model's own: what was written through edits can no longer be reverted.

    For a model whose weights were replaced (``load_state_dict``) while edits were written into it.

    Example:
        >>> import tl_knowledge as tlk
        >>> tlk.editing.forget_edits(tlk.load_model("factlm"))
    """
    _ledgers.pop(as_model(model, masked=True, encoder_decoder=True), None)


def written_keys(model: HookedModel, layer: int) -> list[Float[torch.Tensor, "fact d_mlp"]]:
    """The keys of all edits that are written into a layer of the model, in the order they came."""
    return _ledgers[model].keys(layer) if model in _ledgers else []


def written_records(model: HookedModel, name: str) -> list[Float[torch.Tensor, "..."]]:
    """What all edits that are written into the model have under a name, in the order they came."""
    return _ledgers[model].records(name) if model in _ledgers else []


def has_written_edits(model: HookedModel) -> bool:
    """Whether anything is written through the model's ledger now, or kept on the model as hooks."""
    return (model in _ledgers and len(_ledgers[model]) > 0) or has_routes(model)


def unedited_fingerprint(model: HookedModel) -> str:
    """`weight_fingerprint` of the model as it was before anything was written through its ledger.

    Raises:
        ModelStateError: the weights of an edited layer were changed by someone else.
    """
    return ledger_of(model).unedited(model)


def check_made_for(model: HookedModel, fingerprint: str, what: str, of: str) -> None:
    """Refuse to use what was trained for a model on one whose own weights are others.

    Args:
        fingerprint: of the weights that it was trained for.
        what: was trained, for the message.
        of: whose weights those were.

    Raises:
        ModelStateError: other weights.
    """
    now = unedited_fingerprint(model)
    if now != fingerprint:
        raise ModelStateError(
            f"this {what} was trained for other weights ({fingerprint}, of {of}) than this model's own ({now}); load the model it was trained for in "
            "the same way, or train another for this one."
        )


def _held(model: HookedModel, place: Place) -> torch.Tensor:
    """What the model holds at a place."""
    if isinstance(place, int):
        return output_weights(model, place)
    if isinstance(place, BlockMatrix):
        return held_matrix(model, place)
    bias = output_bias(model, place.layer)
    assert bias is not None, "Edit refuses a model without it"
    return bias


def _called(place: Place) -> str:
    if isinstance(place, BlockMatrix):
        return f"{place.name} of layer {place.layer}"
    return f"W_out of layer {place}" if isinstance(place, int) else f"the bias of W_out of layer {place.layer}"


@torch.no_grad()  # not a ``with``, whose last line an interrupt could keep from switching gradients on again
def _put(model: HookedModel, weights: Mapping[Place, torch.Tensor | None]) -> None:
    for place, values in weights.items():
        assert values is not None
        _held(model, place).copy_(values)


def _check_finite(written: torch.Tensor, before: torch.Tensor, place: Place) -> None:
    """Refuse values beyond the weights' type; what was not finite before is the model's own."""
    if not bool((written.isfinite() | ~before.isfinite()).all()):
        raise NumericalError(f"the edit's change of {_called(place)} is too large for {before.dtype} weights; load the model in float32.")


def _same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.element_size()]
    return first.dtype == second.dtype and torch.equal(first.detach().view(integers), second.to(first.device).view(integers))
