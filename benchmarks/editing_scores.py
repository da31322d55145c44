"""Every editing method of the registry on the edit cases of a bundled model, in one table beside the unedited model, with what an edit costs.

    python benchmarks/editing_scores.py [--model factlm-llama] [--cases 200] [--skip 0] [--store build/scores] [--only rome] [--figure scores.html]

Methods that need a training are trained first, on `load_training_data("factlm")`, which shares no fact with the cases. With two cores all of it takes
over an hour; ``--store`` lets a killed run go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trained_editors import own_moments, trained

import tl_knowledge as tlk
from tl_knowledge.cli.methods import method_argument
from tl_knowledge.editing import METHODS

TOGETHER = {"memit", "pmet", "emmet", "alphaedit", "ultraedit"}  # what plans many cases at once; every other method edits case by case
NAMES = {"alphaedit": "AlphaEdit", "ultraedit": "UltraEdit", "lora": "LoRA", "t-patcher": "Transformer-Patcher", "ft-attn": "FT-Attn", "ft-w": "FT-W"}
SETTINGS: dict[str, dict[str, Any]] = {}
MORE = {
    "ROME (gupta2024)": ("rome", {"variant": "gupta2024"}),
    "ROME (gupta2024_p)": ("rome", {"variant": "gupta2024_p"}),
    "ROME (meng2022_code)": ("rome", {"variant": "meng2022_code"}),
    "ROME last": ("rome", {"layer": 6}),
    "KN (dai2022)": ("kn", {"variant": "dai2022"}),
    "CNE (dai2022)": ("cne", {"variant": "dai2022"}),
}
SCORES = ("S", "ES", "PS", "NS", "EM", "NM", "locality", "subject_kept", "milliseconds", "stored_kib")
SHOWN = ("SERAC", "ROME", "FT-Attn", "GRACE", "MEMIT", "MEND", "FT", "KN (dai2022)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("factlm", "factlm-llama"), default="factlm")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0, help="cases that are left out at the start")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--only", action="append", choices=METHODS)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = tlk.load_model(args.model)
    cases = tlk.load_edit_cases()[args.skip :][: args.cases]
    measures = [tlk.evaluation.subject_facts(tlk.load_facts()), tlk.evaluation.EditCosts()]
    runs = {label: run for label, run in all_runs().items() if not args.only or run[0] in args.only}
    methods = {label: method_argument(model, name, None, settings) for label, (name, settings) in runs.items()}
    moments = own_moments(model, methods.values())
    reports: dict[str, tlk.EditReport] = {}
    for label, (name, _) in runs.items():
        method = trained(model, label, methods[label], args.store)
        protocol = "batch" if name in TOGETHER else "single"
        store = None if args.store is None else args.store / label.replace(" ", "_")
        reports[label] = tlk.evaluate(model, cases, method, moments=moments, protocol=protocol, measures=measures, store=store)
        print(label, reports[label].scores["S"], flush=True)
    names = {label: f"{label}, {len(cases)} at once" if runs[label][0] in TOGETHER else label for label in reports}
    order = sorted(reports, key=lambda label: -reports[label].scores["S"].mean)
    table = tlk.score_table(*(reports[label] for label in order), names=tuple(names[label] for label in order))
    print(f"\n{len(cases)} cases, percent, 95% bootstrap over cases\n\n{table.to_markdown(*SCORES)}")
    if args.figure is not None:
        shown = [label for label in SHOWN if label in reports]
        tlk.score_table(*(reports[label] for label in shown), names=tuple(names[label] for label in shown)).plot().write_html(
            args.figure, config={"displayModeBar": False}
        )


def all_runs() -> dict[str, tuple[str, dict[str, Any]]]:
    """The registry's methods, and variants that are worth a row, by label."""
    return {NAMES.get(name, name.upper()): (name, SETTINGS.get(name, {})) for name in METHODS} | MORE


if __name__ == "__main__":
    main()
