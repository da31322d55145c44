"""Edits that change no weight and no activation, but what is read: by which model, and behind which context."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from itertools import islice

import torch
from jaxtyping import Int
from typing_extensions import override

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.health import EditHealth
from tl_knowledge.editing.planned import PlannedEdit
from tl_knowledge.engine.batches import perplexity
from tl_knowledge.errors import InputError, ModelStateError, UnsupportedModelError
from tl_knowledge.lock import model_lock
from tl_knowledge.models.protocol import HookedModel, context_length, is_masked, model_name
from tl_knowledge.models.reread import Read, as_it_is, check_calls, match_readers
from tl_knowledge.models.routed import is_on, put_on, take_off
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["RereadEdit"]


class RereadEdit(PlannedEdit):
    """An edit that decides row by row what is read: ``write_into`` has the model's own ``forward`` and ``generate`` ask it, and `revert` ends that.

    While it is on the model:

    - ``model(tokens)`` reads every row as the edit says, by all of the row's tokens, and gives logits of the row's own positions;
    - ``generate`` decides by the prompt, once, and goes on from what was read; with a cache or without;
    - `evaluate`, `read_answers`, perplexities and generation scores decide by the prompt and read the answer behind it;
    - hooks, and all that stands on them (tracing, attribution, ``run_with_cache``, planning another method), are refused: a position would be
      another token. So are masks, caches from outside, and a start or stop at a layer. A bridge's ``original_model`` knows nothing of the edit.

    It counts as part of the model: results that are made then carry another fingerprint. A subclass is a frozen dataclass with the fields of
    `PlannedEdit`, a ``_key`` as `Edit` has it, and its own tensors.
    """

    _key: object

    @abstractmethod
    def reads(self, model: HookedModel, tokens: Int[torch.Tensor, " pos"]) -> Read:
        """How a row of tokens is read."""

    @abstractmethod
    def digest(self) -> str:
        """Changes when anything that it does changes."""

    def hooks(self) -> Hooks:
        """There are none: an edit of what is read cannot be hooks.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.method} changes what is read, so it has no hooks; use `with edit.applied(model):`, or edit.write_into(model).")

    @override
    def health(self, model: HookedModel, corpus: Iterable[str] = (), *, limit: int = 100) -> EditHealth:
        """The perplexity of ordinary text before and after; no layer changes.

        Args:
            model: the model without this edit.
            corpus: ordinary text, of which only what fits behind the context is read; no perplexity is measured without.
            limit: how many of them, at most.

        Raises:
            ModelStateError: the edit is on the model, or was planned for other weights.
        """
        self.check_not_written(model)
        prompts = [Prompt.from_text(model, text) for text in islice(corpus, limit)]
        lengths = [len(prompt) + len(self.reads(model, prompt.tokens[0]).context) for prompt in prompts]
        prompts = [prompt for prompt, length in zip(prompts, lengths, strict=True) if len(prompt) > 1 and length <= context_length(model)]
        if not prompts:
            return EditHealth((), (), float("nan"), float("nan"))
        before = perplexity(model, prompts, [])
        with self.applied(model):
            return EditHealth((), (), before, perplexity(model, prompts, []))

    def text_read(self, model: HookedModel, prompt: Prompt) -> str:
        """What is read in a prompt's place under this edit alone; special tokens are left out."""
        with as_it_is(model):
            read = self.reads(model, prompt.tokens[0])
        own = prompt.tokens[0].tolist()
        start = int(prompt.has_bos)
        first = own[start : start + 1] if read.first is None else [read.first]
        return str(model.tokenizer.decode([*read.context.tolist(), *first, *own[start + 1 :]], skip_special_tokens=True))

    @override
    def write_into(self, model: HookedModel) -> None:
        """Have the model read as the edit says, until `revert`.

        Raises:
            ModelStateError: as `applied`.
            UnsupportedModelError: a model that reads in both directions.
        """
        if is_masked(model):
            raise UnsupportedModelError(f"{self.method} puts a context before the prompt, and {model_name(model)} fills masks; edit its weights.")
        with model_lock(model):
            self.check(model)
            if self.is_written_into(model):
                raise ModelStateError("this edit is already on the model; revert(model) takes it off first.")
            try:
                put_on(model, self._key, self, self.digest())
                match_readers(model)
            except BaseException:
                if self.is_written_into(model):
                    self._take_off(model)
                raise

    @override
    def revert(self, model: HookedModel) -> None:
        """Have the model read as before.

        Raises:
            ModelStateError: the edit is not on it, or somebody else has replaced the model's ``forward`` since.
        """
        with model_lock(model):
            if is_on(model, self._key):
                check_calls(model)
            self._take_off(model)

    @override
    def is_written_into(self, model: HookedModel) -> bool:
        """Whether the model reads as the edit says now."""
        return is_on(model, self._key)

    def _take_off(self, model: HookedModel) -> None:
        """All of it; an interrupt does not stop it half-way."""
        try:
            take_off(model, self._key)
        finally:
            if self.is_written_into(model):
                take_off(model, self._key)
            match_readers(model)
