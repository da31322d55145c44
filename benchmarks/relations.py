"""How far FactLM's relations are affine maps (LRE, Hernandez et al. 2024), by relation and by layer; no timing, only scores.

    python benchmarks/relations.py [--relation P36 P1303] [--examples 8] [--limit 40] [--seeds 3] [--save build/relations] [--figure maps.html]

With one core and one seed it takes about ten minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import tl_knowledge as tlk

SCORES = ("faithful", "constant", "translated", "causal", "overtaken", "swapped", "random")


def with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores in percent, each with its interval in one cell."""
    shown = frame.drop(columns=[name for name in frame if str(name).endswith(("_low", "_high"))]).copy()
    for name in SCORES:
        shown[name] = [
            f"{100 * mean:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
            for mean, low, high in zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
        ]
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--relation", nargs="+")
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model, facts = tlk.load_model("factlm"), tlk.load_facts()
    labels = {relation.id: relation.label for relation in tlk.datasets.load_relations()}
    chosen = facts if args.relation is None else tlk.datasets.of_relation(facts, *args.relation)
    for seed in range(args.seeds):
        scores = tlk.relations.measure_relation_maps(model, chosen, examples=args.examples, limit=args.limit, seed=seed)
        print(f"\nseed {seed}: {scores.headline()}; left out: {scores.left_out or 'none'}\n", flush=True)
        table = with_intervals(scores.by_relation().sort_values("faithful", ascending=False, kind="stable"))
        table["relation"] = [f"{labels[name]} ({name})" for name in table["relation"]]
        print(table.to_markdown(index=False))
        print(f"\nmeans over relations\n\n{with_intervals(scores.by_layer()).to_markdown(index=False)}", flush=True)
        if args.save is not None:
            scores.save(args.save / f"seed{seed}")
        if args.figure is not None and seed == 0:
            scores.plot().write_html(args.figure)
            scores.plot_layers().write_html(args.figure.with_stem(f"{args.figure.stem}_layers"))


if __name__ == "__main__":
    main()
