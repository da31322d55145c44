"""One relation's maps tried on facts that they do not hold: what they say, and what the model says when the subject's state is edited by them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.relations.draws import generator_of
from tl_knowledge.relations.fit import MapFit
from tl_knowledge.relations.states import SubjectStates, ask, decode, read_states, top_tokens
from tl_knowledge.relations.suffix import Shift, Suffix

__all__ = ["Trial", "try_maps"]

EDITS = ("causal", "swapped", "random")
"""By the map's inverse; by the other subject's own state; by a random direction as long as the first."""


@dataclass(frozen=True, eq=False)
class Trial:
    """Maps of one relation, one a layer, with the facts that they are tried on.

    Attributes:
        facts: the model's answers to them are right.
        betas, ranks: by layer.
    """

    fit: MapFit
    examples: Sequence[Fact]
    facts: Sequence[Fact]
    betas: Sequence[float]
    ranks: Sequence[int]
    separator: str
    seed: int
    memory_budget: float


def try_maps(trial: Trial) -> list[dict[str, Any]]:
    """One row a layer and fact."""
    fit, model = trial.fit, trial.fit.model
    prompts = [ask(model, fact, trial.examples, trial.separator) for fact in trial.facts]
    states = read_states(model, prompts, fit.layers)
    said = _said(trial, states)
    rows: list[dict[str, Any]] = []
    for i, fact in enumerate(trial.facts):
        other = _other(states, i, random.Random(f"{trial.seed}/{fact.relation}/{fact.subject}"))
        edited = _edited(trial, states, i, other)
        words = {"subject": fact.subject, "target": fact.target, "model": _word(model, states.says[i])}
        edited_to = "" if other is None else _word(model, states.says[other])
        for k, layer in enumerate(fit.layers):
            hits = {name: float(tokens[k, i] == states.says[i]) for name, tokens in said.items()}
            texts = words | {"map": _word(model, said["faithful"][k, i]), "edited_to": edited_to}
            rows.append({"layer": layer} | texts | hits | edited[k])
    return rows


def _said(trial: Trial, states: SubjectStates) -> dict[str, torch.Tensor]:
    """Tokens ``[layer fact]`` that the maps say, and two simpler ones: the same for every subject, and the subject's state moved by one vector."""
    fit, model = trial.fit, trial.fit.model
    subject, wide = states.subject.to(fit.weight), fit.weight.dtype
    betas = torch.tensor(trial.betas, dtype=wide, device=fit.weight.device)
    mapped = betas[:, None, None] * torch.einsum("lod,fld->lfo", fit.weight, subject) + fit.bias[:, None]
    mean = fit.states.object.to(fit.weight).mean(0)
    moved = subject.transpose(0, 1) + (mean - fit.states.subject.to(fit.weight).mean(0))[:, None]
    constant = top_tokens(model, mean[None].to(states.object)).expand(len(fit.layers), len(trial.facts))
    return {"faithful": top_tokens(model, mapped.to(states.object)), "constant": constant, "translated": top_tokens(model, moved.to(states.object))}


def _other(states: SubjectStates, i: int, draw: random.Random) -> int | None:
    """Another of the facts, to which the model says something else."""
    says = states.says.tolist()
    others = [j for j, token in enumerate(says) if token != says[i]]
    return draw.choice(others) if others else None


def _edited(trial: Trial, states: SubjectStates, i: int, other: int | None) -> list[dict[str, float]]:
    """By layer, whether the model says the other fact's object when the subject's state is edited."""
    fit, model = trial.fit, trial.fit.model
    result: list[dict[str, float]] = [{name: float("nan") for name in (*EDITS, "overtaken")} for _ in fit.layers]
    inverted = [k for k, inverse in enumerate(fit.inverses) if 1 <= trial.ranks[k] <= inverse.most]
    if other is None or not inverted:
        return result
    change = (states.object[other] - states.object[i]).to(fit.weight)
    draw = generator_of(trial.seed, trial.facts[i].relation, trial.facts[i].subject, "direction")
    shifts: list[Shift] = []
    for k in inverted:
        by_map = fit.inverses[k].pull_back(change, trial.ranks[k])
        direction = torch.randn(len(by_map), generator=draw, dtype=torch.float64).to(by_map)
        swap = (states.subject[other, k] - states.subject[i, k]).to(by_map)
        shifts += [Shift(fit.layers[k], vector) for vector in (by_map, swap, direction / direction.norm() * by_map.norm())]
    prompt = ask(model, trial.facts[i], trial.examples, trial.separator)
    final = Suffix.of(model, prompt).final_states(shifts, trial.memory_budget)
    log_probability = decode(model, final).unflatten(0, (len(inverted), len(EDITS)))
    hits = log_probability.argmax(-1) == states.says[other]
    ahead = log_probability[:, 0, states.says[other]] > log_probability[:, 0, states.says[i]]
    for row, k in enumerate(inverted):
        result[k] = {name: float(hits[row, column]) for column, name in enumerate(EDITS)} | {"overtaken": float(ahead[row])}
    return result


def _word(model: HookedModel, token: torch.Tensor) -> str:
    return str(model.tokenizer.decode([int(token)]))
