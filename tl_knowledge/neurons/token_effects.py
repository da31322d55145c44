"""What neurons do to single words: singular nouns, plural nouns, neutral words (Niu et al. 2024, "singular and plural neurons")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.drawing import labelled_points
from tl_knowledge.engine.batches import HooksAt, answer_logits, no_hooks
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import InputError, TargetError, check_choice, check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, is_masked
from tl_knowledge.neurons.neuron_set import NeuronSet
from tl_knowledge.neurons.words import factor_words
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.targets import is_one_token, target_tokens
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.significance import paired_t_p_values, unpaired_t_p_values
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.wording import counted

__all__ = ["TokenEffects", "TokenTest", "measure_token_effects", "single_token_words"]

SIGNIFICANT = 0.05

TokenTest = Literal["ours", "niu2024"]


@dataclass(frozen=True, eq=False)
class TokenEffects(TableResult):
    """Change of words' probability when neurons are scaled.

    Attributes:
        table: one row a word: ``category word before after effect p corrected``: mean probabilities over prompts, ``(after - before) /
            min(after, before)``, the two-sided t-test's p, and the same corrected for the number of words (Benjamini and Hochberg).
        neurons: what was scaled.
        factor: by what.
        prompts: over how many prompts.
        variant: which t-test: paired and read after the correction, or Niu et al.'s.
        provenance: what it was measured with.
    """

    ranked_by: ClassVar[str] = "effect"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    neurons: NeuronSet
    factor: float
    prompts: int
    variant: TokenTest
    provenance: Provenance

    def headline(self) -> str:
        """How many words change."""
        significant = int(self._significant(self.table).sum())
        return (
            f"{counted(len(self.neurons), 'neuron')} {factor_words(self.factor)}: {significant} of "
            f"{counted(len(self.table), 'word')} change significantly; "
            f"{counted(self.prompts, 'prompt')}; {self.provenance.model}"
        )

    def summary(self) -> pd.DataFrame:
        """Mean effect of every category with its 95% bootstrap interval over words, and how many words change significantly."""
        rows: list[dict[str, object]] = []
        for category in dict.fromkeys(self.table["category"]):
            words = self.table.loc[self.table["category"] == category]
            mean, low, high = scalar_interval(words["effect"])
            significant = int(self._significant(words).sum())
            rows.append({"category": category, "words": len(words), "significant": significant})
            rows[-1] |= {"effect": mean, "low": low, "high": high}
        return pd.DataFrame(rows)

    def plot(self, *, name: str = "the neurons") -> go.Figure:
        """A point a word by category; red where the p that counts (corrected, or Niu et al.'s) is below .05."""
        frame, test = self.table, "corrected" if self.variant == "ours" else "unpaired, uncorrected"
        return labelled_points(
            frame["category"].tolist(),
            frame["word"].tolist(),
            frame["effect"].tolist(),
            self._significant(frame).tolist(),
            title=f"Change of words' probability, {name} {factor_words(self.factor)}",
            subtitle=(
                f"{counted(len(self.neurons), 'neuron')}, {counted(self.prompts, 'prompt')}, "
                f"{counted(len(frame), 'word')}; {self.provenance.model}; red: p < .05, {test}"
            ),
            value_axis="(after - before) / min(after, before)",
        )

    def _significant(self, words: pd.DataFrame) -> pd.Series:
        return words["corrected" if self.variant == "ours" else "p"] < SIGNIFICANT


@public
def measure_token_effects(
    model: AnyModel,
    prompts: Prompt | Iterable[Prompt],
    words: Mapping[str, Sequence[str]],
    neurons: NeuronSet,
    *,
    factor: float = 0.0,
    variant: TokenTest = "ours",
    progress: bool = True,
) -> TokenEffects:
    """Scale neurons where the prompts are answered and compare words' probabilities there.

    Args:
        prompts: at least 2; their targets are not used.
        words: by category, each one token, such as `NUMBER_WORDS`; for an autoregressive model they are measured with a leading space.
        neurons: not empty.
        factor: 0 suppresses, 2 enhances.
        variant: the t-test of the probabilities before and after. Ours is paired over prompts, and significant is what is so after the
            correction for the number of words. ``"niu2024"`` is Niu et al.'s: unpaired, as if other prompts had been asked before and after,
            and uncorrected (of 100 words that nothing happens to, five are red).

    Raises:
        DataError: no prompt, or no word.
        TargetError: a word that is not one token; `single_token_words` leaves those out.
        InputError: a single prompt, or an unknown variant.
        ComponentError: an empty set.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompts = [tlk.Prompt.from_text(model, f"{name} saw these") for name in ("Anna", "Peter", "Maria")]
        >>> words = {"singular": ["dog", "car"], "plural": ["dogs", "cars"]}
        >>> words = {kind: tlk.neurons.single_token_words(model, some) for kind, some in words.items()}
        >>> effects = tlk.neurons.measure_token_effects(model, prompts, words, tlk.NeuronSet.of(model, [(4, 28)]))
        >>> list(effects.summary()["category"]) == [kind for kind in words if words[kind]]
        True
    """
    model = as_model(model, masked=True)
    check_choice("variant", variant, TokenTest)
    batch = check_given(always_iterable(prompts, Prompt), "prompt", "pass at least 2")
    by_category = check_given(((category, word) for category, some in words.items() for word in some), "word", "pass at least one of some category")
    if len(batch) < 2:
        raise InputError("one prompt leaves nothing to test; pass at least 2 prompts.")
    tokens = [_token(model, word) for _, word in by_category]
    neurons.scale(factor)  # refuses an empty set before anything runs
    with progress_bar(what="token effects", unit="prompt", total=2 * len(batch), progress=progress) as bar:
        before = _probabilities(model, batch, tokens, no_hooks, bar)
        after = _probabilities(model, batch, tokens, lambda pos: neurons.scale(factor, positions=pos), bar)
    p, corrected = (paired_t_p_values if variant == "ours" else unpaired_t_p_values)(after, before)
    table = pd.DataFrame(by_category, columns=["category", "word"])  # pyright: ignore[reportArgumentType]
    mean_before, mean_after = before.mean(0), after.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = (mean_after - mean_before) / np.minimum(mean_after, mean_before)
    table = table.assign(before=mean_before, after=mean_after, effect=effect, p=p, corrected=corrected)
    provenance = provenance_of(model, engine="hooks", has_bos=batch[0].has_bos, factor=factor, variant=variant)
    return TokenEffects(table, neurons, factor, len(batch), variant, provenance)


@public
def single_token_words(model: AnyModel, words: Iterable[str]) -> list[str]:
    """Words that are one token of this model (after a space, for an autoregressive one)."""
    model = as_model(model, masked=True)
    return [word for word in words if is_one_token(model, _continuation(model, word))]


def _continuation(model: HookedModel, word: str) -> str:
    """A word as it follows a prompt."""
    return word if is_masked(model) else f" {word}"


def _token(model: HookedModel, word: str) -> int:
    tokens = target_tokens(model, _continuation(model, word))
    if len(tokens) != 1:
        raise TargetError(
            f"word {word!r} has {counted(len(tokens), 'token')} in this model, so it has no probability of its own; see single_token_words()."
        )
    return tokens[0]


def _probabilities(model: HookedModel, prompts: Sequence[Prompt], tokens: Sequence[int], hooks_at: HooksAt, bar: Any) -> np.ndarray:
    """``[prompt word]``."""
    probabilities = np.zeros((len(prompts), len(tokens)))
    for group, logits in answer_logits(model, prompts, hooks_at, bar=bar):
        probabilities[group] = logits.double().softmax(-1)[:, torch.tensor(tokens, device=logits.device)].cpu().numpy()
    return probabilities
