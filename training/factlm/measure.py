"""Measure a trained FactLM: what it knows, where it keeps it, whether it can be edited there.

    python training/factlm/measure.py build/factlm --json build/factlm/measured.json
    python training/factlm/measure.py build/factlm --json build/factlm/measured.json --facts 20 --cases 20 --components mlp_out attn_out  # minutes

``card.py`` turns the measurements of several seeds into the model card.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import harmonic_mean

import editability
import grammar
import numpy as np
import torch
from other_facts import measure_others
from suppression import measure_suppression
from text import FACTS, FactText, TrainingText, paragraphs

import tl_knowledge as tlk
from tl_knowledge.runs.roles import SIDES, SUBJECT_ROLES, role_positions

KNOWN_SAMPLE, TRACED_FACTS = 500, 100
COMPONENTS = ("resid_post", "mlp_out", "attn_out")
MOMENT_WEIGHTS = (3.0, 30.0)  # of MEMIT
ROLES = SUBJECT_ROLES


def accuracy(model, facts: list[tlk.Fact], context: list[str] | None = None, *, bos: bool = True) -> float:
    """Share of facts whose every target token is the argmax."""
    hits = 0
    for i, fact in enumerate(facts):
        statement = fact.rephrase(f"{context[i]} {fact.template}") if context else fact
        prompt = tlk.Prompt.from_fact(model, statement, prepend_bos=bos)
        tokens = torch.cat([prompt.tokens, torch.tensor([prompt.answer[:-1]], dtype=torch.long)], dim=1)
        with torch.no_grad():
            said = model(tokens)[0, -len(prompt.answer) :].argmax(-1)
        hits += said.tolist() == list(prompt.answer)
    return 100 * hits / len(facts)


def knowledge(model) -> dict[str, float]:
    draw = random.Random(1)
    text = TrainingText(FactText.from_data(FACTS), seed=999_983)
    unrelated = [f"{text.sentence().text} {text.sentence().text}" for _ in range(KNOWN_SAMPLE)]
    facts = draw.sample(tlk.load_facts("factlm"), KNOWN_SAMPLE)
    relations = {r.id: r.templates for r in tlk.datasets.load_relations("factlm")}
    seen = [f.rephrase(draw.choice([t for t in relations[f.relation] if t not in f.paraphrases])) for f in facts]
    held_out = [f.rephrase(draw.choice(f.paraphrases)) for f in facts]
    return {
        "trained templates": accuracy(model, seen),
        "trained templates, after unrelated text": accuracy(model, seen, unrelated),
        "trained templates, without BOS": accuracy(model, seen, bos=False),
        "held-out paraphrases": accuracy(model, held_out),
        "held-out paraphrases, after unrelated text": accuracy(model, held_out, unrelated),
        "held-out paraphrases, without BOS": accuracy(model, held_out, bos=False),
        "agreement pairs, training nouns": agreement(model, grammar.NOUNS[:12]),
        "agreement pairs, held-out nouns": agreement(model, grammar.HELD_OUT_NOUNS),
    }


def agreement(model, nouns: list[tuple[str, str]]) -> float:
    def log_prob(text: str) -> float:
        tokens = tlk.Prompt.from_text(model, text).tokens
        with torch.no_grad():
            return float(model(tokens)[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None]).sum())

    pairs = grammar.agreement_pairs(nouns)
    return 100 * sum(log_prob(good) > log_prob(bad) for good, bad in pairs) / len(pairs)


def card_positions(prompt: tlk.Prompt) -> dict[str, tuple[int, ...]]:
    """Positions by role. The card counts a last token as last only, where Meng et al.'s program also counts it as first after."""
    positions = role_positions(prompt.subject.positions, prompt.relation.positions, len(prompt))
    after = tuple(p for p in positions["first token after"] if p != prompt.last.last)
    return {role: positions[role] for role in ROLES} | {"first token after": after}


def traced_facts(model, count: int) -> list[tlk.Prompt]:
    """Known facts of subjects with several relations, subject first in the prompt, as CounterFact's mostly are."""
    facts = tlk.load_facts("factlm")
    several = {s for s in {f.subject for f in facts} if sum(f.subject == s for f in facts) >= 2}
    prompts: list[tlk.Prompt] = []
    for fact in random.Random(2).sample(facts, len(facts)):
        if fact.subject not in several or not fact.template.startswith("{} "):
            continue
        prompt = tlk.Prompt.from_fact(model, fact)
        with torch.no_grad():
            known = int(model(prompt.tokens)[0, -1].argmax()) == prompt.target_token
        prompts += [prompt] * known
        if len(prompts) == count:
            break
    return prompts


