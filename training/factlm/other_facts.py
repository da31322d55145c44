"""Why a rewrite loses the subject's other facts: what moves them, and whether any vector would keep them.

    python training/factlm/other_facts.py build/factlm --layer 2 --json build/factlm/other_facts.json

For some counterfactual edits one vector is optimised at the last subject token (as in ``editability.py``) in several ways, and
added there: what the model then says for the subject's other relations is compared.  ``told`` is shown the other facts while
optimising (their loss counts as the new fact's does): if it keeps them, there is room for both in one vector and the other ways just
cannot know; if it does not, there is none.  ``apart`` sees no fact of the subject: it may only move outside the directions in
which *other* subjects' facts of the other relations are read.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from editability import CORPUS_TEXTS, Batch, asked_of, in_contexts, other_facts
from text import paragraphs

import tl_knowledge as tlk

CONTEXTS = 2
STEADY_RELATIONS = 8
READ_FACTS, READ_DIMENSIONS = 40, 4  # facts a relation whose gradients are taken, and how many of their directions


@dataclass(frozen=True)
class Way:
    """How the vector is optimised."""

    rate: float = 0.3
    steps: int = 30
    clamp: float = 4.0
    enough: float = 0.05
    told: float = 0.0
    steady: float = 0.0
    apart: bool = False
    plain: bool = False  # gradient descent of a fixed length instead of Adam


WAYS = {
    "as measured": Way(),
    "short steps": Way(rate=0.1, steps=80, plain=True),
    "short steps, stopped at loss 0.5": Way(rate=0.1, steps=80, plain=True, enough=0.5),
    "apart": Way(rate=0.1, steps=80, plain=True, apart=True),
    "apart, stopped at loss 0.5": Way(rate=0.1, steps=80, plain=True, apart=True, enough=0.5),
    "steady": Way(rate=0.1, steps=60, steady=0.05),
    "told": Way(rate=0.05, steps=80, told=1.0),
}


@dataclass(frozen=True)
class Asked:
    """What one run asks of all cases: the new facts in contexts, the subjects' other facts (``owner``: the case of each), and ``general``,
    relations in which the subjects have no facts, ``STEADY_RELATIONS`` a case."""

    new: Batch
    new_targets: torch.Tensor
    others: Batch
    other_targets: torch.Tensor
    owner: torch.Tensor
    group: int
    general: Batch


def ask(model, cases: list[tlk.EditCase], contexts: list[str]) -> Asked:
    others, owner, other_targets = asked_of(model, cases, other_facts)
    new = Batch.of([p for case in cases for p in in_contexts(model, case.fact, contexts)])
    targets = torch.tensor([tlk.Prompt.from_fact(model, case.rewrite).target_token for case in cases])
    general, *_ = asked_of(model, cases, in_other_relations)
    return Asked(new, targets, others, other_targets, owner, len(contexts), general)


def in_other_relations(case: tlk.EditCase) -> list[tlk.Fact]:
    """The subject in relations in which it has no fact."""
    own = {case.fact.relation, *(fact.relation for fact in other_facts(case))}
    rest = [relation for relation in tlk.datasets.load_relations("factlm") if relation.id not in own]
    return [case.fact.rephrase(r.templates[0]) for r in random.Random(case.fact.subject).sample(rest, STEADY_RELATIONS)]


def drift(model, asked: Asked, layer: int, delta: torch.Tensor) -> torch.Tensor:
    """By how much what is said in the general relations changes, ``KL(before, after)`` summed over each case's prompts ``[case]``."""
    with torch.no_grad():
        before = asked.general.logits(model).log_softmax(-1)
    after = asked.general.logits(model, asked.general.add(layer, delta.repeat_interleave(STEADY_RELATIONS, 0))).log_softmax(-1)
    return (before.exp() * (before - after)).sum(-1).unflatten(0, (-1, STEADY_RELATIONS)).sum(1)


