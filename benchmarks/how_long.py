"""How long the drivers take and how much memory they need on the bundled model, each in a process of its own; prints the table of docs/how_long.md.

python benchmarks/how_long.py

Seconds are the CPU's on one thread, so that other work on the machine counts little; memory is the process' peak, the libraries with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from time import process_time

CALLS = {
    "load_model": ("import and `load_model`", ""),
    "trace": ("`trace`, one component", 'tlk.trace(model, prompt, component="mlp_out")'),
    "trace_head": ('`trace(component="head")`', 'tlk.trace(model, prompt, component="head")'),
    "trace_facts": (
        "`trace_facts` of 10 facts, both sides, three components, both severings",
        'tlk.trace_facts(model, facts[:10], sever=("mlp_out", "attn_out"), known_only=False)',
    ),
    "attribute": ("`attribute_neurons` of one prompt", "tlk.attribute_neurons(model, prompt)"),
    "locate": ("`locate_neurons` of 10 facts", "tlk.locate_neurons(model, facts[:10])"),
    "heads": ("`analyse_attention` of one prompt", "tlk.analyse_attention(model, prompt)"),
    "ablation": ('`measure_ablation(heads="all")` of one prompt', 'tlk.tracing.measure_ablation(model, prompt, heads="all", by="zero")'),
    "circuit": (
        "`circuits.from_trace`, 20 sites",
        'tlk.circuits.from_trace(model, prompt, [tlk.trace(model, prompt, component=c) for c in ("mlp_out", "attn_out")], limit=20)',
    ),
    "moments": ("`collect_key_moments`, all layers", "tlk.collect_key_moments(model, tlk.load_corpus())"),
    "rome": ("`plan_edit` with `ROME`, moments given", "tlk.plan_edit(model, case.rewrite, rome, moments=moments)"),
    "ft": ("`plan_edit` with `FineTune`", "tlk.plan_edit(model, case.rewrite, tlk.FineTune.for_model(model))"),
    "evaluate": ("`evaluate` with `ROME`, 5 cases", "tlk.evaluate(model, tlk.load_edit_cases()[:5], rome, moments=moments)"),
    "report": ("`report_fact` with an edit", 'tlk.report_fact(model, fact, edit_to=" violin", method=rome, moments=moments).to_html()'),
}
NEEDS_MOMENTS = {"rome", "evaluate", "report"}


def main() -> None:
    """Print the table, or measure one call as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CALLS))
    only = parser.parse_args().only
    if only:
        print(json.dumps(measure(only)))
        return
    print("| call | CPU seconds | peak memory |\n|---|---|---|")
    for name, (said, _) in CALLS.items():
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, "--only", name],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        took = json.loads(ran.stdout.splitlines()[-1])
        print(f"| {said} | {took['seconds']:.1f} | {took['megabytes']:.0f} MB |", flush=True)


def measure(name: str) -> dict[str, float]:
    """One call, its preparations left out of the seconds."""
    import resource

    start = process_time()
    import tl_knowledge as tlk

    model = tlk.load_model("factlm")
    loaded = process_time() - start
    fact, facts, case = tlk.Fact("Paul McCartney", "{} plays the", " piano"), tlk.load_facts(), tlk.load_edit_cases()[0]
    names = {"tlk": tlk, "model": model, "fact": fact, "facts": facts, "case": case, "prompt": tlk.Prompt.from_fact(model, fact)}
    if name in NEEDS_MOMENTS:
        names |= {"rome": tlk.ROME.for_model(model), "moments": tlk.collect_key_moments(model, tlk.load_corpus(), progress=False)}
    start = process_time()
    exec(CALLS[name][1], names)
    seconds = loaded if name == "load_model" else process_time() - start
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
