"""Integrated gradients of every neuron at GPT-2-small shape: the frozen prefix beside a per-layer loop, in one run.

    python benchmarks/attribution.py [--length 30] [--steps 20] [--repeats 5]

The loop is what the published packages do: for each layer one forward and one backward of the whole prompt, batched over the steps.
Ratios, because the machine's speed cancels in them. Weights are random: speed does not depend on them. EleutherAI's package itself runs in
``benchmarks/peers.py``.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from trace_engines import random_model, timed

import tl_knowledge as tlk
from tl_knowledge.models.protocol import layer_count


def loop_over_layers(model, prompt: tlk.Prompt, steps: int) -> torch.Tensor:
    """Scores ``[layer d_mlp]``."""
    scores, tokens = [], prompt.batch(steps)
    for layer in range(layer_count(model)):
        name = f"blocks.{layer}.mlp.hook_post"
        with torch.no_grad():
            _, cache = model.run_with_cache(prompt.tokens, names_filter=[name])
        clean = cache[name][0, -1].detach()
        path = (torch.arange(1, steps + 1)[:, None] / steps * clean).requires_grad_(True)

        def put(activation, *, hook, path=path):
            changed = activation.clone()
            changed[:, -1] = path
            return changed

        probability = model.run_with_hooks(tokens, fwd_hooks=[(name, put)])[:, -1].softmax(-1)[:, prompt.target_token]
        scores.append(clean * torch.autograd.grad(probability.sum(), path)[0].mean(0))
    return torch.stack(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    model = random_model("gpt2-small")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tokens = torch.randint(0, int(model.cfg.d_vocab), (1, args.length), generator=torch.Generator().manual_seed(0))
    prompt = tlk.Prompt.from_tokens(tokens, target=5)
    tlk.attribute_neurons(model, prompt, steps=args.steps, progress=False)
    fast = [timed(lambda: tlk.attribute_neurons(model, prompt, steps=args.steps, progress=False)) for _ in range(args.repeats)]
    slow_seconds, expected = timed(loop_over_layers, model, prompt, args.steps)
    seconds = statistics.median(s for s, _ in fast)
    error = float((fast[0][1].scores[0] - expected).abs().max() / expected.abs().max())
    print(
        f"GPT-2 small shape, T = {args.length}, m = {args.steps}, {torch.get_num_threads()} threads: all layers {seconds:.2f} s; loop over layers, "
        f"batched over steps {slow_seconds:.1f} s = {slow_seconds / seconds:.0f}x; largest relative difference {error:.0e}"
    )


if __name__ == "__main__":
    main()
