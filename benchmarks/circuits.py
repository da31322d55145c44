"""How much circuits of FactLM's facts explain, and how much faster the growing rows find their edges than one forward each.

    python benchmarks/circuits.py [--facts 20] [--rank need]
    python benchmarks/circuits.py --shape gpt2 [--class own] [--repeats 1]

The second form builds one circuit of a model of a published shape with random weights (``--shape factlm`` is the bundled one) in two ways, one
after the other in one process: as it is, and with runs that all begin as the corrupted run and are run from their first position on, whatever
is held in them. It prints the floating-point work of each, counted, and the seconds of one thread.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import trace_engines
from torch.utils.flop_counter import FlopCounterMode

import tl_knowledge as tlk
from tl_knowledge.circuits import Node, paths
from tl_knowledge.circuits.paths import find_edges
from tl_knowledge.models.rehearsal import random_model
from tl_knowledge.runs import intervention_batch, interventions, reach
from tl_knowledge.runs.bases import bases_of
from tl_knowledge.runs.contrast import Contrast, node_hooks, noise_contrast
from tl_knowledge.runs.metric import PROBABILITY

PARTS = ("mlp_out", "attn_out")
BUDGET = 2.0**30


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--facts", type=int, default=20)
    parser.add_argument("--shape", help="one circuit at a published model's shape, such as gpt2; several minutes")
    parser.add_argument("--class", dest="kind", choices=["bridge", "own"], default="bridge", help="of a model of a shape: own is HookedTransformer")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rank", action="append", choices=["need", "effect", "either"], help="repeatable; default all, about ten minutes")
    options = parser.parse_args()
    if options.shape:
        print(one_circuit(shaped(options.shape, options.kind), options.repeats), flush=True)
        return
    model, facts = tlk.load_model("factlm"), tlk.load_facts("factlm")
    drawn = random.Random(0).sample(facts, options.facts)
    print(each_fact_its_own(model, drawn, options.rank or ["need", "effect", "either"]).round(3).to_string(index=False), flush=True)
    print(one_for_all(model, drawn).round(3).to_string(index=False))
    print(speed(model, drawn[:6]))


def each_fact_its_own(model: tlk.HookedModel, facts: list[tlk.Fact], ranks: list[Any]) -> pd.DataFrame:
    """Circuits of single facts: shares of the total effect, mean, smallest and interval over facts."""
    explained: dict[tuple[str, int], list[tuple[float, ...]]] = defaultdict(list)
    for fact in facts:
        prompt = tlk.Prompt.from_fact(model, fact)
        traces = [tlk.trace(model, prompt, component=part, progress=False) for part in PARTS]
        for rank in ranks:
            for top in (10, 20, 40):
                circuit = tlk.circuits.from_trace(model, prompt, traces, limit=top, rank=rank, progress=False)
                assert len(circuit.nodes) <= top
                explained[rank, top].append((circuit.faithfulness, circuit.completeness, circuit.wired, len(circuit.edges)))
    rows = [{"circuit": "of each fact", "rank": rank, "nodes": top} | _summary(np.array(shares)) for (rank, top), shares in explained.items()]
    return pd.DataFrame(rows)


def one_for_all(model: tlk.HookedModel, facts: list[tlk.Fact]) -> pd.DataFrame:
    """One circuit for all facts: component, layer and token role, ranked by mean need; each fact is then measured on it."""
    circuit = tlk.circuits.from_facts(model, facts, limit=40, known_only=False, progress=False)
    grown = circuit.summary().query("nodes in (20, 40)")
    names = {"faithfulness_low": "low", "faithfulness_high": "high", "faithfulness_smallest": "smallest"}
    columns = ["nodes", "faithfulness", *names, "completeness"]
    return grown[columns].rename(columns=names).assign(circuit="one for all (by token role)", rank="need")


def speed(model: tlk.HookedModel, facts: list[tlk.Fact]) -> str:
    """Seconds for all edges among 20 sites, in growing batches and one forward (of all samples) each."""
    seconds: dict[str, float] = {}
    real = interventions.growing_rows_refusal
    for name, refusal in (("rows", real), ("loop", lambda model: "for comparison")):
        interventions.growing_rows_refusal = refusal
        start = time.perf_counter()
        for fact in facts:
            prompt = tlk.Prompt.from_fact(model, fact)
            last = len(prompt) - 1
            places = [Node(part, layer, pos) for layer in range(model.cfg.n_layers) for part in PARTS for pos in (prompt.subject.last, last)]
            find_edges(_contrast(model, prompt), places[:20], BUDGET)
        seconds[name] = time.perf_counter() - start
    interventions.growing_rows_refusal = real
    return f"edges among 20 sites: {seconds['rows'] / len(facts):.2f} s a fact, one by one {seconds['loop'] / seconds['rows']:.1f}x as long"


def shaped(shape: str, kind: str) -> tlk.HookedModel:
    """The bundled model, or one of a published shape with random weights and the bundled one's tokenizer."""
    if shape == "factlm":
        return tlk.load_model("factlm")
    model = random_model(shape)
    if kind == "bridge":
        return model
    own: Any = trace_engines.random_model("gpt2-small")
    own.tokenizer = model.tokenizer
    return own


