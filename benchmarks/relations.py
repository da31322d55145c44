"""How far FactLM's relations are affine maps (LRE, Hernandez et al. 2024), or vectors (Todd et al. 2024); no timing, only scores.

    python benchmarks/relations.py [--relation P36 P1303] [--examples 8] [--limit 40] [--seeds 3] [--save build/relations] [--figure maps.html]
    python benchmarks/relations.py --vectors ...

With one core and one seed either takes about ten minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import tl_knowledge as tlk

VECTOR_SCORES = ("said_before", "said", "commonest", "random_heads", "random_direction", "gain", "probability_gain")
SCORES = ("faithful", "constant", "translated", "causal", "overtaken", "swapped", "random")


def with_intervals(frame: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Scores in percent, each with its interval in one cell."""
    shown = frame.drop(columns=[name for name in frame if str(name).endswith(("_low", "_high"))]).copy()
    for name in names:
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
    parser.add_argument("--vectors", action="store_true")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model, facts = tlk.load_model("factlm"), tlk.load_facts()
    chosen = facts if args.relation is None else tlk.datasets.of_relation(facts, *args.relation)
    for seed in range(args.seeds):
        settings = {"examples": args.examples, "limit": args.limit, "seed": seed}
        if args.vectors:
            scores = tlk.relations.measure_relation_vectors(model, chosen, layer=args.layer, **settings)
            tables, figures = [(scores.by_relation(), "gain", VECTOR_SCORES)], {"": scores.plot()}
        else:
            scores = tlk.relations.measure_relation_maps(model, chosen, layers=None if args.layer is None else [args.layer], **settings)
            tables = [(scores.by_relation(), "faithful", SCORES), (scores.by_layer(), "layer", SCORES)]
            figures = {"": scores.plot(), "_layers": scores.plot_layers()}
        print(f"\nseed {seed}: {scores.headline()}; left out: {scores.left_out or 'none'}")
        for frame, by, names in tables:
            rows = frame.sort_values(by, ascending=by == "layer", kind="stable")
            print(f"\n{with_labels(with_intervals(rows, names)).to_markdown(index=False)}", flush=True)
        if args.vectors:
            unsaid = scores.table[scores.table["said_before"] == 0]
            means = unsaid.groupby("relation")[["said", "commonest", "random_heads", "random_direction"]].mean().mean()
            print(f"\nof {len(unsaid)} facts whose object was not said before, mean over relations: {means.round(3).to_dict()}")
        if args.save is not None:
            scores.save(args.save / f"{'vectors' if args.vectors else 'maps'}{seed}")
        if args.figure is not None and seed == 0:
            for name, figure in figures.items():
                figure.write_html(args.figure.with_stem(args.figure.stem + name))


def with_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Relations by their name beside their identifier."""
    labels = {relation.id: relation.label for relation in tlk.datasets.load_relations()}
    return frame.assign(relation=[f"{labels[name]} ({name})" for name in frame["relation"]]) if "relation" in frame else frame


if __name__ == "__main__":
    main()
