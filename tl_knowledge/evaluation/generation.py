"""How fluent and how consistent an edited model's own texts are: GE and RS (Meng et al. 2022, section 3.2)."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from tl_knowledge.datasets import AttributeSnippets, Snippet
from tl_knowledge.door import public
from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.engine.generation import written_tokens
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation.words import GenerationVariant, check_splitting, ngram_entropy
from tl_knowledge.models.checks import check_reads_on
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["GenerationScores", "GenerationVariant", "TextMeasure", "Written", "continued", "generate", "ngram_entropy"]


@dataclass(frozen=True)
class Written:
    """What a model wrote of a case, and what it is compared with.

    Attributes:
        beginnings: each text's.
        texts: the beginnings, continued.
        references: texts about things that have the new object.
    """

    beginnings: tuple[str, ...]
    texts: tuple[str, ...]
    references: tuple[str, ...] = ()


@runtime_checkable
class TextMeasure(Protocol):
    """A measure whose generated texts the report keeps."""

    def texts(self, after: Written) -> Sequence[str]:
        """The texts of what was read."""
        ...


@public
@dataclass(frozen=True)
class GenerationScores:
    """GE: entropy of the generated texts' n-grams, in hundredths of a bit. RS: TF-IDF cosine of the texts and reference texts, in percent.

    Texts are drawn with a seed, as Meng et al.'s program does not. A beginning that the data set repeats (all of CounterFact's cases do) is continued
    once, as Wen and Bai do. The texts are kept in the report (`EditReport.texts`).

    Attributes:
        references: texts about things that have the new object, with the word statistics of a whole corpus (`load_attribute_snippets`); or, for
            each new object (as the case has it), such texts, whose own words are counted then. RS is NaN without.
        length: tokens to which each of a case's beginnings is continued, its own included.
        top_k: of the sampling.
        seed: of the sampling.
        variant: ``"meng2022_code"`` continues repeated beginnings again, without BOS, writes texts in NFKD, splits words with nltk and keeps
            their case.

    Raises:
        InputError: a length or top_k below 1, or a variant whose libraries are not there.

    Example:
        >>> import tl_knowledge as tlk
        >>> from dataclasses import replace
        >>> case = replace(tlk.load_edit_cases()[0], generation=("France is", "France is"))
        >>> len(tlk.evaluation.GenerationScores(length=12).read(tlk.load_model("factlm"), case).texts)
        1
    """

    references: AttributeSnippets | Mapping[str, Sequence[str]] | None = None
    length: int = 100
    top_k: int = 5
    seed: int = 0
    variant: GenerationVariant = "ours"

    def __post_init__(self) -> None:
        check_splitting(self.variant)
        for name, value in (("length", self.length), ("top_k", self.top_k)):
            if value < 1:
                raise InputError(f"GenerationScores({name}={value}) writes nothing; pass at least 1.")

    def read(self, model: HookedModel, case: EditCase) -> Written:
        """The generated texts, and the texts they are compared with."""
        theirs = self.variant == "meng2022_code"
        beginnings = case.generation if theirs else tuple(dict.fromkeys(case.generation))
        texts = generate(model, beginnings, length=self.length, top_k=self.top_k, seed=self.seed, prepend_bos=False if theirs else None)
        return Written(beginnings, tuple(map(_cleaned, texts)) if theirs else tuple(texts), self._references_of(case))

    def texts(self, after: Written) -> Sequence[str]:
        """The texts of what was read."""
        return after.texts

    def scores(self, before: Written, after: Written) -> dict[str, float]:
        """GE and RS; NaN for a case without beginnings, RS without references."""
        nothing = float("nan")
        entropy = 100 * float(np.mean([ngram_entropy(text, self.variant) for text in after.texts])) if after.texts else nothing
        if not after.texts or not after.references or self._snippets is None:
            return {"GE": entropy, "RS": nothing}
        return {"GE": entropy, "RS": 100 * self._snippets.similarity(" ".join(after.texts), " ".join(after.references))}

    def _references_of(self, case: EditCase) -> tuple[str, ...]:
        if isinstance(self.references, AttributeSnippets):
            return self.references.of_case(case)
        return tuple((self.references or {}).get(case.target_new, ()))

    @cached_property
    def _snippets(self) -> AttributeSnippets | None:
        if self.references is None or isinstance(self.references, AttributeSnippets):
            return self.references
        texts = {target: [Snippet("", text) for text in texts] for target, texts in self.references.items()}
        return AttributeSnippets.from_texts({"": texts})


def _cleaned(text: str) -> str:
    """As ``generate_fast`` of Meng et al.'s program leaves it."""
    return unicodedata.normalize("NFKD", text).replace("\n\n", " ").replace("<|endoftext|>", "")


def generate(model: HookedModel, beginnings: Sequence[str], *, length: int, top_k: int, seed: int, prepend_bos: bool | None = None) -> list[str]:
    """Texts of so many tokens, beginning included, sampled by the model's own ``generate`` with its cache.

    Raises:
        UnsupportedModelError: a model that does not go on with a text.
    """
    check_reads_on(model)
    prompts = [Prompt.from_text(model, beginning, prepend_bos=prepend_bos) for beginning in beginnings]
    texts = [""] * len(prompts)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for group in equal_groups([len(prompt) for prompt in prompts]):
            more = max(1, length - len(prompts[group[0]]))
            for i, row in zip(group, _written(model, [prompts[i] for i in group], more, top_k), strict=True):
                texts[i] = model.tokenizer.decode(row, skip_special_tokens=True)
    return texts


def continued(model: HookedModel, prompts: Sequence[Prompt], more: int) -> list[str]:
    """What the model writes after each prompt: so many tokens, each the likeliest."""
    texts = [""] * len(prompts)
    for group in equal_groups([len(prompt) for prompt in prompts]):
        for i, row in zip(group, _written(model, [prompts[i] for i in group], more, None), strict=True):
            texts[i] = model.tokenizer.decode(row[len(prompts[i]) :], skip_special_tokens=True)
    return texts


def _written(model: HookedModel, prompts: Sequence[Prompt], more: int, top_k: int | None) -> list[list[int]]:
    """Tokens of prompts of one length and of what follows."""
    return written_tokens(model, torch.cat([prompt.tokens for prompt in prompts]), more, top_k=top_k).tolist()
