"""Every editing method on FactLM's edit cases, in one table beside the unedited model; no timing, only scores.

    python benchmarks/editing_scores.py [--cases 200] [--store build/scores] [--figure scores.html]

With two cores it takes about half an hour; ``--store`` lets a killed run go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tl_knowledge as tlk

SINGLE = {
    "ROME (r_rome)": tlk.ROME(layer=0),
    "ROME (r_rome, contexts alike)": tlk.ROME(layer=0, bare_weight=None),
    "ROME (rome_code)": tlk.ROME(layer=0, variant="meng2022_code"),
    "ROME (p_rome)": tlk.ROME(layer=0, variant="gupta2024_p"),
    "ROME last": tlk.ROME(layer=6),
    "FT": tlk.FineTune(layer=0),
    "FT+L": tlk.editing.FineTuneConstrained(layer=0, most_change=5e-3),
    "KN": tlk.localised.KnowledgeNeuronEdit(),
    "KN (Dai)": tlk.localised.KnowledgeNeuronEdit(variant="dai2022"),
    "CNE": tlk.localised.CausalNeuronEdit(),
    "CNE (Dai)": tlk.localised.CausalNeuronEdit(variant="dai2022"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = tlk.load_model("factlm")
    moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0, 6])
    cases = tlk.load_edit_cases()[: args.cases]
    together = {"MEMIT": tlk.MEMIT.for_model(model), "EMMET": tlk.EMMET(layer=0), "AlphaEdit": tlk.AlphaEdit.for_model(model)}
    reports: dict[str, tlk.EditReport] = {}
    for protocol, methods in (("batch", together), ("single", SINGLE)):
        for name, method in methods.items():
            label = f"{name}, {len(cases)} at once" if protocol == "batch" else name
            store = None if args.store is None else args.store / label.replace(" ", "_")
            reports[label] = tlk.evaluate(model, cases, method, moments=moments, protocol=protocol, store=store)
            print(label, reports[label].scores["S"], flush=True)
    order = sorted(reports, key=lambda name: -reports[name].scores["S"].mean)
    table = tlk.score_table(*(reports[name] for name in order), names=tuple(order))
    print(f"\n{len(cases)} cases, percent, 95% bootstrap over cases\n\n{table.to_markdown('S', 'ES', 'PS', 'NS', 'EM', 'NM', 'locality')}")
    if args.figure is not None:
        shown = ["ROME (r_rome)", f"MEMIT, {len(cases)} at once", "FT", "KN (Dai)", "CNE (Dai)"]
        tlk.score_table(*(reports[name] for name in shown), names=tuple(shown)).plot().write_html(args.figure)


if __name__ == "__main__":
    main()
