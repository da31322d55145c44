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
from tl_knowledge.model import layer_count

MIB = 2**20
SHAPES = {
    "gpt2-small": {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257, "n_positions": 128},
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


def needed_flops(model, length: int, samples: int, positions: int) -> float:
    """Matrix products that the sweep's rows need: each row in the blocks behind its birth, and its answer's logits."""
    layers, width, d_mlp = layer_count(model), int(model.cfg.d_model), int(model.cfg.d_mlp)
    block = length * (8 * width**2 + 4 * width * d_mlp)
    rows_in = [1 + samples * (1 + positions * layer) for layer in range(layers)]
    return sum(rows_in) * block + (rows_in[-1] + samples) * 2 * width * int(model.cfg.d_vocab)


def peak_memory(shape: str, budget: float) -> str:
    """Peak resident memory above the loaded model of one sweep, measured in a process of its own."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import resource, trace_engines as t\n"
        f"m = t.random_model({shape!r}); t.one_trace(m, 'loop', {budget}, layers=[0], positions=[11])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"t.one_trace(m, 'rows', {budget})\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout
    return out.strip().splitlines()[-1]


def one_trace(model, engine: str, budget: float, **restrict) -> tlk.CausalTrace:
    tokens = torch.randint(0, int(model.cfg.d_vocab), (1, 12), generator=torch.Generator().manual_seed(0))
    prompt = tlk.Prompt.from_tokens(tokens, subject=range(1, 4), target=5, has_bos=True)
    return tlk.trace(model, prompt, 0.1, samples=10, engine=engine, memory_budget=budget, progress=False, **restrict)


def timed(model, engine: str, budget: float) -> float:
    start = time.perf_counter()
    one_trace(model, engine, budget)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget-mib", type=float, default=1024.0)
    args = parser.parse_args()
    budget = args.budget_mib * MIB
    print(f"T = 12, 10 samples, resid_post, {torch.get_num_threads()} threads, budget {args.budget_mib:.0f} MiB")
    for shape in SHAPES:
        model = random_model(shape)
        one_trace(model, "rows", budget, layers=[0])
        pairs = [(timed(model, "loop", budget), timed(model, "rows", budget)) for _ in range(args.repeats)]
        ratio, loop, rows = statistics.median(a / b for a, b in pairs), *map(statistics.median, zip(*pairs, strict=True))
        same = torch.allclose(one_trace(model, "loop", budget).indirect_effect, one_trace(model, "rows", budget).indirect_effect, atol=1e-5)
        share = needed_flops(model, 12, 10, 11) / rows / matrix_rate()
        print(
            f"{shape:>10}: loop {loop:.2f} s, rows {rows:.2f} s, ratio {ratio:.1f}x, equal to 1e-5: {same}; rows reach {share:.0%} of the "
            f"machine's matrix-product rate; peak memory of the sweep {peak_memory(shape, budget)} MiB of {args.budget_mib:.0f} MiB"
        )


if __name__ == "__main__":
    main()
