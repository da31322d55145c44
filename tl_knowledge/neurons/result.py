"""Scores of neurons: what `attribute_neurons` gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.drawing import HeatMap, heat_maps
from tl_knowledge.neurons.settings import AttributionSettings
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.wording import counted

__all__ = ["NeuronAttribution"]

RANKS_DRAWN = 20


@dataclass(frozen=True, eq=False)
class NeuronAttribution(Result):
    """Scores of every neuron at one position.

    Attributes:
        scores: ``[prompt layer d_mlp]``, in the metric, the answer's probability by default (activations for ``method="activation"``).
        completeness_gap: ``[prompt layer]``: ``|sum of the layer's scores - (m(w) - m(baseline))|`` of the metric ``m``, which vanishes as the
            steps grow; NaN for ``method="activation"``.
        clean_probability: ``[prompt]`` of the answer.
        layers: the layer numbers of the layer axis.
        n_layers: of the model.
        prompts, targets: as text.
        settings: how the scores were computed.
        provenance: what they were computed with.
    """

    ranked_by: ClassVar[str] = "score"
    scores: Float[torch.Tensor, "prompt layer d_mlp"]
    completeness_gap: Float[torch.Tensor, "prompt layer"]
    clean_probability: Float[torch.Tensor, " prompt"]
    layers: tuple[int, ...]
    n_layers: int
    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    settings: AttributionSettings
    provenance: Provenance

    @property
    def mean_scores(self) -> Float[torch.Tensor, "layer d_mlp"]:
        """Scores averaged over prompts."""
        return self.scores.mean(0)

    @property
    def r1_squared(self) -> float:
        """``R1^2 = (s1^2 - 1) / (n - 1)`` (Niu et al. 2024), ``s1`` the largest singular value of the scores with every prompt's scaled to length 1.

        0 where the ``n`` prompts' scores are orthogonal, 1 where they are one pattern; NaN for one prompt, or scores that are all zero.
        """
        flat = self.scores.double().flatten(1)
        lengths = flat.norm(dim=1, keepdim=True)
        if len(flat) < 2 or not bool((lengths > 0).all()):
            return float("nan")
        flat = flat / lengths
        return (float(torch.linalg.eigvalsh(flat @ flat.T)[-1]) - 1) / (len(flat) - 1)

    def headline(self) -> str:
        """How many neurons were scored for what answer."""
        _, layers, width = self.scores.shape
        return (
            f"{self.settings}: {counted(layers, 'layer')} x {counted(width, 'neuron')}, {counted(len(self.prompts), 'prompt')} for "
            f"{self._answers()[:30]!r}; {self.provenance.model}"
        )

    def of_prompts(self, rows: Iterable[int]) -> NeuronAttribution:
        """The same for some of the prompts, by number."""
        kept = list(rows)
        tensors = {name: getattr(self, name)[kept] for name in ("scores", "completeness_gap", "clean_probability")}
        return replace(self, **tensors, prompts=tuple(self.prompts[i] for i in kept), targets=tuple(self.targets[i] for i in kept))

    def to_dataframe(self) -> pd.DataFrame:
        """One row a neuron: layer, neuron, mean score over prompts, and in how many prompts it is positive."""
        mean, positive = self.mean_scores, (self.scores > 0).sum(0)
        layer, neuron = (axis.ravel() for axis in np.indices(tuple(mean.shape)))
        columns = {"layer": np.array(self.layers)[layer], "neuron": neuron, "score": mean.ravel().numpy(), "positive": positive.ravel().numpy()}
        return pd.DataFrame(columns)

    def plot(self) -> go.Figure:
        """Each layer's largest mean scores: layers by rank; the neuron's number is in the hover text."""
        ranked = self.mean_scores.sort(dim=1, descending=True).values[:, :RANKS_DRAWN]
        columns, rows = [str(rank + 1) for rank in range(ranked.shape[1])], [str(layer) for layer in self.layers]
        chart = HeatMap(ranked.numpy(), rows, columns, "", "layer", "rank of the neuron in its layer", colours="MLP")
        subtitle = f"mean over {counted(len(self.prompts), 'prompt')} for {self._answers()!r}; {self.settings.method}; {self.provenance.model}"
        metric, what = self.settings.metric, "activation" if self.settings.method == "activation" else f"score ({self.settings.metric.measured_in})"
        answer = "the answer's probability" if metric == PROBABILITY else metric.of_answer()
        return heat_maps([chart], title=f"Attribution of {answer} to neurons", subtitle=subtitle, colour_axis=what)

    def _answers(self) -> str:
        return ", ".join(sorted({target.strip() for target in self.targets}))[:60]
