"""Which subspaces of FactLM's states carry an answer (DAS, Geiger et al. 2024), and which are illusions (Makelov et al. 2024).

    python benchmarks/subspaces.py [--relation P103] [--dims 1 4 16] [--seed 0] [--figure build/subspaces]
    python benchmarks/subspaces.py --illusion [--layers 0 1 2]

With one free core either takes some minutes a relation.
"""

from __future__ import annotations

import argparse

import pandas as pd

import tl_knowledge as tlk


def with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Shares in percent, effects in logits, each with its interval in one cell."""
    said, effect = ([tuple(each[name + end] for end in ("", "_low", "_high")) for each in frame.to_dict("records")] for name in ("said", "effect"))
    return frame.drop(columns=[name for name in frame if str(name).startswith(("said", "effect"))]).assign(
        said=[f"{100 * mean:.0f} [{100 * low:.0f}, {100 * high:.0f}]" for mean, low, high in said],
        effect=[f"{mean:.1f} [{low:.1f}, {high:.1f}]" for mean, low, high in effect],
    )


def sweep(model: object, facts: list[tlk.Fact], args: argparse.Namespace) -> None:
    """At every layer, by how many dimensions."""
    for dims in args.dims:
        scores = tlk.subspaces.measure_subspaces(
            model, facts, component=args.component, at=args.at, dims=dims, layers=args.layers, by=args.by, seed=args.seed, progress=False
        )
        print(f"\n{scores.headline()}; left out: {scores.left_out}")
        table = with_intervals(scores.by_layer()).pivot_table(
            index=["layer", "pairs"], columns="subspace", values="said", aggfunc="first", sort=False
        )
        print(table.reset_index().to_markdown(index=False), flush=True)
        if args.figure:
            scores.plot().write_html(f"{args.figure}_{dims}.html")


def illusions(model: object, facts: list[tlk.Fact], args: argparse.Namespace) -> None:
    """At the hidden activations of some MLPs, how much of each subspace's effect its written part keeps."""
    train, validation, held_out = tlk.subspaces.split_pairs(facts, by=args.by, seed=args.seed)
    for layer in args.layers or range(model.cfg.n_layers):
        for dims in args.dims:
            try:
                subspace = tlk.subspaces.learn_subspace(
                    model, train, validation=validation, component="neuron", layer=layer, at=args.at, dims=dims, progress=False
                )
            except tlk.errors.InputError as error:
                print(f"\nlayer {layer}, {dims} dims: {error}")
                continue
            check = subspace.check_illusion(model, held_out)
            print(f"\nlayer {layer}, {dims} dims: {check.headline()}")
            print(with_intervals(check.by_part()).to_markdown(index=False), flush=True)
            if args.figure:
                check.plot().write_html(f"{args.figure}_illusion_{layer}_{dims}.html")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--relation", nargs="+", default=["P103"])
    parser.add_argument("--dims", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--component", default="resid_post")
    parser.add_argument("--at", default="subject")
    parser.add_argument("--by", default="relation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--illusion", action="store_true")
    parser.add_argument("--figure")
    args = parser.parse_args()
    model, facts = tlk.load_model("factlm"), tlk.load_facts()
    chosen = facts if args.relation == ["all"] else tlk.datasets.of_relation(facts, *args.relation)
    (illusions if args.illusion else sweep)(model, chosen, args)


if __name__ == "__main__":
    main()
