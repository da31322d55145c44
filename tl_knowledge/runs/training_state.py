"""What is trained and how far that has come: kept in a folder, from which a training goes on after a kill, to the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from tl_knowledge.errors import DataError
from tl_knowledge.results.storage import read_result, write_result

__all__ = ["Trainable", "TrainingState"]

KIND = "TrainingState"
FILE = "state.safetensors"


@runtime_checkable
class Trainable(Protocol):
    """What a training asks of what it trains; every ``torch.nn.Module`` has all but the last."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What is trained."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Every trained weight and every running statistic, by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """Take such a state."""
        ...

    def parameter_groups(self) -> list[dict[str, object]]:
        """As Adam takes them, where some have a learning rate of their own."""
        ...


@dataclass
class TrainingState:
    """Everything that decides how a training goes on. What is drawn is not here: it follows from the seed and the step.

    Attributes:
        step: how many are done.
        best_step, best_loss: of the smallest validation loss so far; its networks are ``best``.
        rows: of the curve.
    """

    network: Trainable
    optimiser: torch.optim.Optimizer
    step: int = 0
    best_step: int = 0
    best_loss: float = float("inf")
    best: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def remember_best(self, loss: float) -> None:
        """Take the networks as they are now for the best."""
        self.best_step, self.best_loss = self.step, loss
        self.best = {name: each.detach().cpu().clone() for name, each in self.network.state_dict().items()}

    def write(self, folder: Path) -> Path:
        """One file, in one step."""
        tensors = {f"network.{name}": each for name, each in self.network.state_dict().items()} | {f"best.{k}": v for k, v in self.best.items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in moments.items()}
        fields = {"step": self.step, "best_step": self.best_step, "best_loss": self.best_loss, "rows": self.rows}
        return write_result(folder / FILE, KIND, tensors, fields)

    def read(self, folder: Path) -> None:
        """Go on from what a folder holds, if it holds anything.

        Raises:
            DataError: it is damaged, or of other networks.
        """
        path = folder / FILE
        if not path.is_file():
            return
        tensors, fields = read_result(path, KIND)
        parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "best": {}, "adam": {}}
        for name, each in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = each
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, each in parts["adam"].items():
            number, _, what = name.partition(".")
            moments.setdefault(int(number), {})[what] = each
        try:
            self.network.load_state_dict(parts["network"])
            self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        except (RuntimeError, ValueError) as error:
            raise DataError(f"{str(path)!r} is of other networks ({str(error)[:200]}); pass a new folder.") from error
        self.step, self.best_step, self.best_loss, self.rows = (fields[name] for name in ("step", "best_step", "best_loss", "rows"))
        self.best = parts["best"]