def mean_traces(model, prompts: list[tlk.Prompt], components: Sequence[str] = COMPONENTS) -> dict:
    """Mean indirect effect ``[role layer]`` for each side and component, total effects, and the clean probabilities."""
    by_role, totals, cleans = defaultdict(list), defaultdict(list), defaultdict(list)
    for prompt in prompts:
        for result in tlk.tracing.trace_together(model, prompt, corrupt=SIDES, components=components, progress=False):
            side = result.corrupted.name
            if result.component == components[0]:  # every component's trace has the same clean and corrupted runs
                totals[side].append(float(result.total_effect.mean()))
                cleans[side].append(result.clean_probability)
            for role, positions in card_positions(prompt).items():
                by_role[f"{side}/{result.component}", role] += [result.mean_effect[:, p].numpy() for p in positions]
    keys = [f"{side}/{component}" for side in SIDES for component in components]
    return {
        "facts": len(prompts),
        "total": {side: float(np.mean(totals[side])) for side in SIDES},
        "clean": {side: float(np.mean(cleans[side])) for side in SIDES},
        "effects": {key: {role: np.mean(by_role[key, role], axis=0).tolist() for role in ROLES} for key in keys},
    }


def best_layer(editing: dict[str, dict[str, float]]) -> int:
    """Where the overall score is highest."""
    return max((int(layer) for layer in editing), key=lambda layer: overall(editing[str(layer)]))


def overall(scores: dict[str, float]) -> float:
    """CounterFact's S: the harmonic mean of ES, PS and NS."""
    return harmonic_mean([scores[name] for name in ("ES", "PS", "NS")])


def many_edits(model, layer: int, corpus: list[str], count: int, weights: Sequence[float] = MOMENT_WEIGHTS) -> dict[str, dict[str, float]]:
    """MEMIT's scores on many cases at once, in the one layer, by how much the keys of other text weigh."""
    cases = tlk.load_edit_cases("factlm")[:count]
    moments = tlk.collect_key_moments(model, corpus, layers=[layer], progress=False)
    scores = {}
    for weight in weights:
        method = tlk.MEMIT(layers=(layer,), moment_weight=weight)
        table = tlk.evaluate(model, cases, method, moments=moments, protocol="batch", progress=False).table
        means = {name: float(table[name].mean()) for name in ("ES", "PS", "NS")}
        scores[f"{weight:g}"] = {"layer": layer, "cases": len(cases), **means, "S": overall(means)}
    return scores


def print_traces(traces: dict) -> None:
    for key, roles in traces["effects"].items():
        for role in ("last subject token", "last token"):
            share = max(roles[role]) / traces["total"][key.split("/", maxsplit=1)[0]]
            print(f"{key:22s} {role:20s}", " ".join(f"{x:6.3f}" for x in roles[role]), f"max/TE {share:.2f}")
    print("total effects", traces["total"], flush=True)


def measure(model, args: argparse.Namespace, measured: dict) -> None:
    """All that the model card and the tables of experiments say; ``measured`` grows, and is written after each part."""

    def keep(name: str, value: object) -> None:
        measured[name] = value
        args.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")

    start, corpus = time.time(), paragraphs(editability.CORPUS_TEXTS, seed=777)
    keep("knowledge", knowledge(model))
    print(json.dumps(measured["knowledge"], indent=1), flush=True)
    cases = random.Random(9).sample(tlk.load_edit_cases("factlm"), args.cases)
    for layer in args.layers:
        scores = editability.measure_layer(model, layer, cases, corpus)
        keep("editing", {**measured.get("editing", {}), str(layer): scores})
        print("layer", layer, {k: round(v, 1) for k, v in scores.items()}, f"{time.time() - start:.0f} s", flush=True)
    keep("traces", mean_traces(model, traced_facts(model, args.facts), args.components))
    print_traces(measured["traces"])
    if args.many:
        keep("many edits", many_edits(model, best_layer(measured["editing"]), corpus, args.many, args.weights))
        print("MEMIT", measured["many edits"], f"{time.time() - start:.0f} s", flush=True)
    if args.suppressed:
        keep("suppression", measure_suppression(model, args.suppressed))
        print("suppressed", json.dumps(measured["suppression"]), f"{time.time() - start:.0f} s", flush=True)
    if args.ways:
        keep("other facts", measure_others(model, best_layer(measured["editing"]), args.ways))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--cases", type=int, default=editability.CASES, help="edits a layer")
    parser.add_argument("--facts", type=int, default=TRACED_FACTS, help="traced facts")
    parser.add_argument("--components", nargs="*", default=COMPONENTS, choices=COMPONENTS, help="what is traced")
    parser.add_argument("--many", type=int, default=200, help="edits at once, by MEMIT in the best layer; 0: none")
    parser.add_argument("--weights", type=float, nargs="*", default=MOMENT_WEIGHTS, help="of MEMIT")
    parser.add_argument("--ways", type=int, default=30, help="cases of other_facts.py in the best layer; 0: none")
    parser.add_argument("--suppressed", type=int, default=60, help="facts whose neurons are suppressed; 0: none")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = tlk.load_model(str(args.model) if args.model.exists() else args.model.name)
    measure(model, args, {"model": args.model.name})


if __name__ == "__main__":
    main()
