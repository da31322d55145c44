"""Second moments of the keys, ``C = E[k k^T]``: what rank-one editing must not disturb (ROME, section 3.1)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.storage import read_result, write_result

__all__ = ["KeyMoments", "needed_moments"]


@dataclass(frozen=True, eq=False)
class KeyMoments:
    """``E[k k^T]`` of the keys (``mlp.hook_post``) in some layers.

    Attributes:
        moments: by layer, ``[d_mlp d_mlp]`` in float64.
        tokens: over how many tokens.
        change: by layer, the relative change ``||C - C_half|| / ||C||`` since half of the tokens: how far the mean has settled.
        fingerprint: of the weights they belong to.
        corpus: hash of the texts that were read.
        provenance: the model.
    """

    moments: dict[int, Float[torch.Tensor, "d_mlp d_mlp"]]
    tokens: int
    change: dict[int, float]
    fingerprint: str
    corpus: str
    provenance: Provenance

    def solve(self, layer: int, keys: Float[torch.Tensor, "key d_mlp"]) -> Float[torch.Tensor, "key d_mlp"]:
        """``C^-1 k`` for every key, in float64.

        Raises:
            InputError: the layer was not collected.
            NumericalError: the moments are singular: too few tokens.
        """
        moment = self.of_layer(layer)
        factor, failed = torch.linalg.cholesky_ex(moment)
        if int(failed) != 0:
            raise NumericalError(
                f"the second moments of layer {layer} are singular: {self.tokens} tokens for {len(moment)} neurons; collect more with tokens=."
            )
        return torch.cholesky_solve(keys.to(moment).T, factor).T

    def of_layer(self, layer: int) -> Float[torch.Tensor, "d_mlp d_mlp"]:
        """One layer's moments.

        Raises:
            InputError: the layer was not collected.
        """
        if layer not in self.moments:
            raise InputError(f"layer {layer} was not collected; there are {sorted(self.moments)}: pass layers= to collect_key_moments().")
        return self.moments[layer]

    def only(self, layer: int) -> KeyMoments:
        """One layer of them.

        Raises:
            InputError: the layer was not collected.
        """
        return replace(self, moments={layer: self.of_layer(layer)}, change={layer: self.change[layer]})

    def check(self, model: HookedModel) -> None:
        """Refuse a model that these moments do not belong to; edits written since do not matter.

        Raises:
            InputError: other weights.
        """
        if unedited_fingerprint(model) != self.fingerprint:
            raise InputError(
                f"the moments belong to other weights (of {self.provenance.model!r}, {self.fingerprint}); "
                "collect this model's own with collect_key_moments()."
            )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer: neurons, tokens, condition number, and the change since half of the tokens."""
        rows: list[dict[str, Any]] = []
        for layer, moment in sorted(self.moments.items()):
            values = torch.linalg.eigvalsh(moment)
            condition = float(values[-1] / values[0]) if float(values[0]) > 0 else float("inf")
            rows.append({"layer": layer, "neurons": len(moment), "tokens": self.tokens, "condition": condition, "change": self.change[layer]})
        return pd.DataFrame(rows)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.safetensors`` file; returns the path."""
        tensors = {str(layer): moment for layer, moment in self.moments.items()}
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("tokens", "fingerprint", "corpus")}
        change = [[layer, value] for layer, value in self.change.items()]
        return write_result(path, "KeyMoments", tensors, fields | {"change": change, "provenance": self.provenance.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KeyMoments:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        tensors, fields = read_result(path, "KeyMoments")
        moments, change = {int(name): value for name, value in tensors.items()}, {int(layer): float(value) for layer, value in fields["change"]}
        return cls(moments, fields["tokens"], change, fields["fingerprint"], fields["corpus"], Provenance(**fields["provenance"]))


def needed_moments(moments: KeyMoments | None, method: str) -> KeyMoments:
    """The moments of a method that cannot do without.

    Raises:
        InputError: none were passed.
    """
    if moments is None:
        raise InputError(f"{method} needs the second moments of the keys; pass moments=collect_key_moments(model, corpus).")
    return moments
