"""Editing at GPT-2-small shape: ROME's optimisation, MEMIT's values, second moments; each beside the obvious program, in one run.

    python benchmarks/editing.py [--facts 64] [--steps 8]

Ratios, because the machine's speed cancels in them. FactLM's words are tokenised with its own tokenizer; the larger network has random weights.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import replace

import torch
from trace_engines import random_model, timed
from transformers import AutoTokenizer

import tl_knowledge as tlk
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import rows_of
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.loading import FACTLM_DIRECTORY
from tl_knowledge.models.weights import output_hook

ROME_STEPS = 20
LAYER, MEMIT_LAYER = 5, 8  # ROME's layer for GPT-2 small; the end of a range of MEMIT


def whole_forwards(model, rows, site: str, steps: int) -> None:
    """The loop of Meng et al.'s programs: every step runs all layers and unembeds every position."""
    number = torch.arange(len(rows.edited))
    start = model.run_with_cache(rows.tokens, names_filter=[site])[1][site][0, rows.edited[0]].detach()
    delta = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=0.5)

    def change(activation, *, hook):
        changed = activation.clone()
        changed[number, rows.edited] = changed[number, rows.edited] + delta
        return changed

    for _ in range(steps):
        log_p = model.run_with_hooks(rows.tokens, fwd_hooks=[(site, change)]).log_softmax(-1)
        scored = log_p[:-1].gather(1, rows.scored[..., None].expand(-1, -1, log_p.shape[-1]))
        loss = -scored.gather(-1, rows.answer[None, :, None].expand(len(scored), -1, 1)).mean()
        loss = loss + 0.0625 * log_p[-1, rows.essence].exp().sum() + 0.5 * delta.norm() / start.norm() ** 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="of MEMIT's values")
    args = parser.parse_args()
    factlm, model = tlk.load_model("factlm"), random_model("gpt2-small")
    model.tokenizer = AutoTokenizer.from_pretrained(FACTLM_DIRECTORY)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    facts = [case.rewrite for case in tlk.load_edit_cases()[: args.facts]]
    settings = tlk.editing.ValueSettings(steps=args.steps, stop_below=0.0)
    rome, memit = (context_templates(factlm, lengths) for lengths in (tlk.ROME(layer=LAYER).contexts, tlk.MEMIT(layers=(MEMIT_LAYER,)).contexts))
    one = rows_of(model, facts[0], rome, "subject")
    batch = [rows_of(model, fact, memit, "subject") for fact in facts]
    site = output_hook(model, LAYER)
    optimise_values(model, [one], LAYER, site, replace(settings, steps=1))  # what is tried once a model
    own = replace(settings, steps=ROME_STEPS)
    fast, _ = timed(lambda: optimise_values(model, [one], LAYER, site, own))
    slow, _ = timed(lambda: whole_forwards(model, one, site, ROME_STEPS))
    print(f"ROME, layer {LAYER} of 12, {len(rome)} contexts, {ROME_STEPS} steps: {fast:.2f} s; whole forwards {slow:.2f} s = {slow / fast:.1f}x")
    site = block_output(MEMIT_LAYER)
    optimise_values(model, batch[:1], MEMIT_LAYER, site, replace(settings, steps=1))
    together, _ = timed(lambda: optimise_values(model, batch, MEMIT_LAYER, site, settings))
    slow, _ = timed(lambda: [whole_forwards(model, rows, site, args.steps) for rows in batch])
    print(
        f"MEMIT's values of {len(facts)} facts, layer {MEMIT_LAYER}: together {together:.2f} s; "
        f"one by one, as Meng et al.'s program does, {slow:.2f} s = {slow / together:.1f}x"
    )
    corpus = tlk.load_corpus()
    top, _ = timed(lambda: tlk.collect_key_moments(factlm, corpus, layers=[7], progress=False))
    every, _ = timed(lambda: tlk.collect_key_moments(factlm, corpus, progress=False))
    print(f"moments of 5,120 tokens (FactLM): all 8 layers {every:.2f} s; the top layer alone {top:.2f} s = {every / top:.1f}x")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
