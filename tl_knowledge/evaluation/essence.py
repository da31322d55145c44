"""Has an edit changed what its subject is? Perplexity of texts about the subject (Meng et al. 2022, "essence drift")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tl_knowledge.datasets import AttributeSnippets
from tl_knowledge.door import public
from tl_knowledge.engine.reading import logits_of_texts
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.evaluation.words import GenerationVariant
from tl_knowledge.models.checks import check_reads_on
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["EssenceDrift"]


@public
@dataclass(frozen=True)
class EssenceDrift:
    """``essence``: perplexity of texts about a case's subject; ``essence_drift``: how much the edit has raised it, in percent.

    Attributes:
        about: snippets with their names, or for each subject texts about it; cases without have NaN.
        length: tokens of the joined texts that are read.
        variant: ``"ours"`` reads all snippets about the subject, and is the perplexity per predicted token (after the model's BOS if it has one).
            ``"meng2022_code"`` reads the subject's snippets among those of the relation and the *new* object, without BOS, and divides by the
            number of tokens, the first (which nothing predicts) included.

    Raises:
        InputError: a length below 2, or an unknown variant.

    Example:
        >>> import tl_knowledge as tlk
        >>> case = tlk.load_edit_cases()[0]
        >>> measure = tlk.evaluation.EssenceDrift({case.fact.subject: [f"{case.fact.subject} is a country."]})
        >>> read = measure.read(tlk.load_model("factlm"), case)
        >>> read > 1, round(measure.scores(read, 1.5 * read)["essence_drift"], 6)
        (True, 50.0)
    """

    about: AttributeSnippets | Mapping[str, Sequence[str]]
    length: int = 100
    variant: GenerationVariant = "ours"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, GenerationVariant)
        if self.length < 2:
            raise InputError(f"EssenceDrift(length={self.length}) predicts no token; pass at least 2.")

    def read(self, model: HookedModel, case: EditCase) -> float:
        """The perplexity of the texts about the case's subject; NaN without any.

        Raises:
            UnsupportedModelError: a model that does not read a text from left to right.
        """
        check_reads_on(model)
        texts = self._texts(case)
        if not texts:
            return float("nan")
        theirs = self.variant == "meng2022_code"
        prompt = Prompt.from_text(model, " ".join(texts), prepend_bos=False if theirs else None)
        tokens = prompt.tokens[:, : self.length + (0 if theirs else int(prompt.has_bos))]
        if tokens.shape[1] < 2:
            return float("nan")
        logits = logits_of_texts(model, tokens, [])
        log_probabilities = logits[0, :-1].double().log_softmax(-1).gather(-1, tokens[0, 1:, None])
        return float((-log_probabilities.sum() / (tokens.shape[1] - (0 if theirs else 1))).exp())

    def scores(self, before: float, after: float) -> dict[str, float]:
        """The perplexity after the edit, and its rise over the one before."""
        return {"essence": after, "essence_drift": 100 * (after / before - 1)}

    def _texts(self, case: EditCase) -> tuple[str, ...]:
        subject = case.fact.subject
        if not isinstance(self.about, AttributeSnippets):
            return tuple(self.about.get(subject, ()))
        if self.variant == "ours":
            return self.about.of_subject(subject)
        return self.about.of_subject(subject, relation=case.fact.relation or "", target=case.target_new_id or case.target_new.strip())
