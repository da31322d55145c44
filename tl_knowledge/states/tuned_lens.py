"""The tuned lens: translators that carry each layer's states to the last one's (Belrose et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.states.layer_maps import LayerMaps
from tl_knowledge.states.lens_settings import LensSettings
from tl_knowledge.wording import counted

__all__ = ["TunedLens"]


@dataclass(frozen=True, eq=False)
class TunedLens(LayerMaps):
    """``lens_l(h) = unembed(norm(h A_l + b_l))``: `logit_lens` reads through it, `decode_states` carries states by it.

    Attributes:
        layers: after which states are taken, one translator each; ``-1`` is the embeddings.
        weights: ``A``, ``[translator d_model d_model]``, from the second axis to the third.
        biases: ``b``, ``[translator d_model]``.
        curve: ``step layer kl``: mean over the validation's tokens of ``KL(last layer || lens)`` in nats; step 0 is the logit lens.
        best_step: whose translators these are, those of the smallest validation KL.
        settings: how it was trained.
        validated_on: how many tokens.
        fingerprint: of the weights of the model that it was trained for.
        provenance: the model, the versions.
    """

    called: ClassVar[str] = "tuned lens"
    ranked_by: ClassVar[str] = "gain"
    layers: tuple[int, ...]
    weights: Float[torch.Tensor, "map d_model d_model"]
    biases: Float[torch.Tensor, "map d_model"]
    curve: pd.DataFrame
    best_step: int
    settings: LensSettings
    validated_on: int
    fingerprint: str
    provenance: Provenance

    def headline(self) -> str:
        """How long it was trained, and what came of it."""
        frame = self.to_dataframe()
        trained = f"tuned lens of {counted(len(self.layers), 'layer')}, step {self.best_step} of {self.settings.steps}"
        return f"{trained}: KL {frame['kl'].mean():.3g}, logit lens {frame['logit_lens_kl'].mean():.3g}; {self.provenance.model}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer: ``kl`` of the lens and of the logit lens on the validation (nats), and the difference, ``gain``."""
        at = {step: self.curve.loc[self.curve["step"] == step].set_index("layer")["kl"] for step in (0, self.best_step)}
        kl, before = ([float(at[step][layer]) for layer in self.layers] for step in (self.best_step, 0))
        gain = [plain - own for plain, own in zip(before, kl, strict=True)]
        return pd.DataFrame({"layer": self.layers, "kl": kl, "logit_lens_kl": before, "gain": gain})

    def plot(self) -> go.Figure:
        """Lines: KL to the last layer by layer, of the lens and of the logit lens; and the mean over layers by step."""
        frame = self.to_dataframe()
        by_layer = [_line("tuned lens", frame["layer"].tolist(), frame["kl"].tolist(), 0)]
        by_layer.append(_line("logit lens", frame["layer"].tolist(), frame["logit_lens_kl"].tolist(), 1))
        mean = self.curve.groupby("step")["kl"].mean()
        by_step = [_line("tuned lens", [int(step) for step in mean.index.tolist()], mean.tolist(), 0)]  # pyright: ignore
        panels = [LinePanel("by layer", by_layer, "KL (nats)"), LinePanel("mean over layers, by step", by_step, "KL (nats)")]
        subtitle = (
            f"KL(last layer || lens) on {counted(self.validated_on, 'token')} that it was not trained on; -1: embeddings; {self.provenance.model}"
        )
        figure = line_panels(panels, title="How far a lens is from what the model will say", subtitle=subtitle, x_axis="layer", y_axis="")
        return figure.update_xaxes(title_text="step", row=1, col=2)


def _line(name: str, x: list[int], y: list[float], style: int) -> Line:
    return Line(name, x, y, y, y, style=style)
