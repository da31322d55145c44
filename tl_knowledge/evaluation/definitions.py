"""What every score is, in which unit, and which way is better: one place, from which tables, pages and documentation take it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from tl_knowledge.door import public
from tl_knowledge.errors import InputError, check_given

__all__ = ["DEFINITIONS", "Direction", "ScoreDefinition", "definition_of", "score_definitions", "unit_of"]

Direction: TypeAlias = Literal["higher", "lower", "unchanged"]
"""``"unchanged"``: the nearer to the unedited model's, the better."""

PERCENT = "percent"


@dataclass(frozen=True)
class ScoreDefinition:
    """What a score is.

    Attributes:
        says: the definition, one sentence.
        better: which way a good edit has it.
        unit: of the number.
    """

    says: str
    better: Direction
    unit: str = PERCENT


_D = ScoreDefinition

DEFINITIONS: dict[str, ScoreDefinition] = {
    "S": _D("harmonic mean of ES, PS and NS", "higher"),
    "ES": _D("efficacy: edited prompts where the new object is likelier than the true one", "higher"),
    "EM": _D("efficacy magnitude: probability of the new object less that of the true one, edited prompt", "higher"),
    "EA": _D("edited prompts whose most probable answer is the new object, whole", "higher"),
    "PS": _D("paraphrases of the edited prompt where the new object is likelier than the true one", "higher"),
    "PM": _D("probability of the new object less that of the true one, paraphrases", "higher"),
    "PA": _D("paraphrases whose most probable answer is the new object, whole", "higher"),
    "NS": _D("neighbourhood: prompts about other subjects of the same object where the true object is still likelier than the new one", "higher"),
    "NM": _D("probability of the true object less that of the new one, neighbours", "higher"),
    "NA": _D("neighbours whose most probable answer is their true object, whole", "higher"),
    "GE": _D("entropy of the bigrams and trigrams of texts that the model writes; a fall means repetition", "unchanged", "0.01 bit"),
    "RS": _D("cosine similarity (TF-IDF) of texts that the model writes about the subject to reference texts about the new object", "higher"),
    "reliability": _D("edited prompts answered with the new object, every token the most probable", "higher"),
    "generality": _D("paraphrases answered with the new object, every token the most probable", "higher"),
    "joint_generality": _D("paraphrases answered with the new object where the edited prompt is, too", "higher"),
    "token_reliability": _D("tokens of the new object that are the most probable, edited prompt", "higher"),
    "token_generality": _D("tokens of the new object that are the most probable, paraphrases", "higher"),
    "token_specificity": _D("tokens of the true object that are the most probable, neighbours", "higher"),
    "locality": _D("neighbours' tokens whose most probable token is the unedited model's", "higher"),
    "hase_rewrite": _D("part of the way to 1 that the new object's probability went, edited prompt", "higher"),
    "hase_paraphrase": _D("part of the way to 1 that the new object's probability went, paraphrases", "higher"),
    "hase_neighbourhood": _D("100 less the change of the neighbours' own objects' probability, as a part of the largest possible", "higher"),
    "hase_erasure": _D("part of the true object's probability that is gone, edited prompt", "higher"),
    "hase2023_rewrite": _D("hase_rewrite as Hase et al.'s program takes it: the first prompt, no loss below 2e-8", "higher"),
    "hase2023_paraphrase": _D("hase_paraphrase as Hase et al.'s program takes it: the first prompt, no loss below 2e-8", "higher"),
    "hase2023_neighbourhood": _D("100 less the change of the new object's probability at the first neighbour, of the largest possible", "higher"),
    "hase2023_overall": _D("mean of hase2023_rewrite, hase2023_paraphrase and hase2023_neighbourhood", "higher"),
    "hase2023_erasure": _D("hase_erasure as Hase et al.'s program takes it: the first prompt, no loss below 0", "higher"),
    "subject_kept": _D("other facts of the subject that the unedited model says and the edited one still says", "higher"),
    "ripple": _D("tests of all six axes of RippleEdits that are passed", "higher"),
    "ripple_logical_generalization": _D("tests of what the relation's logic implies (symmetry, transitivity) that are passed", "higher"),
    "ripple_compositionality_1": _D("questions one hop on from the edit, about the same subject, that are answered right", "higher"),
    "ripple_compositionality_2": _D("questions one hop on, about other subjects that lead to the edited one, that are answered right", "higher"),
    "ripple_subject_aliasing": _D("tests of the edit under the subject's other names that are passed", "higher"),
    "ripple_forgetfulness": _D("other objects of the same subject and relation that are kept", "higher"),
    "ripple_relation_specificity": _D("facts of the subject in other relations that are kept", "higher"),
    "single_hop": _D("cases where the model says every fact of the new chain", "higher"),
    "multi_hop": _D("cases where a question about the chain's end gets the new answer", "higher"),
    "multi_hop_old": _D("cases where a question about the chain's end still gets the old answer", "lower"),
    "portability": _D("all tests of KnowEdit's portability that are passed", "higher"),
    "portability_reasoning": _D("questions one hop on from the edit that are answered right", "higher"),
    "portability_logical_generalization": _D("questions about what the edit implies that are answered right", "higher"),
    "portability_subject_aliasing": _D("the edit under the subject's other names, answered right", "higher"),
    "symmetry": _D("edited facts that hold the other way round, from the new object to the subject", "higher"),
    "synonymy": _D("edited facts that hold in another wording with its own word for the object", "higher"),
    "subject_synonymy": _D("edited facts that hold under the subject's other names", "higher"),
    "old_fact_before": _D("tokens of the true object that are the most probable before the edit", "higher"),
    "old_fact": _D("tokens of the true object that are still the most probable", "lower"),
    "new_fact": _D("tokens of the new object that are the most probable", "higher"),
    "new_inverse_subject": _D("the new object leads back to the subject: tokens that are the most probable", "higher"),
    "new_inverse_new_subject": _D("the new object still leads back to whom it belonged to", "lower"),
    "old_inverse_subject": _D("the old object still leads back to the subject", "lower"),
    "old_inverse_new_subject": _D("the old object leads to whom the new one belonged to, as if the two had changed places", "lower"),
    **{
        f"{side}_{name}": _D(f"{what}, asked from the {side}'s side", "higher")
        for side in ("entity", "relation")
        for name, what in (
            ("reliability", "prompts answered with the new object"),
            ("generality", "other wordings answered with the new object"),
            ("ES", "prompts where the new answer is likelier than the old one"),
            ("PS", "other wordings where the new answer is likelier than the old one"),
        )
    },
    "essence": _D("perplexity of texts about the subject", "unchanged", "perplexity"),
    "essence_drift": _D("rise of the perplexity of texts about the subject over the unedited model's", "lower"),
    "blimp": _D("minimal pairs of BLiMP where the grammatical sentence is the likelier", "higher"),
    "perplexity": _D("perplexity of ordinary text", "lower", "perplexity"),
    "perplexity_rise": _D("rise of the perplexity of ordinary text over the unedited model's", "lower"),
    "next_token_KL": _D("KL divergence of the next token's distribution from the unedited model's, mean over other prompts", "lower", "0.01 nat"),
    "extracted": _D("cases where at least one attack brings the old object back", "lower"),
    "extracted_lens": _D("cases where the logit lens has the old object among its likeliest tokens at some layer", "lower"),
    "extracted_delta": _D("cases where the old object is among the tokens whose probability moves most between two layers", "lower"),
    "extracted_paraphrase": _D("cases where the old object is among the likeliest answers to a paraphrase", "lower"),
    "old_rank": _D("rank of the old object in what the model answers (0: the most probable)", "higher", "rank"),
    "old_lens_rank": _D("best rank of the old object by the logit lens over the layers (0: the most probable)", "higher", "rank"),
    "milliseconds": _D("time of an edit", "lower", "ms"),
    "stored_kib": _D("size of what an edit keeps", "lower", "KiB"),
}
_LENS = re.compile(r"lens_(\d+)")


