"""What single edits break on FactLM, by method, in one table beside the unedited model; no timing, only scores.

    python benchmarks/consequences.py [--chained 24] [--further 16] [--method ROME FT] [--store build/consequences] [--figure moved.html]

With one core it takes about ten minutes; ``--store`` lets a killed run go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tl_knowledge as tlk
from tl_knowledge.datasets import EditCase, Fact
from tl_knowledge.editing import method_for_model

RARE = {"ripple_logical_generalization", "ripple_compositionality_2"}  # which chained cases hardly have
METHODS = {"ROME": "rome", "MEMIT": "memit", "FT": "ft", "AlphaEdit": "alphaedit"}
SCORES = (
    *("reliability", "generality", "NA", "subject_kept", "ripple_logical_generalization", "ripple_compositionality_1", "ripple_compositionality_2"),
    *("single_hop", "multi_hop", "multi_hop_old", "essence_drift", "blimp", "perplexity_rise", "next_token_KL"),
    *("extracted", "extracted_lens", "extracted_delta", "extracted_paraphrase", "old_rank", *(f"lens_{layer}" for layer in range(8))),
)


def the_cases(facts: list[Fact], chained: int, further: int) -> list[EditCase]:
    """Cases on chains, then further edit cases whose tests the chained ones hardly have."""
    known = {"facts": facts, "relations": tlk.datasets.load_relations(), "reverse": tlk.evaluation.INVERSE_TEMPLATES}
    cases = tlk.datasets.with_ripples(tlk.datasets.chained_edit_cases(**known, limit=chained), **known)
    edited = {(case.fact.subject, case.fact.relation) for case in cases}
    others = [case for case in tlk.datasets.with_ripples(tlk.load_edit_cases(), **known) if {test.axis for test in case.tests} & RARE]
    return cases + [case for case in others if (case.fact.subject, case.fact.relation) not in edited][:further]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chained", type=int, default=24)
    parser.add_argument("--further", type=int, default=16)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model, facts = tlk.load_model("factlm"), tlk.load_facts()
    moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0])
    cases = the_cases(facts, args.chained, args.further)
    subjects = {case.fact.subject for case in cases}
    unrelated = [fact.text for fact in facts if fact.subject not in subjects][::100]
    measures = [
        tlk.evaluation.subject_facts(facts),
        tlk.evaluation.ripple_scores(),
        tlk.evaluation.multi_hop_scores(),
        tlk.evaluation.EssenceDrift(tlk.datasets.subject_texts(cases, facts=facts)),
        tlk.evaluation.GeneralAbility(tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE)[::5], tlk.load_corpus(limit=20), unrelated),
        tlk.evaluation.ExtractionAttacks(),
    ]
    reports: dict[str, tlk.EditReport] = {}
    for name in args.method:
        method = method_for_model(model, METHODS[name])
        store = None if args.store is None else args.store / name
        reports[name] = tlk.evaluate(model, cases, method, moments=moments, measures=measures, store=store)
        print(reports[name].headline(), flush=True)
    table = tlk.score_table(*reports.values(), names=tuple(reports))
    rows = table.summary(*SCORES).set_index("model").T.rename_axis("score").reset_index()
    rows["cases"] = [int(next(iter(reports.values())).table[name].notna().sum()) for name in rows["score"]]
    print(f"\n{len(cases)} single edits, 95% bootstrap over cases\n\n{rows.to_markdown(index=False)}")
    if args.figure is not None:
        table.plot_moved().write_html(args.figure)


if __name__ == "__main__":
    main()