def one_circuit(model: tlk.HookedModel, repeats: int) -> str:
    """Work and seconds of a circuit of 20 sites and ten samples of about 8 tokens, as it is and with whole runs; and how they differ."""
    torch.set_num_threads(1)
    prompt = min((tlk.Prompt.from_fact(model, fact) for fact in tlk.load_facts("factlm")[:50]), key=lambda prompt: abs(len(prompt) - 8))
    traces = [tlk.trace(model, prompt, component=part, progress=False) for part in PARTS]
    ways = {"as it is": nullcontext, "whole runs": whole_runs}
    seconds, flops, made = defaultdict[str, list[float]](list), dict[str, float](), dict[str, tlk.circuits.Circuit]()
    for repeat in range(1 + repeats):
        for name, way in ways.items():
            start = time.process_time()
            with way(), nullcontext() if repeat else FlopCounterMode(display=False) as counter:
                made[name] = tlk.circuits.from_trace(model, prompt, traces, progress=False)
            if counter is None:
                seconds[name].append(time.process_time() - start)
            else:
                flops[name] = counter.get_total_flops() / 1e9
    ours, whole = ways
    apart = max(float((getattr(made[ours], what) - getattr(made[whole], what)).abs().max()) for what in ("effect", "need"))
    lines = [f"{name}: {flops[name]:.0f} GFLOP, {min(seconds[name]):.1f} CPU seconds" for name in ways]
    more = f"{flops[whole] / flops[ours]:.1f}x the work, {min(seconds[whole]) / min(seconds[ours]):.1f}x the seconds"
    return "\n".join([f"{len(prompt)} tokens", *lines, f"{more}; largest difference {apart:.0e}"])


@contextmanager
def whole_runs() -> Iterator[None]:
    """Every run begins as the corrupted one, and is run from its first write on at every later position."""

    def places(runs: Sequence[Any], n_layers: int, length: int, answer: int) -> Iterator[reach.Needed]:
        where = torch.arange(length)
        later = torch.stack([where >= min(node.pos for node in run.writes) for run in runs])
        for layer in range(n_layers):
            read = later & (where >= answer) if layer == n_layers - 1 else later
            yield reach.Needed(later, read, read)

    def unknown(contrast: Contrast, one: Any, memory_budget: float) -> Any:
        return interventions.intervene(contrast, [one], memory_budget), []

    with (
        patch.object(interventions, "bases_of", lambda contrast: bases_of(contrast)[:1]),
        patch.object(intervention_batch, "needed_places", places),
        patch.object(paths, "known_run", unknown),
    ):
        yield


def _contrast(model: tlk.HookedModel, prompt: tlk.Prompt) -> Contrast:
    noise = tlk.GaussianNoise("3sd").resolve(model)
    answer = torch.tensor([prompt.target_token])
    return noise_contrast(model, prompt, answer, prompt.subject.positions, noise, 10, node_hooks(model, PARTS), PROBABILITY)


def _summary(shares: np.ndarray) -> dict[str, float]:
    """Mean faithfulness with its 95% bootstrap interval over facts, the smallest; means of the rest."""
    draws = np.random.default_rng(0).integers(0, len(shares), (2000, len(shares)))
    low, high = np.percentile(shares[draws, 0].mean(1), [2.5, 97.5])
    mean, complete, *edges = shares.mean(0)
    known = {"faithfulness": mean, "low": low, "high": high, "smallest": shares[:, 0].min(), "completeness": complete}
    return known | dict(zip(("by its edges", "edges"), edges, strict=False))


if __name__ == "__main__":
    main()