def losses(model, batch: Batch, targets: torch.Tensor, layer: int, delta: torch.Tensor) -> torch.Tensor:
    """``-log p`` of each row's target with each row's vector added ``[row]``."""
    log_probs = batch.logits(model, batch.add(layer, delta)).log_softmax(-1)
    return -log_probs[torch.arange(len(targets)), targets]


def outputs_at_subjects(model, batch: Batch, layer: int) -> torch.Tensor:
    """The MLP outputs at the last subject tokens ``[row d_model]``."""
    kept: list[torch.Tensor] = []
    rows = torch.arange(len(batch.tokens))
    with torch.no_grad():
        batch.logits(model, [(f"blocks.{layer}.hook_mlp_out", lambda x, *, hook: kept.append(x[rows, batch.subject_last]))])
    return kept[0]


def read_directions(model, layer: int, avoid: set[str]) -> dict[str, torch.Tensor]:
    """For each relation orthonormal directions ``[direction d_model]`` in which its facts are read: the leading ones of the
    gradients, at the last subject token, of the log-probability of the object."""
    directions = {}
    by_relation = defaultdict(list)
    for fact in random.Random(3).sample(tlk.load_facts("factlm"), 2004):
        if fact.subject not in avoid and len(by_relation[fact.relation]) < READ_FACTS:
            by_relation[fact.relation].append(fact)
    for relation, facts in by_relation.items():
        prompts = [tlk.Prompt.from_fact(model, fact) for fact in facts]
        batch, targets = Batch.of(prompts), torch.tensor([p.target_token for p in prompts])
        delta = torch.zeros(len(prompts), model.cfg.d_model, dtype=model.cfg.dtype, requires_grad=True)
        logits = batch.logits(model, batch.add(layer, delta))
        chosen = logits[torch.arange(len(targets)), targets] - logits.mean(-1)
        gradients = torch.autograd.grad(chosen.sum(), delta)[0]
        directions[relation] = torch.linalg.svd(gradients / gradients.norm(dim=-1, keepdim=True)).Vh[:READ_DIMENSIONS]
    return directions


def keep_apart(asked: Asked, cases: list[tlk.EditCase], read: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Takes out of each case's vector what lies in the directions of the subject's other relations."""
    bases = []
    for case in cases:
        others = [read[fact.relation] for fact in other_facts(case)]
        bases.append(torch.linalg.svd(torch.cat(others), full_matrices=False).Vh)

    def project(delta: torch.Tensor) -> torch.Tensor:
        return torch.stack([d - (d @ b.T) @ b for d, b in zip(delta, bases, strict=True)])

    return project


def optimise(model, layer: int, asked: Asked, way: Way, project: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One vector a case ``[case d_model]``, and the length of the MLP output it is added to ``[case 1]``."""
    length = outputs_at_subjects(model, asked.new, layer).unflatten(0, (-1, asked.group))[:, 0].norm(dim=-1, keepdim=True)
    delta = torch.zeros(len(length), model.cfg.d_model, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=way.rate)
    for _ in range(way.steps):
        new = losses(model, asked.new, asked.new_targets.repeat_interleave(asked.group), layer, delta.repeat_interleave(asked.group, 0))
        total = new.unflatten(0, (-1, asked.group)).mean(1)
        if way.told:
            each = losses(model, asked.others, asked.other_targets, layer, delta[asked.owner])
            total = total.index_add(0, asked.owner, way.told * each)
        if way.steady:
            total = total + way.steady * drift(model, asked, layer, delta)
        done, before = (total < way.enough)[:, None], delta.detach().clone()
        if bool(done.all()):
            break
        gradient = torch.autograd.grad(total.sum(), delta)[0]
        with torch.no_grad():
            if way.plain:
                gradient = project(gradient) if way.apart else gradient
                delta -= way.rate * length * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-9)
            else:
                delta.grad = gradient
                optimiser.step()
            delta.copy_(torch.where(done, before, delta * (way.clamp * length / delta.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1)))
    return delta.detach(), length


