"""What the published editors were trained on, and what ours is for FactLM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from tl_knowledge.datasets import Source, corpus_texts, load_counterfact, load_edit_cases, load_facts, load_zsre, shifted_edit_cases
from tl_knowledge.door import public
from tl_knowledge.editing.training.seen import fact_digest, fact_digests, unseen
from tl_knowledge.errors import DataError, check_choice
from tl_knowledge.prompts.facts import EditCase, Fact

__all__ = ["TRAINING_SETS", "EditTrainingData", "load_training_data"]

TRAINING_SETS = ("factlm", "counterfact", "zsre")
"""Data sets that editors are trained on; MEND-CF and KE-CF, MEND-zsRE and KE-zsRE of Meng et al. (2022) are by the last two."""

FACTLM_EVALUATED = 200
COUNTERFACT_EVALUATED, COUNTERFACT_VALIDATION = 10_000, 1_919
ZSRE_VALIDATION = 1_000
TEXTS = 10_000


@dataclass(frozen=True)
class EditTrainingData:
    """What an editor is trained on.

    Attributes:
        cases: to learn from.
        validation: to choose and to stop by; none is of a fact of ``cases``.
        corpus: unrelated texts.
    """

    cases: tuple[EditCase, ...]
    validation: tuple[EditCase, ...]
    corpus: tuple[str, ...]


@public
def load_training_data(name: str = "factlm", source: Source | None = None, *, corpus: Iterable[str] | None = None) -> EditTrainingData:
    """Cases, validation and unrelated texts of one of the published trainings, or for FactLM; no fact is in two parts.

    - ``"factlm"``: facts of the neighbour split with another object of their relation; validated on the edit cases from the 201st; FactLM's corpus,
      and statements of trained facts, since it is other facts that an edit should leave alone. No case is of a fact of ``load_edit_cases()[:200]``,
      and no statement of a neighbour of an edit case.
    - ``"counterfact"`` (MEND-CF, KE-CF): papers evaluate on the first 10,000 records, so these are left alone; the next 1,919 are the validation and
      the other 10,000 are trained on (the sizes of EasyEdit's split); WikiText-103.
    - ``"zsre"`` (MEND-zsRE, KE-zsRE): the training file of Mitchell et al. (pass it as ``source``), whose last 1,000 are the validation; its
      alternative answers are written; WikiText-103.

    Facts are the same by subject and relation (template, where a data set names no relation).

    Args:
        source: the data set's file; CounterFact's default is the hub.
        corpus: other texts.

    Raises:
        DataError: another name, no source where one is needed, what cannot be read, or too few records.

    Example:
        >>> data = load_training_data("factlm")
        >>> len(data.cases), len(data.validation), len(data.corpus)
        (1329, 120, 2734)
    """
    check_choice("training data", name, TRAINING_SETS, DataError)
    cases, validation, evaluated = {"factlm": _factlm, "counterfact": _counterfact, "zsre": _zsre}[name](source)
    held = unseen(validation, fact_digests(evaluated))
    own = unseen(cases, fact_digests([*evaluated, *validation]))
    if not own or not held:
        raise DataError(f"{name!r} has too few records for a training and a validation beside what is evaluated; pass the whole file.")
    return EditTrainingData(tuple(own), tuple(held), tuple(_texts(name, own) if corpus is None else corpus))


def _texts(name: str, cases: Sequence[EditCase]) -> Iterable[str]:
    """The unrelated texts of a training."""
    if name != "factlm":
        return islice(corpus_texts("wikitext"), TEXTS)
    neighbours = {fact_digest(fact) for case in load_edit_cases() for fact in case.neighbourhood if isinstance(fact, Fact)}
    stated = (fact for case in cases if fact_digest(case.fact) not in neighbours for fact in (case.fact, *case.paraphrases))
    return [*corpus_texts("factlm"), *(f"{fact.text}{fact.target}." for fact in stated)]


def _factlm(source: Source | None) -> tuple[list[EditCase], list[EditCase], list[EditCase]]:
    cases = load_edit_cases("factlm", source)
    known = {fact_digest(case.fact) for case in cases}
    free = [fact for fact in load_facts() if fact_digest(fact) not in known]
    return shifted_edit_cases(free), cases[FACTLM_EVALUATED:], cases[:FACTLM_EVALUATED]


def _counterfact(source: Source | None) -> tuple[list[EditCase], list[EditCase], list[EditCase]]:
    cases = load_counterfact() if source is None else load_counterfact(source)
    trained = COUNTERFACT_EVALUATED + COUNTERFACT_VALIDATION
    return cases[trained:], cases[COUNTERFACT_EVALUATED:trained], cases[:COUNTERFACT_EVALUATED]


def _zsre(source: Source | None) -> tuple[list[EditCase], list[EditCase], list[EditCase]]:
    if source is None:
        raise DataError("the training file of zsRE has no default source; pass the file that Mitchell et al. (2022) train on.")
    cases = load_zsre(source, target="alternative")
    return cases[:-ZSRE_VALIDATION], cases[-ZSRE_VALIDATION:], []
