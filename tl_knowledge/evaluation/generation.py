"""How fluent and how consistent an edited model's own texts are: GE and RS (Meng et al. 2022, section 3.2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from tl_knowledge.door import public
from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["GenerationScores", "ngram_entropy"]

WEIGHTS = ((2, 2 / 3), (3, 4 / 3))


@public
@dataclass(frozen=True)
class GenerationScores:
    """GE: entropy of the generated texts' n-grams, in hundredths of a bit. RS: TF-IDF cosine of the texts and reference texts, in percent.

    Meng et al.'s program draws unseeded and splits words with nltk; here texts are drawn with a seed and split at word boundaries.

    Attributes:
        references: for each new object (as the case has it) texts about things that have it; RS is NaN without.
        length: tokens to which each of a case's beginnings is continued, its own included.
        top_k: of the sampling.
        seed: of the sampling.
    """

    references: Mapping[str, Sequence[str]] | None = None
    length: int = 100
    top_k: int = 5
    seed: int = 0

    def read(self, model: HookedModel, case: EditCase) -> tuple[list[str], str]:
        """The generated texts, and the new object."""
        return generate(model, case.generation, length=self.length, top_k=self.top_k, seed=self.seed), case.target_new

    def scores(self, before: tuple[list[str], str], after: tuple[list[str], str]) -> dict[str, float]:
        """GE and RS; NaN for a case without beginnings, RS without references."""
        texts, target = after
        references = (self.references or {}).get(target, ())
        entropy = 100 * float(np.mean([ngram_entropy(text) for text in texts])) if texts else float("nan")
        return {"GE": entropy, "RS": 100 * _similarity(" ".join(texts), " ".join(references)) if texts and references else float("nan")}


def ngram_entropy(text: str) -> float:
    """Weighted mean of the entropies of a text's bigrams and trigrams, in bits.

    Example:
        >>> round(ngram_entropy("a b a b a b a b"), 3), round(ngram_entropy("one two three four five six"), 3)
        (0.995, 2.107)
    """
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    total = 0.0
    for n, weight in WEIGHTS:
        counts = np.array(list(Counter(zip(*(words[k:] for k in range(n)), strict=False)).values()), dtype=float)
        shares = counts / counts.sum() if len(counts) else np.ones(1)
        total += weight * float(-(shares * np.log2(shares)).sum()) / len(WEIGHTS)
    return total


def generate(model: HookedModel, beginnings: Sequence[str], *, length: int, top_k: int, seed: int) -> list[str]:
    """Texts of so many tokens, beginning included, sampled by the model's own ``generate`` with its cache."""
    prompts = [Prompt.from_text(model, beginning) for beginning in beginnings]
    texts = [""] * len(prompts)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for group in equal_groups([len(prompt) for prompt in prompts]):
            tokens, more = torch.cat([prompts[i].tokens for i in group]), max(1, length - len(prompts[group[0]]))
            with torch.no_grad():
                generated: torch.Tensor = model.generate(  # pyright: ignore  # of both classes
                    tokens, max_new_tokens=more, top_k=top_k, do_sample=True, stop_at_eos=False, return_type="tokens", verbose=False
                )
            for i, row in zip(group, generated.tolist(), strict=True):
                texts[i] = model.tokenizer.decode(row, skip_special_tokens=True)
    return texts


def _similarity(first: str, second: str) -> float:
    """Cosine of two texts' TF-IDF vectors."""
    vectors = TfidfVectorizer().fit_transform([first, second])
    return float((vectors[0] @ vectors[1].T).toarray()[0, 0])
