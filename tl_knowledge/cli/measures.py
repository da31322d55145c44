"""What else is read off an edited model, by name: each measure with the questions and texts that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tl_knowledge as tlk
from tl_knowledge.cli.words import MEASURES
from tl_knowledge.errors import DataError
from tl_knowledge.wording import counted

__all__ = ["Asked", "measures_argument", "with_relation"]

PAIRS_APART, TEXTS, PROMPTS_APART = 5, 20, 100
"""Of general ability: every fifth bundled minimal pair, so many texts, the prompt of every hundredth fact about somebody else."""

COLUMNS: dict[str, tuple[str, ...]] = {
    "subject-facts": ("subject_kept",),
    "ripples": ("ripple",),
    "multi-hop": ("single_hop", "multi_hop", "multi_hop_old"),
    "portability": ("portability",),
    "essence": ("essence_drift",),
    "ability": ("blimp", "perplexity_rise", "next_token_KL"),
    "extraction": ("extracted", "extracted_lens", "extracted_delta", "extracted_paraphrase", "old_rank"),
}
"""The scores that are shown; an axis of several has its own behind them."""
REMEDIES = {
    "subject-facts": "pass a data set whose subjects have several facts, such as factlm or factlm_chains",
    "ripples": "pass --dataset factlm or factlm_chains, or ripple_edits with its file as --source",
    "multi-hop": "pass --dataset factlm_chains, or mquake with its file as --source",
    "portability": "pass --dataset zsre with a file of KnowEdit's form",
    "essence": "pass a data set whose subjects have several facts, such as factlm or factlm_chains",
}


@dataclass(frozen=True)
class Asked:
    """Measures that are ready to be read.

    Attributes:
        cases: with the tests that the measures ask.
        measures: in the order of their names.
        columns: their scores.
    """

    cases: list[tlk.EditCase]
    measures: list[Any]
    columns: tuple[str, ...]


def measures_argument(names: Sequence[str] | None, cases: Sequence[tlk.EditCase], dataset: str, source: str | None) -> Asked:
    """The measures that were named, with the cases' questions.

    Raises:
        DataError: a measure that has nothing to ask of any case.
    """
    chosen = [name for name in MEASURES if name in (names or ())]
    bundled = dataset.startswith("factlm")
    wanted = {"subject-facts", "ripples", "essence", "ability"} & set(chosen)
    facts = tlk.load_facts("factlm" if bundled else dataset, source) if wanted and (bundled or dataset in tlk.datasets.FACT_SETS) else []
    asked = list(cases)
    if bundled and "ripples" in chosen:
        known: dict[str, Any] = {"relations": tlk.datasets.load_relations(), "reverse": tlk.evaluation.INVERSE_TEMPLATES}
        asked = tlk.datasets.with_ripples(asked, facts=facts, **known)
    build: dict[str, Callable[[], Any]] = {
        "subject-facts": lambda: tlk.evaluation.subject_facts(facts) if facts else None,
        "ripples": tlk.evaluation.ripple_scores,
        "multi-hop": tlk.evaluation.multi_hop_scores,
        "portability": tlk.evaluation.portability_scores,
        "essence": lambda: _essence(asked, facts),
        "ability": lambda: _ability(asked, facts),
        "extraction": tlk.evaluation.ExtractionAttacks,
    }
    measures, columns = {name: build[name]() for name in chosen}, list[str]()
    for name, measure in measures.items():
        tests = isinstance(measure, tlk.evaluation.EditTestScores)
        if measure is None or (tests and not any(measure.of_case(case) for case in asked)):
            raise DataError(f"--measures {name} has nothing to ask of these {counted(len(asked), 'case')} of {dataset!r}; {REMEDIES[name]}.")
        columns += dict.fromkeys((*COLUMNS[name], *(measure.axes if tests else ())))
    return Asked(asked, list(measures.values()), tuple(columns))


def with_relation(fact: tlk.Fact) -> tlk.Fact:
    """A fact with the relation that FactLM's facts have it in, so that its subject's other facts can be told from it.

    Raises:
        DataError: they do not have it, or in several relations.
    """
    found = sorted({each.relation or "" for each in tlk.load_facts() if (each.subject, each.target) == (fact.subject, fact.target)})
    if len(found) != 1:
        raise DataError(
            f"what follows from {fact.text + fact.target!r} is asked by FactLM's facts, which have it in {counted(len(found), 'relation')}; "
            "drop --measures, or use report_fact() with an EditCase and measures of your own."
        )
    return replace(fact, relation=found[0])


def _essence(cases: list[tlk.EditCase], facts: list[tlk.Fact]) -> tlk.evaluation.EssenceDrift | None:
    texts = tlk.datasets.subject_texts(cases, facts=facts)
    return tlk.evaluation.EssenceDrift(texts) if texts else None


def _ability(cases: list[tlk.EditCase], facts: list[tlk.Fact]) -> tlk.evaluation.GeneralAbility:
    subjects = {case.fact.subject for case in cases}
    pairs = tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE)[::PAIRS_APART]
    prompts = [fact.text for fact in facts if fact.subject not in subjects][::PROMPTS_APART]
    return tlk.evaluation.GeneralAbility(pairs, tlk.load_corpus(limit=TEXTS), prompts)
