"""What single edits break on FactLM, by editor, beside the unedited model: tables with intervals and one figure; no timing, only scores.

    python benchmarks/consequences.py [--chained 30] [--further 20] [--method rome ft] [--store build/consequences] [--figure moved.html]

Every editor of the registry; those that need a training are trained first, on facts of other subjects. With one core it takes about two minutes an
editor, and the trainings minutes more; ``--store`` lets a killed run go on, and ``--method`` then prints what is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trained_editors import own_moments, trained

import tl_knowledge as tlk
from tl_knowledge.datasets import EditCase, Fact
from tl_knowledge.editing import METHODS, method_for_model

RARE = {"ripple_logical_generalization", "ripple_compositionality_2"}  # which chained cases hardly have
WITHOUT_STATES = ("ike", "serac")  # they answer from another text or another model, whose states are not the edited one's
DRAWN = ("rome", "memit", "alphaedit", "ft")
TABLES = {
    "The fact, its subject and its neighbours": ("reliability", "generality", "NA", "subject_kept", "essence_drift"),
    "What follows": (
        *("ripple_logical_generalization", "ripple_compositionality_1", "ripple_compositionality_2"),
        *("single_hop", "multi_hop", "multi_hop_old"),
    ),
    "The model itself": ("blimp", "perplexity_rise", "next_token_KL"),
    "What was replaced": ("extracted", "extracted_lens", "extracted_delta", "extracted_paraphrase", "old_rank"),
}


def the_cases(facts: list[Fact], chained: int, further: int) -> list[EditCase]:
    """Cases on chains, then further edit cases whose tests the chained ones hardly have."""
    known = {"facts": facts, "relations": tlk.datasets.load_relations(), "reverse": tlk.evaluation.INVERSE_TEMPLATES}
    cases = tlk.datasets.with_ripples(tlk.datasets.chained_edit_cases(**known, limit=chained), **known)
    edited = {(case.fact.subject, case.fact.relation) for case in cases}
    others = [case for case in tlk.datasets.with_ripples(tlk.load_edit_cases(), **known) if {test.axis for test in case.tests} & RARE]
    return cases + [case for case in others if (case.fact.subject, case.fact.relation) not in edited][:further]


def the_measures(facts: list[Fact], cases: list[EditCase], *, states: bool) -> list[Any]:
    """All measures; ``states`` says whether the edited model's states can be read."""
    subjects = {case.fact.subject for case in cases}
    unrelated = [fact.text for fact in facts if fact.subject not in subjects][::100]
    general = tlk.evaluation.GeneralAbility(tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE)[::10], tlk.load_corpus(limit=10), unrelated)
    measures: list[Any] = [tlk.evaluation.subject_facts(facts), tlk.evaluation.ripple_scores(), tlk.evaluation.multi_hop_scores()]
    if states:
        measures += [tlk.evaluation.EssenceDrift(tlk.datasets.subject_texts(cases, facts=facts)), general, tlk.evaluation.ExtractionAttacks()]
    return measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chained", type=int, default=30)
    parser.add_argument("--further", type=int, default=20)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model, facts = tlk.load_model("factlm"), tlk.load_facts()
    methods = {name: method_for_model(model, name) for name in args.method}
    moments = own_moments(model, methods.values())
    cases = the_cases(facts, args.chained, args.further)
    reports: dict[str, tlk.EditReport] = {}
    for name, settings in methods.items():
        store = None if args.store is None else args.store / name
        method = trained(model, name, settings, args.store, without={case.fact.subject for case in cases})
        measures = the_measures(facts, cases, states=name not in WITHOUT_STATES)
        reports[name] = tlk.evaluate(model, cases, method, moments=moments, measures=measures, store=store)
        print(reports[name].headline(), flush=True)
    table = tlk.score_table(*reports.values(), names=tuple(reports))
    print(f"\n{len(cases)} single edits, {table.interval_words}; n: cases that have the score, where not all have")
    for title, of_title in TABLES.items():
        scores = [name for name in of_title if any(name in report.scores for report in reports.values())]
        if not scores:
            continue
        rows = table.summary(*scores).rename(columns={name: table.column_words(name) for name in scores})
        print(f"\n**{title}**\n\n{rows.to_markdown(index=False, disable_numparse=True)}")
    if args.figure is not None:
        drawn = [name for name in DRAWN if name in reports] or list(reports)
        tlk.score_table(*(reports[name] for name in drawn), names=tuple(drawn)).plot_moved().write_html(args.figure, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
