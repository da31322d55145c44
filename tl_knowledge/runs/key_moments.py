"""Second moments of the keys, ``C = E[k k^T]``: what rank-one editing must not disturb (Meng et al. 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result
from tl_knowledge.wording import counted

__all__ = ["KeyMoments", "needed_layers", "needed_moments"]

MOST_KEPT = 2**31  # bytes of eigenvectors


@runtime_checkable
class NeedsMoments(Protocol):
    """What says of which layers it needs moments: an editing method, or one that takes another's layers."""

    @property
    def moment_layers(self) -> tuple[int, ...] | None:
        """``None`` for all."""
        ...


@dataclass(frozen=True, eq=False)
class KeyMoments(Result):
    """``E[k k^T]`` of the keys (``mlp.hook_post``) in some layers.

    Attributes:
        moments: by layer, ``[d_mlp d_mlp]`` in float64.
        tokens: over how many tokens.
        change: by layer, the relative change ``||C - C_half|| / ||C||`` since half of the tokens: how far the mean has settled.
        fingerprint: of the weights they belong to.
        corpus: hash of the texts that were read.
        provenance: the model.
    """

    ranked_by: ClassVar[str] = "condition"
    moments: dict[int, Float[torch.Tensor, "d_mlp d_mlp"]]
    tokens: int
    change: dict[int, float]
    fingerprint: str
    corpus: str
    provenance: Provenance

    def solve(self, layer: int, keys: Float[torch.Tensor, "key d_mlp"]) -> Float[torch.Tensor, "key d_mlp"]:
        """``C^-1 k`` for every key, in float64.

        A neuron that never fires, neither for the collected tokens nor for a key, has no part in it: its entries are 0.

        Raises:
            InputError: the layer was not collected.
            NumericalError: the moments are singular (too few tokens, or none that makes one of a key's neurons fire) or not finite.
        """
        moment = self.of_layer(layer)
        keys, fires = keys.to(moment), self.firing(layer, keys)
        every = bool(fires.all())  # then nothing is copied
        factor, failed = torch.linalg.cholesky_ex(moment if every else moment[fires][:, fires])
        if int(failed) != 0:
            if not bool(moment.isfinite().all()):
                raise NumericalError(f"the second moments of layer {layer} have values that are not finite; collect them again.")
            raise NumericalError(
                f"the second moments of layer {layer} are singular: {counted(self.tokens, 'token')} for "
                f"{counted(int(fires.sum()), 'neuron')}; collect more with tokens=."
            )
        if every:
            return torch.cholesky_solve(keys.T, factor).T
        directions = torch.zeros_like(keys)
        directions[:, fires] = torch.cholesky_solve(keys[:, fires].T, factor).T
        return directions

    def firing(self, layer: int, keys: Float[torch.Tensor, "key d_mlp"]) -> Bool[torch.Tensor, " d_mlp"]:
        """Which neurons of a layer fired for any of the tokens.

        Raises:
            InputError: the layer was not collected, or has another number of neurons than the keys.
            NumericalError: a neuron fires for a key that never did: nothing in the moments spares it, and the whole edit would go there.
        """
        fires = _fires(self.of_layer(layer))
        if keys.shape[-1] != len(fires):
            raise InputError(f"the keys have {counted(keys.shape[-1], 'neuron')}, layer {layer} {len(fires)}; pass keys of this model and layer.")
        if bool((unseen := (keys.to(fires.device) != 0).any(0) & ~fires).any()):
            raise NumericalError(
                f"neuron {int(unseen.nonzero()[0])} of layer {layer} fires for a fact, but for none of the moments' {counted(self.tokens, 'token')}; "
                "collect more with tokens=."
            )
        return fires

    def of_layer(self, layer: int) -> Float[torch.Tensor, "d_mlp d_mlp"]:
        """One layer's moments.

        Raises:
            InputError: the layer was not collected.
        """
        if layer not in self.moments:
            raise InputError(f"layer {layer} was not collected; there are {sorted(self.moments)}: pass layers= to collect_key_moments().")
        return self.moments[layer]

    def eigenvectors(self, layer: int) -> tuple[Float[torch.Tensor, " d_mlp"], Float[torch.Tensor, "d_mlp d_mlp"]]:
        """Eigenvalues of one layer's moments, ascending, and their eigenvectors in columns.

        Computed once: they are kept for as long as the moments are, of as many layers as fit in two gigabytes, the latest ones first.

        Raises:
            InputError: the layer was not collected.
        """
        moment, kept = self.of_layer(layer), _eigenvectors.setdefault(self, {})
        known = kept.pop(layer, None)
        if known is None or known[0] != moment._version:
            known = (moment._version, *torch.linalg.eigh(moment))
        kept[layer] = known
        while sum(vectors.nbytes for *_, vectors in kept.values()) > MOST_KEPT:
            del kept[next(iter(kept))]
        return known[1:]

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

    def headline(self) -> str:
        """The layers, the tokens, and the model."""
        layers = ", ".join(map(str, sorted(self.moments)))
        return f"E[k k^T] of layer{'s' * (len(self.moments) != 1)} {layers} over {counted(self.tokens, 'token')}; {self.provenance.model}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer: neurons, those that fire, tokens, the change since half of the tokens, and the condition number of those that fire."""
        return self.summary().assign(condition=[_condition(moment) for _, moment in sorted(self.moments.items())])

    def summary(self) -> pd.DataFrame:
        """One row a layer without the condition number, which takes a while for large layers."""
        rows = [
            {"layer": layer, "neurons": len(moment), "firing": int(_fires(moment).sum()), "tokens": self.tokens, "change": self.change[layer]}
            for layer, moment in sorted(self.moments.items())
        ]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Lines: each layer's eigenvalues, the largest first; what lies low is free for `AlphaEdit` to write in."""
        lines: list[Line] = []
        for style, (layer, moment) in enumerate(sorted(self.moments.items())):
            values = torch.linalg.eigvalsh(moment).flip(0).tolist()
            lines.append(Line(f"layer {layer}", range(1, len(values) + 1), values, values, values, style=style))
        figure = line_panels(
            [LinePanel("", lines)],
            title="Second moments of the keys",
            subtitle=self.headline(),
            x_axis="direction",
            y_axis="eigenvalue of E[k k^T]",
        )
        return figure.update_yaxes(type="log")


