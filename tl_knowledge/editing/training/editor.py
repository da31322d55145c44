"""A trained editor as a value and as one file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Int64
from typing_extensions import override

from tl_knowledge.editing.training.curve import TrainingCurve
from tl_knowledge.editing.training.seen import unseen
from tl_knowledge.models.ledger import check_made_for
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result
from tl_knowledge.wording import counted

__all__ = ["TrainedEditor"]


@dataclass(frozen=True, eq=False)
class TrainedEditor(Result):
    """What `MEND`, `KE` and `SERAC` have learnt: networks for the weights of one model.

    Attributes:
        method: the method's name.
        settings: the method's settings, as plain data.
        networks: every trained weight and every running statistic, by name.
        fingerprint: of the model's weights that it was trained for.
        facts: digests of the facts (subject and relation) of its training and validation.
        curve: how the training went.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "norm"
    method: str
    settings: dict[str, Any]
    networks: dict[str, torch.Tensor]
    fingerprint: str
    facts: Int64[torch.Tensor, " fact"]
    curve: TrainingCurve
    provenance: Provenance

    @cached_property
    def digest(self) -> str:
        """Changes when any bit of the networks does, or the model they are for."""
        hashed = hashlib.sha256(f"{self.method} {self.fingerprint}".encode())
        for name, weights in sorted(self.networks.items()):
            hashed.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
            hashed.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()[:16]

    def check(self, model: HookedModel) -> None:
        """Refuse a model whose own weights are not those that the editor was trained for.

        Raises:
            ModelStateError: other weights.
        """
        check_made_for(model, self.fingerprint, self.method, f"{self.provenance.model!r} in {self.provenance.dtype}")

    def unseen(self, cases: Iterable[EditCase]) -> list[EditCase]:
        """The cases whose fact (subject and relation) it was neither trained nor validated on."""
        return unseen(cases, self.facts)

    @override
    def headline(self) -> str:
        """The method, the training's outcome and the model."""
        return f"{counted(len(self.facts), 'fact')}; {self.curve.headline()}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """One row a tensor: its name, number of weights and norm."""
        rows = [{"name": name, "weights": each.numel(), "norm": float(each.double().norm())} for name, each in self.networks.items()]
        return pd.DataFrame(rows, columns=["name", "weights", "norm"])

    def plot(self) -> go.Figure:
        """The training's curve."""
        return self.curve.plot()
