"""Does tracing say, fact by fact, in which layer a rewrite works (Hase et al. 2023)?  ROME in every layer, and every layer traced.

    python training/factlm/per_fact.py build/factlm --json training/factlm/measured/gpt2_seed0_per_fact.json

Hase et al. take the largest effect over the tokens; ROME writes at the last subject token, so that the effect there is regressed on, too.
``compare.py`` makes tables of it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

import tl_knowledge as tlk

FACTS, SAMPLES = 30, 10
OUTCOMES = ("rewrite", "overall")
ANYWHERE, AT_SUBJECT = "largest over the tokens", "last subject token"


def rome(layer: int, objective: tlk.editing.Objective) -> tlk.ROME:
    return tlk.ROME(layer=layer, objective=objective)


def at_subject(model, sweep: tlk.localised.LayerSweep, cases: list[tlk.EditCase]) -> tlk.localised.LayerSweep:
    """The sweep with the tracing effects of the last subject token instead of the largest over the tokens."""
    table, facts = sweep.table.copy(), {case.case_id or str(number): case.fact for number, case in enumerate(cases)}
    for case_id, rows in table.groupby("case_id"):
        prompt = tlk.Prompt.from_fact(model, facts[case_id])
        place, settings = prompt.subject.last, sweep.settings
        traced = tlk.trace(
            model, prompt, component="mlp_out", window=settings.window, samples=settings.samples, multi_token=True, positions=place, progress=False
        )
        shares = (traced.mean_effect[:, place] / traced.total_effect.mean()).clamp_min(0).tolist()
        table.loc[rows.index, "fraction_restored"] = [shares[layer] for layer in rows["layer"]]
    table["tracing_effect"] = table["fraction_restored"].clip(upper=1)
    return replace(sweep, table=table)


def fitted(sweep: tlk.localised.LayerSweep) -> dict[str, dict[str, float]]:
    """By outcome, R^2 of the layer, of the tracing effect and of both, the test that tracing adds nothing, and the sign of what it tells."""
    found = {}
    for outcome in OUTCOMES:
        fit = sweep.regressions(outcome=outcome)
        column = {"rewrite": "score"}.get(outcome, outcome)
        correlation = float(sweep.table[column].astype(float).corr(sweep.table["tracing_effect"]))
        found[outcome] = {"layer": fit.first, "tracing": fit.second, "both": fit.both, "p": fit.p, "correlation": correlation}
    return found


def per_fact(model, count: int, window: int) -> dict:
    """All that the page says of single facts."""
    cases = tlk.load_edit_cases("factlm")[:count]
    moments = tlk.collect_key_moments(model, tlk.load_corpus(), progress=False)
    anywhere = tlk.localised.sweep_layers(model, cases, rome, moments=moments, window=window, samples=SAMPLES, progress=False)
    there = at_subject(model, anywhere, cases)
    means = anywhere.summary().set_index("layer").drop(columns="tracing_effect")
    for name, sweep in ((ANYWHERE, anywhere), (AT_SUBJECT, there)):
        means[name] = sweep.summary().set_index("layer")["tracing_effect"]
    return {
        "facts": int(anywhere.table["case_id"].nunique()),
        "skipped": anywhere.skipped,
        "window": window,
        "means": means.to_dict(),
        "regressions": {ANYWHERE: fitted(anywhere), AT_SUBJECT: fitted(there)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--facts", type=int, default=FACTS)
    parser.add_argument("--window", type=int, default=1, help="layers restored together")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = tlk.load_model(str(args.model) if args.model.exists() else args.model.name)
    found = per_fact(model, args.facts, args.window)
    args.json.write_text(json.dumps({"model": args.model.name, **found}, indent=1), encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
