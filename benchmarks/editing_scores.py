"""Every editing method of the registry on FactLM's edit cases, in one table beside the unedited model; no timing, only scores.

    python benchmarks/editing_scores.py [--cases 200] [--store build/scores] [--figure scores.html]

With two cores it takes about half an hour; ``--store`` lets a killed run go on.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import tl_knowledge as tlk
from tl_knowledge.editing import METHODS, method_for_model

TOGETHER = {"memit", "emmet", "alphaedit"}  # what plans all cases at once; every other method edits case by case
NAMES = {"alphaedit": "AlphaEdit"}
SETTINGS = {"ft+l": {"most_change": 5e-3}}  # the published bounds are on the scale of GPT-2's weights
MORE = {
    "ROME (gupta2024)": ("rome", {"variant": "gupta2024"}),
    "ROME (gupta2024_p)": ("rome", {"variant": "gupta2024_p"}),
    "ROME (meng2022_code)": ("rome", {"variant": "meng2022_code"}),
    "ROME last": ("rome", {"layer": 6}),
    "KN (dai2022)": ("kn", {"variant": "dai2022"}),
    "CNE (dai2022)": ("cne", {"variant": "dai2022"}),
}
SHOWN = ("ROME", "MEMIT", "FT", "KN (dai2022)", "CNE (dai2022)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = tlk.load_model("factlm")
    moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0, 6])
    cases = tlk.load_edit_cases()[: args.cases]
    runs = {NAMES.get(name, name.upper()): (name, SETTINGS.get(name, {})) for name in METHODS} | MORE
    reports: dict[str, tlk.EditReport] = {}
    for label, (name, settings) in runs.items():
        method = replace(method_for_model(model, name), **settings)
        protocol = "batch" if name in TOGETHER else "single"
        store = None if args.store is None else args.store / label.replace(" ", "_")
        reports[label] = tlk.evaluate(model, cases, method, moments=moments, protocol=protocol, store=store)
        print(label, reports[label].scores["S"], flush=True)
    names = {label: f"{label}, {len(cases)} at once" if runs[label][0] in TOGETHER else label for label in reports}
    order = sorted(reports, key=lambda label: -reports[label].scores["S"].mean)
    table = tlk.score_table(*(reports[label] for label in order), names=tuple(names[label] for label in order))
    print(f"\n{len(cases)} cases, percent, 95% bootstrap over cases\n\n{table.to_markdown('S', 'ES', 'PS', 'NS', 'EM', 'NM', 'locality')}")
    if args.figure is not None:
        shown = tlk.score_table(*(reports[label] for label in SHOWN), names=tuple(names[label] for label in SHOWN))
        shown.plot().write_html(args.figure)


if __name__ == "__main__":
    main()
