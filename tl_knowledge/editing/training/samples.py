"""What each step of a training reads: a pure function of the seed and the step, so that a run goes on as it would have gone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from tl_knowledge.arrays import Tokens
from tl_knowledge.editing.training.outcome import Sample
from tl_knowledge.editing.training.seen import fact_digests, refuse_seen
from tl_knowledge.editing.training.settings import TrainingSettings
from tl_knowledge.errors import DataError, check_given
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.digest import digest
from tl_knowledge.results.packing import plain
from tl_knowledge.runs.corpus_tokens import text_rows

__all__ = ["TrainingData"]


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Edits and unrelated texts.

    Attributes:
        cases: to learn from.
        validation: to choose the best networks by, and when to stop; of other facts.
        texts: tokens of each text, ``[1 pos]``.
    """

    model: HookedModel
    cases: tuple[EditCase, ...]
    validation: tuple[EditCase, ...]
    texts: tuple[torch.Tensor, ...]
    settings: TrainingSettings

    @classmethod
    def checked(
        cls, model: HookedModel, cases: Iterable[EditCase], validation: Iterable[EditCase], corpus: Iterable[str], settings: TrainingSettings
    ) -> TrainingData:
        """The data of a training, all of it read once.

        Raises:
            DataError: no case, no validation case, or no text of two tokens.
            InputError: a fact that is in both sets, or a case that does not fit the model.
        """
        own = check_given(cases, "training case", "pass edit cases that are not evaluated, such as load_training_data('factlm').cases")
        held = check_given(validation, "validation case", "pass some that are not trained on, such as validation=cases[-100:] and cases[:-100]")
        remedy = "a validation is of facts that are not trained on; take them out of one of the two"
        refuse_seen(held, fact_digests(own), "validation cases are of facts that are trained on", remedy)
        for case in (*own, *held):
            for fact in (case.rewrite, *(each.retarget(case.target_new) for each in case.paraphrases)):
                check_fits(model, Prompt.from_fact(model, fact), multi_token=True)
        rows = text_rows(model, corpus, settings.text_tokens)
        texts = tuple(islice((row for row in rows if row.shape[1] > 1), settings.texts))
        if not texts:
            raise DataError("the corpus has no text of two tokens or more; pass texts, for example load_corpus().")
        return cls(model, own, held, texts, settings)

    @property
    def key(self) -> dict[str, str]:
        """What makes two trainings' data the same, as digests."""
        texts = [each[0].tolist() for each in self.texts]
        return {"cases": _digest(self.cases), "validation": _digest(self.validation), "texts": digest(texts)}

    @property
    def facts(self) -> torch.Tensor:
        """Digests of all facts, of the training and the validation."""
        return fact_digests((*self.cases, *self.validation))

    def step(self, number: int) -> list[Sample]:
        """What a step of the training reads."""
        draw = random.Random(f"{self.settings.seed}/{number}")
        return [self._drawn(self.cases, draw) for _ in range(self.settings.batch_size)]

    def validations(self) -> list[list[Sample]]:
        """What every validation reads, in batches: the first cases, each with a wording and a text of its own."""
        held, size = self.validation[: self.settings.validation_samples], self.settings.batch_size
        samples = [self._drawn((case,), random.Random(f"{self.settings.seed}/validation/{i}")) for i, case in enumerate(held)]
        return [samples[i : i + size] for i in range(0, len(samples), size)]

    def _drawn(self, cases: Sequence[EditCase], draw: random.Random) -> Sample:
        case = draw.choice(cases)
        asked = draw.choice((case.rewrite, *(each.retarget(case.target_new) for each in case.paraphrases)))
        return Sample(Prompt.from_fact(self.model, case.rewrite), Prompt.from_fact(self.model, asked), self.apart_from(case, draw))

    def apart_from(self, case: EditCase, draw: random.Random) -> Tokens:
        """A text that a case's edit should leave alone."""
        return draw.choice(self.texts)


def _digest(cases: Sequence[EditCase]) -> str:
    return digest([plain(case) for case in cases])
