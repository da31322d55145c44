"""Time per fact of `trace_facts` on FactLM, beside the loop, in one run: both corruptions, three components, ten samples.

    python benchmarks/trace_fact_sets.py [--facts 24] [--repeats 3]

Two loops are timed: the original program's (one forward for every token and layer, the clean run in every batch) and our
``engine="loop"``, which leaves out effects that are known to be zero. Ratios, because the machine's speed cancels in them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from trace_engines import SAMPLES, original_loop

import tl_knowledge as tlk
from tl_knowledge.runs.roles import SIDES

COMPONENTS = ("resid_post", "mlp_out", "attn_out")


def seconds_a_fact(facts, model, **kwargs) -> tuple[float, tlk.TraceAverage]:
    start = time.perf_counter()
    found = tlk.trace_facts(model, facts, samples=SAMPLES, progress=False, **kwargs)
    return (time.perf_counter() - start) / len(facts), found


def original_seconds_a_fact(facts, model, found: tlk.TraceAverage) -> tuple[float, float]:
    """Seconds a fact of the original loop, and the largest difference between its effects and ours."""
    noise, largest = tlk.GaussianNoise("3sd").resolve(model), 0.0
    ours = {(t.fact.text, t.corrupt, t.component): t for t in found.traces}
    start = time.perf_counter()
    for fact in facts:
        prompt = tlk.Prompt.from_fact(model, fact)
        for side in SIDES:
            for component in COMPONENTS:
                trace = ours[fact.text, side, component]
                effects = original_loop(model, prompt, noise.with_seed(trace.seed), side=side, component=component, window=trace.window)
                largest = max(largest, float((effects - torch.from_numpy(trace.effect)).abs().max()))
    return (time.perf_counter() - start) / len(facts), largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    model = tlk.load_model("factlm")
    facts = tlk.sample_facts(tlk.known_facts(model, tlk.load_facts("factlm")), args.facts)
    seconds_a_fact(facts[:1], model)
    swept, looped = [], []
    for _ in range(args.repeats):
        swept.append(seconds_a_fact(facts, model))
        looped.append(seconds_a_fact(facts, model, engine="loop")[0])
    rows, loop = statistics.median(seconds for seconds, _ in swept), statistics.median(looped)
    original, largest = original_seconds_a_fact(facts, model, swept[0][1])
    what = f"FactLM, {len(facts)} facts, two corruptions x three components, {SAMPLES} samples, {torch.get_num_threads()} threads"
    print(f"{what}: trace_facts {rows:.2f} s a fact; original program's loop {original:.2f} s = {original / rows:.1f}x;", end=" ")
    print(f"engine='loop' {loop:.2f} s = {loop / rows:.1f}x; largest difference {largest:.0e}")


if __name__ == "__main__":
    main()
