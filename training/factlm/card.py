"""Write FactLM's model card, corpus and figure from the measurements of ``measure.py``, or the page of its LLaMA-shaped sibling.

    python training/factlm/card.py build/seed0/measured.json build/seed1/measured.json build/seed2/measured.json
    python training/factlm/card.py --llama build/llama/measured.json

The first is the shipped model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from measure import COMPONENTS, ROLES, SIDES
from text import paragraphs

from tl_knowledge.drawing import HeatMap, heat_maps

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tl_knowledge" / "factlm"
CORPUS_PARAGRAPHS = 1000
WORDS = {"resid_post": "residual state", "mlp_out": "MLP output, 2 layers", "attn_out": "attention output, 2 layers"}


def write_corpus() -> None:
    (PACKAGE / "corpus.txt").write_text("\n".join(paragraphs(CORPUS_PARAGRAPHS, seed=424_242)) + "\n", encoding="utf-8")


def figure(traces: dict) -> object:
    """Six heat maps, role by layer: what the README shows."""
    maps = [
        HeatMap(
            np.array([traces["effects"][f"{side}/{component}"][role] for role in ROLES]),
            ROLES,
            [str(layer) for layer in range(len(traces["effects"][f"{side}/{component}"][ROLES[0]]))],
            f"{side} corrupted: {WORDS[component]}",
            "token role",
            "layer" if component == "resid_post" else "centre of 2 layers",
            marked=frozenset(range(3)) if side == "subject" else frozenset(range(3, 6)),
        )
        for side in SIDES
        for component in COMPONENTS
    ]
    clean, low = traces["clean"]["subject"], {side: traces["clean"][side] - traces["total"][side] for side in SIDES}
    subtitle = (
        f"mean over {traces['facts']} facts, 10 noise samples each; mean P(object): clean {clean:.1%}, "
        f"subject corrupted {low['subject']:.1%}, relation corrupted {low['relation']:.1%}; * corrupted tokens"
    )
    return heat_maps(maps, title="Where FactLM keeps the subject and the relation", subtitle=subtitle, colour_axis="mean indirect effect", columns=3)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def knowledge_table(runs: list[dict]) -> str:
    names = list(runs[0]["knowledge"])
    return table(["% correct", *seeds(runs)], [[name, *(f"{run['knowledge'][name]:.1f}" for run in runs)] for name in names])


def trace_table(run: dict) -> str:
    traces, rows = run["traces"], []
    for side in SIDES:
        for component in (name for name in COMPONENTS if f"{side}/{name}" in traces["effects"]):
            for role in ROLES:
                effects = traces["effects"][f"{side}/{component}"][role]
                rows.append([side, component, role, *(f"{x:.3f}" for x in effects), f"{max(effects) / traces['total'][side]:.0%}"])
    layers = [str(layer) for layer in range(len(rows[0]) - 4)]
    return table(["corrupted", "restored", "role", *layers, "max / TE"], rows)


def shares(run: dict, key: str, role: str) -> np.ndarray:
    """By layer, the mean effect of a restored component, ``"side/component"``, as a share of the side's mean total effect."""
    return np.array(run["traces"]["effects"][key][role]) / run["traces"]["total"][key.split("/", maxsplit=1)[0]]


def summary_table(runs: list[dict]) -> str:
    def share(run: dict, key: str, role: str) -> str:
        effects, of_total = run["traces"]["effects"][key][role], shares(run, key, role)
        return f"{max(effects):.2f} ({of_total.max():.0%} of TE) at layer {int(of_total.argmax())}"

    rows = [[f"total effect, {side} corrupted", *(f"{run['traces']['total'][side]:.3f}" for run in runs)] for side in SIDES]
    for key in ("subject/mlp_out", "relation/mlp_out"):
        rows.append([f"{key.split('/')[0]}: MLP at the last subject token", *(share(run, key, "last subject token") for run in runs)])
    for key in ("subject/attn_out", "subject/mlp_out", "relation/mlp_out", "relation/attn_out"):
        side, component = key.split("/")
        rows.append([f"{side}: {component} at the last token", *(share(run, key, "last token") for run in runs)])
    return table(["mean over facts", *seeds(runs)], rows)


def editing_table(runs: list[dict]) -> str:
    names = list(next(iter(runs[0]["editing"].values())))
    rows = [
        [f"{label}, layer {layer}", *(f"{scores[name]:.0f}" for name in names)]
        for run, label in zip(runs, seeds(runs), strict=True)
        for layer, scores in sorted(run["editing"].items())
    ]
    return table(["%", *names], rows)


def suppression_table(runs: list[dict]) -> str:
    def change(row: dict) -> str:
        return f"{100 * row['change']:+.2f}% [{100 * row['low']:+.2f}%, {100 * row['high']:+.2f}%]"

    rows = [[what, *(change(run["suppression"][what]) for run in runs)] for what in runs[0]["suppression"]]
    counts = ["facts", *(str(next(iter(run["suppression"].values()))["facts"]) for run in runs)]
    return table(["change of P(object), 95% bootstrap", *seeds(runs)], [*rows, counts])


def seeds(runs: list[dict]) -> list[str]:
    return [f"seed {i}" + (" (shipped)" if i == 0 else "") for i in range(len(runs))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, nargs="*")
    parser.add_argument("--llama", type=Path, help="measurements of the LLaMA-shaped sibling: its page alone is written")
    parser.add_argument("--figure", type=Path, default=ROOT / "build" / "factlm_traces.html")
    args = parser.parse_args()
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in args.measured]
    if args.llama is not None:
        runs = [json.loads(args.llama.read_text(encoding="utf-8")), *runs]
    if not runs:
        parser.error("no measurements were given; pass the measured.json of each seed, or --llama with one.")
    card = filled("card_template.md" if args.llama is None else "card_llama_template.md", parts_of(runs))
    (ROOT / "docs" / ("factlm.md" if args.llama is None else "factlm_llama.md")).write_text(card, encoding="utf-8")
    if args.llama is None:
        write_corpus()
        (PACKAGE / "README.md").write_text(card, encoding="utf-8")
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        figure(runs[0]["traces"]).write_html(args.figure, include_plotlyjs=True, config={"displayModeBar": False})


def parts_of(runs: list[dict]) -> dict[str, str]:
    """What stands in a card's places."""
    return {
        "KNOWLEDGE": knowledge_table(runs),
        "SUMMARY": summary_table(runs),
        "EDITING": editing_table(runs),
        "SUPPRESSION": suppression_table(runs) if all("suppression" in run for run in runs) else "",
        "FACTS": str(runs[0]["traces"]["facts"]),
        "TRACES": "\n\n".join(f"### {label}\n\n{trace_table(run)}" for run, label in zip(runs, seeds(runs), strict=True)),
    }


def filled(template: str, parts: dict[str, str]) -> str:
    """A template with the measurements in it."""
    page = (Path(__file__).parent / template).read_text(encoding="utf-8")
    for name, part in parts.items():
        page = page.replace(f"<!-- {name} -->", part)
    return page


if __name__ == "__main__":
    main()
