"""Values of many facts as MEMIT optimises them, all together, beside the obvious loop of one fact at a time; in one run.

    python benchmarks/edit_values.py [--facts 32] [--shape gpt2-small-wide] [--layer 3] [--plain]

The loop is Meng et al.'s program: whole forwards, all positions unembedded, one fact after the other, which stops as ours does. It is run for a
few facts (``--loop-facts``), for one step and for three, and the steps of all facts are counted. Times are the process's own, the smaller of two
runs, one thread. ``--plain`` runs every fact for all steps. Weights are random, but FactLM's; its tokenizer and words are used throughout.
"""

from __future__ import annotations

import argparse
import time

import torch
from editing import whole_forwards
from torch.profiler import ProfilerActivity, profile
from trace_engines import SHAPES, random_model
from transformers import AutoTokenizer

import tl_knowledge as tlk
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import rows_of
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.models.bundled import FACTLM_DIRECTORY
from tl_knowledge.models.hook_names import block_output

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


def spent(work, repeats: int = 2):
    """The smallest time of the process, in seconds, and what came of it."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return min(times), result


def product_share(work) -> float:
    """The share of a run's time that matrix products take."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    own = {each.key: each.self_cpu_time_total for each in profiled.key_averages()}
    return sum(own.get(name, 0) for name in PRODUCTS) / sum(own.values())


def measure_values(shape: str, layer: int, count: int, loop_facts: int, *, stops: bool) -> None:
    """Together against one by one."""
    factlm = tlk.load_model("factlm")
    model = factlm if shape == "factlm" else random_model(shape)
    model.tokenizer = factlm.tokenizer if shape == "factlm" else AutoTokenizer.from_pretrained(FACTLM_DIRECTORY)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    templates = context_templates(factlm, tlk.MEMIT(layers=(layer,)).contexts)
    batch = [rows_of(model, case.rewrite, templates, "subject", essence_alike=True) for case in tlk.load_edit_cases()[:count]]
    settings = tlk.editing.ValueSettings(steps=25, clamp=0.75, stop_below=0.05 if stops else 0.0)
    site = block_output(layer)
    optimise_values(model, batch[:2], layer, site, settings)  # what is tried once a model
    together, values = spent(lambda: optimise_values(model, batch, layer, site, settings))
    steps = [len(value.losses) for value in values]
    one, three = (spent(lambda n=n: [whole_forwards(model, rows, site, n) for rows in batch[:loop_facts]])[0] / loop_facts for n in (1, 3))
    loop = count * one + (three - one) / 2 * (sum(steps) - count)
    share = product_share(lambda: optimise_values(model, batch[:8], layer, site, settings))
    print(
        f"{shape}, values of {count} facts ({len(templates)} contexts) at layer {layer}, {min(steps)} to {max(steps)} steps, {sum(steps)} in all: "
        f"together {together:.1f} s, one by one {loop:.1f} s = {loop / together:.1f}x; matrix products {100 * share:.0f}% of the time"
    )


def measure_alphaedit() -> None:
    """A second plan on the same moments, whose eigenvectors are there."""
    model = tlk.load_model("factlm")
    method, fact = tlk.AlphaEdit.for_model(model), tlk.load_edit_cases()[0].rewrite
    moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=method.layers, progress=False)
    first, second = (spent(lambda: tlk.plan_edit(model, fact, method, moments=moments), 1)[0] for _ in range(2))
    eigenvectors = spent(lambda: torch.linalg.eigh(moments.moments[method.layers[0]]), 1)[0]
    wide = torch.randn(3072, 3072)
    there = spent(lambda: torch.linalg.eigh(wide @ wide.T), 1)[0]
    print(
        f"AlphaEdit on FactLM: first plan {first:.2f} s, the second on the same moments {second:.2f} s; eigenvectors {eigenvectors:.2f} s a layer "
        f"of 512 neurons, {there:.1f} s of 3,072 (GPT-2 small), computed once"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=32)
    parser.add_argument("--loop-facts", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-small-wide")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="no fact stops")
    parser.add_argument("--alphaedit", action="store_true", help="time AlphaEdit's plans, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measure_values(args.shape, args.layer, args.facts, args.loop_facts, stops=not args.plain)
    if args.alphaedit:
        measure_alphaedit()


if __name__ == "__main__":
    main()
