"""Affine maps from one layer's states to another's: what carries a state across layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import InputError, ModelStateError, NumericalError
from tl_knowledge.models.hook_names import state_hook
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.runs.corpus_tokens import activations_of, token_rows
from tl_knowledge.runs.lenses import state_layers
from tl_knowledge.states.layer_maps import LayerMaps
from tl_knowledge.wording import counted

__all__ = ["AffineMaps", "fit_affine_maps"]

TOKENS_A_DIMENSION = 20
TEXTS_AT_ONCE = 16
LEAST_SHARE = 1e-12  # directions of less than this share of the largest variance say nothing


@dataclass(frozen=True, eq=False)
class AffineMaps(LayerMaps):
    """``f_l(h) = h A_l + b_l``: states after layer ``l`` as states after another; `decode_states` and, into the last layer, `logit_lens` take them.

    Attributes:
        layers: after which states are taken, one a map; ``-1`` is the embeddings.
        weights: ``A``, ``[map d_model d_model]``, from the second axis to the third.
        biases: ``b``, ``[map d_model]``.
        explained: of the variance of the states that are mapped to, the share that each map explains on the texts that it was fitted on.
        into_layer: after which layer they go.
        tokens: how many they were fitted on.
        fingerprint: of the weights of the model that they were fitted on.
        provenance: the model, the versions.
    """

    called: ClassVar[str] = "map"
    ranked_by: ClassVar[str] = "explained"
    layers: tuple[int, ...]
    weights: Float[torch.Tensor, "map d_model d_model"]
    biases: Float[torch.Tensor, "map d_model"]
    explained: Float[torch.Tensor, " map"]
    into_layer: int
    tokens: int
    fingerprint: str
    provenance: Provenance

    def headline(self) -> str:
        """From where to where, of which model."""
        return (
            f"states after {len(self.layers)} layers as states after layer {self.into_layer}, fitted on "
            f"{counted(self.tokens, 'token')}; {self.provenance.model}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a map: the share of the variance that it explains."""
        return pd.DataFrame({"layer": self.layers, "explained": self.explained.tolist()})

    def plot(self) -> go.Figure:
        """Bars: the share of the variance that each map explains."""
        return bar_chart(
            ["embeddings" if layer < 0 else f"layer {layer}" for layer in self.layers],
            self.explained.tolist(),
            title=f"How well earlier states give the state after layer {self.into_layer}",
            subtitle=f"affine maps, least squares over {counted(self.tokens, 'token')}, which they were fitted on; {self.provenance.model}",
            value_axis="share of the variance explained",
        )


@public
def fit_affine_maps(
    model: AnyModel,
    corpus: Iterable[str],
    *,
    layers: int | Iterable[int] | None = None,
    into_layer: int | None = None,
    tokens: int | None = None,
    progress: bool = True,
) -> AffineMaps:
    """Affine maps from states after some layers to states after another of the same token, by least squares (Ghandeharioun et al. 2024, section 4.1).

    ``min over A, b of sum over tokens |h_l A + b - h_into|^2``, solved in float64 from second moments.

    Args:
        corpus: texts; longer ones than the context are cut.
        layers: after which; all below ``into_layer`` when ``None``.
        into_layer: where the states go; the last layer when ``None``.
        tokens: how many to read; twenty for each dimension of the stream when ``None``. Fewer are read when the corpus ends.

    Raises:
        DataError: a corpus without a token.
        ComponentError: a layer that the model does not have.
        InputError: tokens below 1, or fewer than a map has to be told from (one more than the stream has dimensions); or a model without a tokenizer.
        ModelStateError: edits are written into the model.
        NumericalError: states that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> maps = tlk.states.fit_affine_maps(model, tlk.load_corpus(), layers=[3, 6], tokens=1000, progress=False)
        >>> bool(maps.explained[0] < maps.explained[1])
        True
    """
    model = as_model(model, without_mlps=True)
    if has_written_edits(model):
        raise ModelStateError("edits are in the model, so the maps would be theirs and taken for the model's own; revert(model) the edits first.")
    into = layer_count(model) - 1 if into_layer is None else into_layer
    state_layers(model, into)
    read = state_layers(model, range(-1, into) if layers is None else layers)
    d_model = int(model.cfg.d_model)
    wanted = TOKENS_A_DIMENSION * d_model if tokens is None else tokens
    if wanted < 1:
        raise InputError(f"tokens={tokens} reads nothing; pass at least 1, better {TOKENS_A_DIMENSION} for each of the {d_model} dimensions.")
    rows = token_rows(model, corpus, wanted)
    moments = _Moments(read, into, d_model)
    with progress_bar(what="affine maps", unit="token", progress=progress, total=sum(row.shape[1] for row in rows)) as bar:
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            bar.update(moments.add(model, rows[start : start + TEXTS_AT_ONCE]))
    if moments.tokens <= d_model:
        raise InputError(
            f"{counted(moments.tokens, 'token')} do not tell a map of {d_model} dimensions and a bias; pass more texts, or a larger tokens=."
        )
    weights, biases, explained = moments.solved(next(iter(model.parameters())).dtype)
    provenance = provenance_of(model, engine="one pass", layers=list(read), into_layer=into)
    return AffineMaps(read, weights, biases, explained, into, moments.tokens, unedited_fingerprint(model), provenance)