def _fires(moment: Float[torch.Tensor, "d_mlp d_mlp"]) -> Bool[torch.Tensor, " d_mlp"]:
    """Which neurons fired for any of the tokens."""
    return moment.diagonal() != 0


def _condition(moment: Float[torch.Tensor, "d_mlp d_mlp"]) -> float:
    """How far apart the largest and the smallest eigenvalue are, of the neurons that fire."""
    fires = _fires(moment)
    values = torch.linalg.eigvalsh(moment[fires][:, fires])
    return float(values[-1] / values[0]) if len(values) and float(values[0]) > 0 else float("inf")


_eigenvectors: WeakKeyDictionary[KeyMoments, dict[int, tuple[int, torch.Tensor, torch.Tensor]]] = WeakKeyDictionary()
"""By layer: the version of the moments' tensor, which a change in place moves, eigenvalues and eigenvectors."""


def needed_layers(methods: Iterable[NeedsMoments]) -> tuple[int, ...] | None:
    """The layers whose moments some methods need; ``None`` where one needs all, and none at all where none needs any."""
    needed = [method.moment_layers for method in methods]
    return None if None in needed else tuple(sorted({layer for layers in needed for layer in layers or ()}))


def needed_moments(moments: KeyMoments | None, method: str) -> KeyMoments:
    """The moments of a method that cannot do without.

    Raises:
        InputError: none were passed.
    """
    if moments is None:
        raise InputError(f"{method} needs the second moments of the keys; pass moments=collect_key_moments(model, corpus).")
    return moments