@torch.no_grad()
def score(model, layer: int, asked: Asked, cases: list[tlk.EditCase], delta: torch.Tensor, length: torch.Tensor) -> dict[str, float]:
    """Percentages, and the vector's mean length in MLP outputs."""
    batch, which, true = asked_of(model, cases, lambda case: case.paraphrases)
    logits, place = batch.logits(model, batch.add(layer, delta[which])), torch.arange(len(which))
    said, preferred = logits.argmax(-1), logits[place, asked.new_targets[which]] > logits[place, true]
    bare = replace(
        asked.new, tokens=asked.new.tokens[:: asked.group], subject_last=asked.new.subject_last[:: asked.group], last=asked.new.last[:: asked.group]
    )
    first = bare.logits(model, bare.add(layer, delta)).argmax(-1)
    known = asked.others.logits(model).argmax(-1) == asked.other_targets
    said_of_others = asked.others.logits(model, asked.others.add(layer, delta[asked.owner])).argmax(-1)[known]
    kept, new = said_of_others == asked.other_targets[known], said_of_others == asked.new_targets[asked.owner][known]
    return {
        "says it": 100 * float((first == asked.new_targets).double().mean()),
        "paraphrases say it": 100 * float((said == asked.new_targets[which]).double().mean()),
        "PS": 100 * float(preferred.double().mean()),
        "other facts kept": 100 * float(kept.double().mean()),
        "other facts become the new object": 100 * float(new.double().mean()),
        "length": float((delta.norm(dim=-1, keepdim=True) / length).mean()),
    }


@torch.no_grad()
def room(model, layer: int, read: dict[str, torch.Tensor]) -> dict[str, float]:
    """How the MLP outputs of different subjects lie, and how much the relations' directions overlap."""
    subjects = random.Random(4).sample(tlk.load_facts("factlm"), 200)
    outputs = outputs_at_subjects(model, Batch.of([tlk.Prompt.from_fact(model, f) for f in subjects]), layer)
    spectrum = torch.linalg.svdvals(outputs - outputs.mean(0)).square()
    bases = list(read.values())
    overlaps = torch.tensor([float((a @ b.T).square().sum() / len(a)) for i, a in enumerate(bases) for b in bases[:i]])
    return {
        "dimensions of the outputs (participation ratio)": float(spectrum.sum() ** 2 / spectrum.square().sum()),
        "distance of two subjects' outputs, in lengths": float(torch.pdist(outputs).mean() / outputs.norm(dim=-1).mean()),
        "overlap of two relations' directions": float(overlaps.mean()),
        "overlap by chance": READ_DIMENSIONS / model.cfg.d_model,
    }


def several_relations(cases: list[tlk.EditCase], count: int) -> list[tlk.EditCase]:
    """Cases whose subject has other facts."""
    return random.Random(9).sample([case for case in cases if other_facts(case)], count)


def measure_others(model, layer: int, count: int, ways: dict[str, Way] = WAYS) -> dict:
    """All ways on ``count`` cases of one layer."""
    corpus = paragraphs(CORPUS_TEXTS, seed=777)
    contexts = ["", *(t[:60].rsplit(" ", 1)[0] for t in random.Random(layer).sample(corpus, CONTEXTS))]
    cases = several_relations(tlk.load_edit_cases("factlm"), count)
    asked = ask(model, cases, contexts)
    read = read_directions(model, layer, {case.fact.subject for case in cases})
    project = keep_apart(asked, cases, read)
    measured: dict = {"layer": layer, "cases": count, "room": room(model, layer, read)}
    for name, way in ways.items():
        measured[name] = score(model, layer, asked, cases, *optimise(model, layer, asked, way, project))
        print(f"{name:32s}", {k: round(v, 2) for k, v in measured[name].items()}, flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = measure_others(tlk.load_model(args.model), args.layer, args.cases, {name: WAYS[name] for name in args.ways})
    print(json.dumps(measured["room"], indent=1))
    if args.json:
        args.json.write_text(json.dumps(measured, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
