"""How much circuits of FactLM's facts explain, and how much faster the growing rows find their edges than one forward each.

python benchmarks/circuits.py [--facts 20] [--rank need]
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
import torch

import tl_knowledge as tlk
from tl_knowledge.circuits import Node
from tl_knowledge.circuits.paths import find_edges
from tl_knowledge.runs import interventions
from tl_knowledge.runs.contrast import Contrast, node_hooks, noise_contrast
from tl_knowledge.runs.metric import PROBABILITY

PARTS = ("mlp_out", "attn_out")
BUDGET = 2.0**30


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--facts", type=int, default=20)
    parser.add_argument("--rank", action="append", choices=["need", "effect", "either"], help="repeatable; default all, about ten minutes")
    model, facts, options = tlk.load_model("factlm"), tlk.load_facts("factlm"), parser.parse_args()
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
