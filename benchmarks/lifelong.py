"""Edits that stay, batch after batch: scores, perplexity, time and memory against the number of edits in FactLM.

    python benchmarks/lifelong.py [--sizes 100 500 1000] [--method memit --method alphaedit] [--store build/lifelong] [--figure growth.html]

With ``--store`` every method has a folder of its own, so that they can be run one by one, and all be drawn from what is there.
The first 320 edits are FactLM's edit cases, the rest its other facts with another object of their relation, which have no neighbours of their own: NS
is over the first 320.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from trained_editors import own_moments

import tl_knowledge as tlk
from tl_knowledge.editing import METHODS, method_for_model

SCORES = ("S", "ES", "PS", "NS", "perplexity", "milliseconds", "stored_kib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 500, 1000])
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = tlk.load_model("factlm")
    methods = {name: method_for_model(model, name) for name in args.method or ("memit", "alphaedit", "ultraedit", "grace")}
    cases = [*tlk.load_edit_cases(), *tlk.editing.load_training_data("factlm").cases][: max(args.sizes)]
    moments = own_moments(model, methods.values())
    measures = [tlk.evaluation.GeneralAbility(corpus=tuple(tlk.load_corpus(limit=20))), tlk.evaluation.EditCosts()]
    grown = [
        tlk.evaluation.measure_growth(
            model,
            cases,
            {name: method},
            args.sizes,
            moments=moments,
            batch_size=args.batch_size,
            measures=measures,
            store=None if args.store is None else args.store / name,
        )
        for name, method in methods.items()
    ]
    growth = together(grown)
    table = growth.summary()
    print(table[["method", "edits", *(score for score in SCORES if score in table)]].round(1).to_markdown(index=False))
    if args.figure is not None:
        growth.plot().write_html(args.figure, config={"displayModeBar": False})


def together(grown: list[tlk.evaluation.EditGrowth]) -> tlk.evaluation.EditGrowth:
    """Several methods' growth as one."""
    table = pd.concat([each.table for each in grown], ignore_index=True)
    return replace(grown[0], table=table, settings={name: settings for each in grown for name, settings in each.settings.items()})


if __name__ == "__main__":
    main()
