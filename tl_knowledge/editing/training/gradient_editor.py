"""Editing methods that are trained to turn the gradient of a new target into a change of some matrices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.optimise.gradient_factors import target_gradients
from tl_knowledge.editing.training.editor import TrainedEditor
from tl_knowledge.editing.training.method import TrainedMethod
from tl_knowledge.editing.training.network import EditNetwork
from tl_knowledge.editing.training.outcome import Outcome, Sample, mean_outcome, outcome_of
from tl_knowledge.errors import InputError
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.matrices import BlockMatrix, Matrix, check_matrices
from tl_knowledge.models.matrix_sites import matrix_sites
from tl_knowledge.models.protocol import HookedModel, model_device
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.key_moments import KeyMoments
from tl_knowledge.runs.training_state import Trainable

__all__ = ["GradientEditor"]

_networks: WeakKeyDictionary[TrainedEditor, EditNetwork] = WeakKeyDictionary()


@public
@dataclass(frozen=True)
class GradientEditor(TrainedMethod):
    """A `TrainedMethod` whose networks change matrices by what the gradient of the target is.

    A subclass has `network`. Gradients are of the target's mean negative log-likelihood, prompt and target in one sequence. Several facts' changes
    are added up, each made on the model without the others.

    Attributes:
        layers: the blocks whose matrices are changed.
        matrices: which matrices of each.
        scale: what the whole change is multiplied by when it edits; not while it is trained.
        training, editor: as `TrainedMethod`.

    Raises:
        InputError: no layer or matrix, one twice, or as `TrainedMethod`.
        ComponentError: an unknown matrix.
    """

    untrained: ClassVar[tuple[str, ...]] = ("scale",)

    layers: tuple[int, ...]
    matrices: tuple[Matrix, ...] = ("W_in", "W_out")
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise InputError(f"layers={self.layers} changes nothing, or something twice; pass each once.")
        check_matrices(self.matrices)
        if not 0 < self.scale < float("inf"):
            raise InputError(f"scale={self.scale} leaves no edit; pass a positive number, such as 1.")
        super().__post_init__()

    @abstractmethod
    @override
    def network(self, model: HookedModel) -> EditNetwork:
        """The networks before they are trained, the same for the same ``training.seed``."""

    def places(self, model: HookedModel) -> tuple[BlockMatrix, ...]:
        """The matrices that it changes, layer by layer.

        Raises:
            ComponentError: a layer outside the model.
            UnsupportedModelError: a matrix that the model does not have, or that no hook can change.
        """
        found = tuple(BlockMatrix(layer, name) for layer in check_layers(model, self.layers) for name in self.matrices)
        for place in found:
            matrix_sites(model, place)
        return found

    @override
    def _outcome(self, model: HookedModel, network: Trainable, samples: Sequence[Sample], learn: bool) -> Outcome | None:
        assert isinstance(network, EditNetwork)
        places = self.places(model)
        outcomes = [outcome_of(model, network, sample, places, learn=learn) for sample in samples]
        return mean_outcome([each for each in outcomes if each is not None])

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts, in one backward pass each; moments are not needed.

        Raises:
            InputError: nothing was learnt yet.
            ModelStateError: it was trained for other weights.
            NumericalError: a change that is not finite.
        """
        self.trained.check(model)
        places, network = self.places(model), self._network(model)
        prompts = [Prompt.from_fact(model, fact) for fact in facts]
        gradients = target_gradients(model, prompts, places)
        with torch.no_grad():
            parts = [network.changes(prompt, gradient) for prompt, gradient in zip(prompts, gradients, strict=True)]
        changes: dict[BlockMatrix, LowRank] = {}
        for place in places:
            own = [part[place] for part in parts]
            changes[place] = LowRank(self.scale * torch.cat([each.left for each in own], dim=1), torch.cat([each.right for each in own]))
        notes = [{"subject": fact.subject, "loss": gradient.loss} for fact, gradient in zip(facts, gradients, strict=True)]
        return Edit.planned(model, self, changes, notes=notes)

    def _network(self, model: HookedModel) -> EditNetwork:
        """What was learnt, at work; built once."""
        editor, device = self.trained, model_device(model)
        if editor not in _networks:
            network = self.network(model)
            network.load_state_dict(editor.networks)
            _networks[editor] = network
        return _networks[editor].to(device)
