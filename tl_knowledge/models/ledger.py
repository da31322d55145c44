"""The ledger of a model's ``W_out``: what the weights were, and what has been added since.

Each layer of ``W_out`` that anything was added to is always written anew, from the weights as they were::

    W_out = original + sum of what is added now        (in float64, rounded once)

So additions leave in any order, what stays is what it alone would have given, and with nothing left the weights are what they were, bit for bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float

from tl_knowledge.errors import ModelStateError
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import Delta, output_weights

__all__ = ["WeightLedger", "has_written_edits", "ledger_of", "unedited_fingerprint", "written_keys"]

_ledgers: WeakKeyDictionary[object, WeightLedger] = WeakKeyDictionary()

_fingerprints: WeakKeyDictionary[object, tuple[int, str]] = WeakKeyDictionary()


class WeightLedger:
    """What has been added to a model's ``W_out``, in order."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._original: dict[int, torch.Tensor] = {}
        self._written: dict[int, torch.Tensor] = {}
        self._additions: dict[Hashable, Mapping[int, Delta]] = {}
        self._keys: dict[Hashable, Mapping[int, torch.Tensor]] = {}
        self._changes: int | None = None  # of all parameters after our last write; None once someone else has written too

    def __contains__(self, key: Hashable) -> bool:
        return key in self._additions

    def __len__(self) -> int:
        return len(self._additions)

    def add(self, model: HookedModel, key: Hashable, deltas: Mapping[int, Delta], keys: Mapping[int, torch.Tensor] | None = None) -> None:
        """Add to the weights of some layers.

        Args:
            keys: by layer, the keys that the addition was planned for.

        Raises:
            ModelStateError: added already, or the weights were changed by someone else.
        """
        if key in self._additions:
            raise ModelStateError("this edit is already written into the model; revert(model) takes it back first.")
        self._check_untouched(model, deltas)
        for layer in deltas:
            self._original.setdefault(layer, output_weights(model, layer).detach().clone())
        self._additions[key], self._keys[key] = dict(deltas), dict(keys or {})
        self._rewrite(model, deltas)

    def remove(self, model: HookedModel, key: Hashable) -> None:
        """Take an addition back, whichever came after it.

        Raises:
            ModelStateError: it was never added, or the weights were changed by someone else.
        """
        if key not in self._additions:
            raise ModelStateError("this edit is not written into the model; write_into(model) comes before revert(model).")
        self._check_untouched(model, self._additions[key])
        del self._keys[key]
        self._rewrite(model, self._additions.pop(key))
        if not self._additions and self._changes is not None:  # bit for bit what they were: no need to read all weights again
            _fingerprints[model] = (self._changes, self.fingerprint)

    def keys(self, layer: int) -> list[Float[torch.Tensor, "fact d_mlp"]]:
        """The keys that the present additions were planned for, an addition at a time."""
        return [keys[layer] for keys in self._keys.values() if layer in keys]

    def _rewrite(self, model: HookedModel, layers: Mapping[int, Delta]) -> None:
        ours_alone = not self._written or self._changes == _changes(model)
        for layer in layers:
            weights, original = output_weights(model, layer), self._original[layer]
            added = [deltas[layer] for deltas in self._additions.values() if layer in deltas]
            total = original
            if added:
                total = (original.double() + torch.stack([delta.to(original.device).double() for delta in added]).sum(0)).to(original.dtype)
            with torch.no_grad():
                weights.copy_(total)
            self._written[layer] = total
            if not added:
                del self._original[layer], self._written[layer]
        self._changes = _changes(model) if ours_alone else None

    def _check_untouched(self, model: HookedModel, layers: Mapping[int, Delta]) -> None:
        for layer in layers:
            if layer in self._written and not torch.equal(output_weights(model, layer), self._written[layer]):
                raise ModelStateError(f"W_out of layer {layer} was changed by something else since an edit was written; undo that change first.")


def ledger_of(model: HookedModel) -> WeightLedger:
    """The model's ledger, opened at the first use."""
    if model not in _ledgers or not len(_ledgers[model]):
        _ledgers[model] = WeightLedger(unedited_fingerprint(model))
    return _ledgers[model]


def written_keys(model: HookedModel, layer: int) -> list[Float[torch.Tensor, "fact d_mlp"]]:
    """The keys of all edits that are written into a layer of the model, in the order they came."""
    return _ledgers[model].keys(layer) if model in _ledgers else []


def has_written_edits(model: HookedModel) -> bool:
    """Whether anything is written through the model's ledger now."""
    return model in _ledgers and len(_ledgers[model]) > 0


def unedited_fingerprint(model: HookedModel) -> str:
    """`weight_fingerprint` of the model as it was before anything was written through its ledger."""
    if has_written_edits(model):
        return _ledgers[model].fingerprint
    changes = _changes(model)
    if _fingerprints.get(model, (-1, ""))[0] != changes:
        _fingerprints[model] = (changes, weight_fingerprint(model))
    return _fingerprints[model][1]


def _changes(model: HookedModel) -> int:
    """How often any parameter was written to, as torch counts it."""
    return sum(int(parameter._version) for parameter in model.parameters())
