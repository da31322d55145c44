"""What MEND and KE train: networks that make an edit of a prompt and of its target's gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.optimise.gradient_factors import TargetGradient
from tl_knowledge.models.matrices import BlockMatrix
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["EditNetwork"]


class EditNetwork(torch.nn.Module, ABC):
    """All the networks of one method on one model."""

    @abstractmethod
    def changes(self, prompt: Prompt, gradient: TargetGradient) -> Mapping[BlockMatrix, LowRank]:
        """One edit's changes; gradients reach the networks' parameters.

        Args:
            prompt: of the edit, with its target.
            gradient: of the target's loss on the model as it is.
        """

    def see(self, gradient: TargetGradient) -> None:
        """Take an edit of the training into running statistics, where there are any."""

    @property
    def refusal(self) -> str:
        """Why no edit can be made yet; nothing where it can."""
        return ""

    def parameter_groups(self) -> list[dict[str, object]]:
        """As Adam takes them, where some have a learning rate of their own."""
        return [{"params": list(self.parameters())}]