class _Moments:
    """Sums of products of states with a one behind them, in float64."""

    def __init__(self, layers: tuple[int, ...], into: int, d_model: int) -> None:
        self.layers, self.into, self.tokens = layers, into, 0
        zero = torch.zeros(d_model + 1, d_model + 1, dtype=torch.float64)
        self.own = {layer: zero.clone() for layer in layers}
        self.across = {layer: zero.clone() for layer in layers}
        self.target = zero.clone()

    def add(self, model: HookedModel, rows: Sequence[torch.Tensor]) -> int:
        """Add some texts' states; how many tokens that were."""
        names = {layer: state_hook(layer) for layer in {*self.layers, self.into}}
        read = activations_of(model, rows, tuple(names.values()), names[max(names)])
        wide = {layer: torch.nn.functional.pad(read[name].double(), (0, 1), value=1.0) for layer, name in names.items()}
        if not all(bool(states.isfinite().all()) for states in wide.values()):
            raise NumericalError("the states are not finite; check the weights for NaN, or load the model in float32.")
        target = wide[self.into]
        for layer in self.layers:
            self.own[layer] += (wide[layer].T @ wide[layer]).cpu()
            self.across[layer] += (wide[layer].T @ target).cpu()
        self.target += (target.T @ target).cpu()
        self.tokens += len(target)
        return len(target)

    def solved(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The maps' weights and biases, and what they explain."""
        weights, biases, explained = list[torch.Tensor](), list[torch.Tensor](), list[float]()
        mean_to, spread_to = _centred(self.target, self.target, self.tokens)
        for layer in self.layers:
            mean, spread = _centred(self.own[layer], self.own[layer], self.tokens)
            _, across = _centred(self.own[layer], self.across[layer], self.tokens)
            across = across if layer != self.into else spread_to
            variances, directions = torch.linalg.eigh(spread)
            kept = variances > LEAST_SHARE * variances.max()
            directions = directions[:, kept]
            weight = directions @ ((directions.T @ across) / variances[kept, None])
            weights.append(weight)
            biases.append(mean_to - mean @ weight)
            explained.append(float((weight * across).sum() / spread_to.trace()))
        wide = torch.promote_types(dtype, torch.float32)
        return torch.stack(weights).to(wide), torch.stack(biases).to(wide), torch.tensor(explained, dtype=torch.float64)


def _centred(own: torch.Tensor, across: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of what is mapped, and the products around both means."""
    mean, other = own[-1, :-1] / count, across[-1, :-1] / count
    return mean, across[:-1, :-1] - count * torch.outer(mean, other)
