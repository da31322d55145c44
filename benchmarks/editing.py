"""Editing at GPT-2-small shape: ROME's optimisation and second moments, each beside the obvious program, in one run.

    python benchmarks/editing.py

Values of many facts: `benchmarks/edit_values.py`.

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
from tl_knowledge.models.bundled import FACTLM_DIRECTORY
from tl_knowledge.models.weights import output_hook

ROME_STEPS = 20
LAYER = 5  # ROME's for GPT-2 small


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
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    factlm, model = tlk.load_model("factlm"), random_model("gpt2-small")
    model.tokenizer = AutoTokenizer.from_pretrained(FACTLM_DIRECTORY)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    own = tlk.editing.ValueSettings(steps=ROME_STEPS, stop_below=0.0)
    rome, site = context_templates(factlm, tlk.ROME(layer=LAYER).contexts), output_hook(model, LAYER)
    one = rows_of(model, tlk.load_edit_cases()[0].rewrite, rome, "subject")
    optimise_values(model, [one], LAYER, site, replace(own, steps=1))  # what is tried once a model
    fast, _ = timed(lambda: optimise_values(model, [one], LAYER, site, own))
    slow, _ = timed(lambda: whole_forwards(model, one, site, ROME_STEPS))
    print(f"ROME, layer {LAYER} of 12, {len(rome)} contexts, {ROME_STEPS} steps: {fast:.2f} s; whole forwards {slow:.2f} s = {slow / fast:.1f}x")
    corpus = tlk.load_corpus()
    top, _ = timed(lambda: tlk.collect_key_moments(factlm, corpus, layers=[7], progress=False))
    every, _ = timed(lambda: tlk.collect_key_moments(factlm, corpus, progress=False))
    print(f"moments of 5,120 tokens (FactLM): all 8 layers {every:.2f} s; the top layer alone {top:.2f} s = {every / top:.1f}x")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
