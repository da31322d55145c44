"""One causal trace at GPT-2-small shape: the growing-rows sweep beside the loop, in one run.

    python benchmarks/trace_engines.py [--repeats 3] [--budget-mib 1024]

Prints the ratio (the machine's speed cancels), the share of the machine's own matrix-product rate that each engine reaches,
and the memory the sweep took beside its budget. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch

import tl_knowledge as tlk
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.windows import window_layers

MIB = 2**20
LENGTH, SAMPLES, NOISE = 12, 10, 0.1
SHAPES = {
    "gpt2-small": {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "n_positions": 128},
    "gpt2-small-wide": {"n_layer": 6, "n_head": 12, "n_embd": 768, "vocab_size": 5000, "n_positions": 128},  # in a few seconds on a busy machine
    "factlm": {"n_layer": 8, "n_head": 4, "n_embd": 128, "vocab_size": 2500, "n_positions": 128},
}


def random_model(shape: str):
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        s = SHAPES[shape]
        config = HookedTransformerConfig(
            n_layers=s["n_layer"],
            d_model=s["n_embd"],
            n_heads=s["n_head"],
            d_head=s["n_embd"] // s["n_head"],
            d_mlp=4 * s["n_embd"],
            d_vocab=s["vocab_size"],
            n_ctx=s["n_positions"],
            act_fn="gelu_new",
            normalization_type="LN",
            device="cpu",
            seed=0,
        )
        return HookedTransformer(config).eval()
    except ImportError:
        module = GPT2LMHeadModel(GPT2Config(**SHAPES[shape])).eval()
        return build_bridge_from_module(module, "GPT2LMHeadModel", hf_config=module.config)


def matrix_rate() -> float:
    """The machine's float32 matrix-product rate, in flop/s, measured now."""
    a, b = torch.randn(1024, 768), torch.randn(768, 3072)
    rates = []
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        rates.append(2 * 1024 * 768 * 3072 / (time.perf_counter() - start))
    return statistics.median(rates)


def needed_flops(model) -> float:
    """Matrix products of the sweep: of each born row, what lies at and behind its restored position, and its answer's logits."""
    layers, width, d_mlp = layer_count(model), int(model.cfg.d_model), int(model.cfg.d_mlp)
    positions = range(1, LENGTH)
    tokens_a_layer = SAMPLES * sum(LENGTH - pos for pos in positions)
    born_tokens = sum(tokens_a_layer * layer for layer in range(layers))
    per_token = 8 * width**2 + 4 * width * d_mlp
    logits = SAMPLES * (len(positions) * (layers - 1) + 1) * 2 * width * int(model.cfg.d_vocab)
    return born_tokens * per_token + logits


def peak_memory(shape: str, budget: float) -> str:
    """Peak resident memory of one sweep above the loaded model, in MiB, in a process of its own (Linux only)."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import trace_engines as t; from peak import peak_mib\n"
        f"m = t.random_model({shape!r}); t.one_trace(m, 'rows', {budget}, layers=[10 % m.cfg.n_layers], positions=[11])\n"
        f"print(round(peak_mib(lambda: t.one_trace(m, 'rows', {budget}))))"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    return out.stdout.strip().splitlines()[-1] if out.returncode == 0 else "unknown"


def one_prompt(model) -> tlk.Prompt:
    tokens = torch.randint(0, int(model.cfg.d_vocab), (1, LENGTH), generator=torch.Generator().manual_seed(0))
    return tlk.Prompt.from_tokens(tokens, subject=range(1, 4), target=5, has_bos=True)


def one_trace(model, engine: str, budget: float, **restrict) -> tlk.CausalTrace:
    return tlk.trace(model, one_prompt(model), NOISE, samples=SAMPLES, engine=engine, memory_budget=budget, progress=False, **restrict)


def original_loop(model, prompt: tlk.Prompt, noise, *, side: str = "subject", component: str = "resid_post", window: int = 1) -> torch.Tensor:
    """The original program's loop: every token and layer, the clean run as row 0 of every batch; effects ``[layer pos]``."""
    span, tokens, layers = prompt.span(side).positions, prompt.batch(1 + SAMPLES), layer_count(model)

    def corrupt_rows(x, *, hook):
        changed = x.clone()
        changed[1:, list(span)] = noise.corrupted(x[1:], span)
        return changed

    def scores(hooks) -> torch.Tensor:
        with torch.no_grad():
            logits = model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", corrupt_rows), *hooks])
        return logits[1:, -1].softmax(-1)[:, prompt.target_token].mean()

    def restored(layer, pos):
        def write(x, *, hook):
            changed = x.clone()
            changed[1:, pos] = x[0, pos]
            return changed

        first, last = window_layers(layer, window, layers, "ours")
        return [(component_hook(component, index), write) for index in range(first, last + 1)]

    low = scores([])
    return torch.tensor([[scores(restored(layer, pos)) for pos in range(len(prompt))] for layer in range(layers)]) - low


def timed(call, *arguments):
    start = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="of the sweep and of engine='loop'; the original loop runs once")
    parser.add_argument("--budget-mib", type=float, default=1024.0)
    parser.add_argument("--shapes", nargs="*", default=["gpt2-small", "factlm"])
    args = parser.parse_args()
    budget = args.budget_mib * MIB
    print(f"T = {LENGTH}, {SAMPLES} samples, resid_post, {torch.get_num_threads()} threads, budget {args.budget_mib:.0f} MiB", flush=True)
    for shape in args.shapes:
        model = random_model(shape)
        one_trace(model, "rows", budget, layers=[0])
        swept, looped = [], []
        for _ in range(args.repeats):
            swept.append(timed(one_trace, model, "rows", budget))
            looped.append(timed(one_trace, model, "loop", budget))
        rows, loop = (statistics.median(seconds for seconds, _ in runs) for runs in (swept, looped))
        original, effects = timed(original_loop, model, one_prompt(model), tlk.GaussianNoise(NOISE))
        largest = float((swept[0][1].mean_effect - effects).abs().max())
        share = needed_flops(model) / rows / matrix_rate()
        print(
            f"{shape}: rows {rows:.2f} s; original program's loop {original:.2f} s = {original / rows:.1f}x; engine='loop' (skips effects that are "
            f"zero) {loop:.2f} s = {loop / rows:.1f}x; largest difference {largest:.0e}; rows reach {share:.0%} of the machine's "
            f"matrix-product rate; the sweep took {peak_memory(shape, budget)} of {args.budget_mib:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
