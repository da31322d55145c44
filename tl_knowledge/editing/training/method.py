"""What every editing method that is trained has: `train`, a file, and the refusal of cases that it has seen."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

import pandas as pd
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.training.curve import CURVE_COLUMNS, TrainingCurve
from tl_knowledge.editing.training.editor import TrainedEditor
from tl_knowledge.editing.training.outcome import Outcome, Sample
from tl_knowledge.editing.training.samples import TrainingData
from tl_knowledge.editing.training.seen import refuse_seen
from tl_knowledge.editing.training.settings import TrainingSettings
from tl_knowledge.editing.training.trainer import Trainer
from tl_knowledge.errors import DataError, InputError, ModelStateError, NumericalError
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.digest import values_of
from tl_knowledge.results.packing import unpack_file
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.training_state import Trainable

__all__ = ["TrainedMethod"]

Method = TypeVar("Method", bound="TrainedMethod")  # typing.Self is refused by the test suite's type checker

SMALL_TRAINING = TrainingSettings(steps=8, learning_rate=1e-3, accumulate=2, validate_every=4, validation_samples=2)


@dataclass(frozen=True)
class TrainedMethod(EditMethod):
    """Settings of a method that is trained, and once it is (`train`, `load`) what it has learnt.

    A subclass has `network`, what is trained, and ``_outcome``, what its edits do.

    Attributes:
        training: how it is trained.
        editor: digest of what was learnt; nothing before. It stands here so that settings with other networks are other settings.
        untrained: settings that may be others than it was trained with.
        data: how what it reads is drawn.

    Raises:
        InputError: an ``editor`` that was not read from a file, or other settings than it was trained with.
    """

    needs_training: ClassVar[bool] = True
    untrained: ClassVar[tuple[str, ...]] = ()
    data: ClassVar[type[TrainingData]] = TrainingData

    training: TrainingSettings = field(default_factory=TrainingSettings, kw_only=True)
    editor: str = field(default="", kw_only=True)
    _trained: TrainedEditor | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.editor != ("" if self._trained is None else self._trained.digest):
            raise InputError(f"editor={self.editor!r} names networks that are not here; read them with {type(self).__name__}.load(path).")
        if self._trained is not None:
            own, learnt = values_of(self), self._trained.settings
            other = [name for name in learnt if name not in self.untrained and own[name] != learnt[name]]
            if other:
                raise InputError(f"the networks were trained with other {', '.join(other)} than these settings have; train anew with these.")

    @abstractmethod
    def network(self, model: HookedModel) -> Trainable:
        """What is trained before it is, the same for the same ``training.seed``."""

    @abstractmethod
    def _outcome(self, model: HookedModel, network: Trainable, samples: Sequence[Sample], learn: bool) -> Outcome | None:
        """What edits do; ``None`` where none can be made yet.

        Args:
            network: of these settings.
            samples: the edits, how they are asked about, and what they should leave alone.
            learn: whether the samples count for running statistics, and gradients are wanted.
        """

    @classmethod
    @override
    def small(cls: type[Method]) -> Method:
        return replace(super().small(), training=SMALL_TRAINING)

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
        fresh = replace(self, editor="", _trained=None)
        network, data = fresh.network(model), self.data.checked(model, cases, validation, corpus, self.training)
        name = type(self).__name__
        with ExitStack() as stack:
            folder = None
            if store is not None:
                key = {"weights": unedited_fingerprint(model), **data.key, "settings": {"method": name} | values_of(fresh)}
                folder = stack.enter_context(closing(RunFolder(store, key, f"{name}.train()"))).directory
            state = Trainer(name, network, partial(fresh._outcome, model, network), data, folder, progress).run()
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
        settings = {key: value for key, value in values_of(self).items() if key != "editor"}
        return replace(self.trained, settings=settings).save(path)

    @classmethod
    def load(cls: type[Method], path: str | os.PathLike[str]) -> Method:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, or another method's.
        """
        editor = TrainedEditor.load(path)
        if editor.method != cls.__name__:
            raise DataError(f"{os.fspath(path)!r} holds a trained {editor.method}, not a {cls.__name__}; load it with {editor.method}.load().")
        return cls.of_file(editor, path)

    @classmethod
    def of_file(cls: type[Method], editor: TrainedEditor, path: str | os.PathLike[str]) -> Method:
        """The method of what was read from a file, which an error names.

        Raises:
            DataError: settings of another version.
        """
        return unpack_file(cls, editor.settings, {}, path).with_editor(editor)

    def check_cases(self, cases: Sequence[EditCase]) -> None:
        """Refuse to be evaluated on facts of the training, or of its validation; `evaluate` asks.

        Raises:
            InputError: one of them is, or nothing was learnt yet.
        """
        name = type(self).__name__
        what = f"cases are of facts (subject and relation) that this {name} was trained or validated on"
        refuse_seen(cases, self.trained.facts, what, "leave them out: method.trained.unseen(cases)")