def definition_of(metric: str) -> ScoreDefinition | None:
    """A score's definition; ``None`` for a score of somebody's own measure."""
    layer = _LENS.fullmatch(metric)
    if layer:
        return _D(f"cases where the logit lens has the old object among its likeliest tokens after layer {layer[1]}", "lower")
    return DEFINITIONS.get(metric)


def unit_of(metric: str) -> str:
    """A score's unit; percent where nothing else is known."""
    known = definition_of(metric)
    return PERCENT if known is None else known.unit


@public
def score_definitions(metrics: str | Iterable[str]) -> pd.DataFrame:
    """What scores are: one row each, ``score unit better definition``.

    Args:
        metrics: names of scores, as `EditReport.metrics` gives them; one of your own measures has no direction here.

    Raises:
        DataError: no score.
        InputError: a name that is no text.

    Example:
        >>> score_definitions(["NS", "perplexity"])[["score", "unit", "better"]].values.tolist()
        [['NS', 'percent', 'higher'], ['perplexity', 'perplexity', 'lower']]
    """
    names = (metrics,) if isinstance(metrics, str) else check_given(metrics, "score")
    rows: list[tuple[str, str, str, str]] = []
    for name in names:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"metrics={name!r} is no score's name; pass names such as 'ES'.")
        known = definition_of(name)
        rows.append((name, unit_of(name), known.better if known else "", known.says if known else "a score of a measure of your own"))
    return pd.DataFrame(rows, columns=["score", "unit", "better", "definition"])  # pyright: ignore[reportArgumentType]
