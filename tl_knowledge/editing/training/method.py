"""What every editing method that is trained has: `train`, a file, and a plan that its networks make."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, TypeVar
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.gradient_factors import target_gradients
from tl_knowledge.editing.training.curve import CURVE_COLUMNS, TrainingCurve
from tl_knowledge.editing.training.editor import TrainedEditor
from tl_knowledge.editing.training.network import EditNetwork
from tl_knowledge.editing.training.samples import TrainingData
from tl_knowledge.editing.training.seen import refuse_seen
from tl_knowledge.editing.training.settings import TrainingSettings
from tl_knowledge.editing.training.trainer import Trainer
from tl_knowledge.errors import ComponentError, DataError, InputError, ModelStateError, NumericalError, check_choice
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.matrices import MATRICES, BlockMatrix, Matrix, matrix_sites
from tl_knowledge.models.protocol import HookedModel, model_device
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.digest import values_of
from tl_knowledge.results.packing import unpack_file
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["TrainedMethod"]

Method = TypeVar("Method", bound="TrainedMethod")  # typing.Self is refused by the test suite's type checker

_networks: WeakKeyDictionary[TrainedEditor, EditNetwork] = WeakKeyDictionary()


@dataclass(frozen=True)
class TrainedMethod(EditMethod):
    """Settings of a method that is trained, and once it is (`train`, `load`) what it has learnt.

    A subclass has `network`: what is trained. Gradients are of the target's mean negative log-likelihood, prompt and target in one sequence. Several
    facts' changes are added up, each made on the model without the others.

    Attributes:
        layers: the blocks whose matrices are changed.
        matrices: which matrices of each.
        training: how it is trained.
        scale: what the whole change is multiplied by when it edits; not while it is trained.
        editor: digest of what was learnt; nothing before. It stands here so that settings with other networks are other settings.

    Raises:
        InputError: no layer or matrix, one twice, an ``editor`` that was not read from a file, or other settings than it was trained with.
        ComponentError: an unknown matrix.
    """

    needs_training: ClassVar[bool] = True

    layers: tuple[int, ...]
    matrices: tuple[Matrix, ...] = ("W_in", "W_out")
    training: TrainingSettings = field(default_factory=TrainingSettings)
    scale: float = 1.0
    editor: str = ""
    _trained: TrainedEditor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, values in (("layers", self.layers), ("matrices", self.matrices)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name}={values} changes nothing, or something twice; pass each once.")
        for matrix in self.matrices:
            check_choice("matrix", matrix, MATRICES, ComponentError)
        if not 0 < self.scale < float("inf"):
            raise InputError(f"scale={self.scale} leaves no edit; pass a positive number, such as 1.")
        if self.editor != ("" if self._trained is None else self._trained.digest):
            raise InputError(f"editor={self.editor!r} names networks that are not here; read them with {type(self).__name__}.load(path).")
        if self._trained is not None:
            own, learnt = values_of(self), self._trained.settings
            other = [name for name in learnt if name != "scale" and own[name] != learnt[name]]
            if other:
                raise InputError(f"the networks were trained with other {', '.join(other)} than these settings have; train anew with these.")

    @abstractmethod
    def network(self, model: HookedModel) -> EditNetwork:
        """The networks before they are trained, the same for the same ``training.seed``."""

    @classmethod
    @override
    def small(cls: type[Method]) -> Method:
        training = TrainingSettings(steps=8, learning_rate=1e-3, accumulate=2, validate_every=4, validation_samples=2)
        return cls(layers=(0, 2), training=training)

    @property
    def trained(self) -> TrainedEditor:
        """What was learnt.

        Raises:
            InputError: nothing yet.
        """
        if self._trained is None:
            name = type(self).__name__
            raise InputError(
                f"{name} edits with trained networks, and these settings have none; train them with "
                f"{name}.for_model(model).train(model, cases, corpus, validation=...), or read a file with {name}.load(path)."
            )
        return self._trained

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

    @public
    def train(
        self: Method,
        model: AnyModel,
        cases: Iterable[EditCase],
        corpus: Iterable[str],
        *,
        validation: Iterable[EditCase],
        store: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Method:
        """Train on edits of these cases; the model is never changed.

        The networks of the smallest validation loss are kept. With the same threads and device a run that was stopped and went on ends with the
        same weights as one that was not.

        Args:
            cases: to learn from, each with its new target; on their paraphrases, too, where they have some.
            corpus: unrelated texts, whose next tokens should stay what they are.
            validation: cases of other facts.
            store: a folder; a training that was killed goes on from its last validation.

        Returns:
            The same settings with what was learnt.

        Raises:
            DataError: no case, no validation case, no text, or a folder of another run.
            InputError: a fact that is in both sets, a case that does not fit the model, or steps that leave an update half-way.
            ModelStateError: edits are written into the model.
            NumericalError: a loss that is not finite; it says where the last good state is kept.

        Example:
            >>> import tl_knowledge as tlk
            >>> from tl_knowledge.editing import MEND, load_training_data
            >>> model, data = tlk.load_model("factlm"), load_training_data("factlm")
            >>> mend = MEND.small().train(model, data.cases[:20], data.corpus[:20], validation=data.validation[:2], progress=False)
            >>> tlk.plan_edit(model, tlk.load_edit_cases()[0].rewrite, mend)
            <Edit: MEND, W_in, W_out of layers 0, 2, 1 fact; factlm>
        """
        model = as_model(model)
        self.training.check_whole_updates()
        if has_written_edits(model):
            raise ModelStateError("edits are written into this model, so what is learnt would be for them; revert them first.")
        places, fresh = self.places(model), replace(self, editor="", _trained=None)
        data = TrainingData.checked(model, cases, validation, corpus, self.training)
        name = type(self).__name__
        with ExitStack() as stack:
            folder = None
            if store is not None:
                key = {"weights": unedited_fingerprint(model), **data.key, "settings": {"method": name} | values_of(fresh)}
                folder = stack.enter_context(closing(RunFolder(store, key, f"{name}.train()"))).directory
            state = Trainer(name, fresh.network(model), places, data, folder, progress).run()
        if not state.best:
            raise NumericalError(f"{name} saw fewer than two tokens with a gradient, so nothing was learnt; pass more steps or cases.")
        provenance = provenance_of(model, engine="outer training", seed=self.training.seed, settings=fresh, method=name)
        curve = TrainingCurve(pd.DataFrame(state.rows, columns=list(CURVE_COLUMNS)), name, provenance)
        settings = {key: value for key, value in values_of(fresh).items() if key != "editor"}  # a digest of what is not there yet
        return fresh.with_editor(TrainedEditor(name, settings, state.best, unedited_fingerprint(model), data.facts, curve, provenance))

    def with_editor(self: Method, editor: TrainedEditor) -> Method:
        """The same settings with what was learnt."""
        return replace(self, editor=editor.digest, _trained=editor)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what was learnt, with these settings, to one ``.safetensors`` file; returns the path."""
        return self.trained.save(path)

    @classmethod
    def load(cls: type[Method], path: str | os.PathLike[str]) -> Method:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or another method's.
        """
        editor = TrainedEditor.load(path)
        if editor.method != cls.__name__:
            raise DataError(f"{os.fspath(path)!r} holds a trained {editor.method}, not a {cls.__name__}; load it with {editor.method}.load().")
        return unpack_file(cls, editor.settings, {}, path).with_editor(editor)

    def check_cases(self, cases: Sequence[EditCase]) -> None:
        """Refuse to be evaluated on facts of the training, or of its validation; `evaluate` asks.

        Raises:
            InputError: one of them is, or nothing was learnt yet.
        """
        name = type(self).__name__
        what = f"cases are of facts (subject and relation) that this {name} was trained or validated on"
        refuse_seen(cases, self.trained.facts, what, "leave them out: method.trained.unseen(cases)")

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
