"""The table of bad input, continued: learnt subspaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from support.unfit import foreign_prompt

import tl_knowledge as tlk
from tl_knowledge import errors

SOURCE = tlk.Prompt.from_tokens([7, 8, 9, 4], subject=[1], target=30)
OTHER = tlk.Prompt.from_tokens([9, 8, 2, 4], subject=[1], target=31)
FACT = tlk.Fact("France", "The capital of {} is", " Paris", "P36")
PLACE: dict[str, Any] = {"component": "resid_post", "layer": 1, "at": "subject", "dims": 2, "known_only": False, "progress": False}
QUICK = tlk.subspaces.SubspaceSettings(steps=1)


def learn(model: Any, prompt: Any, pairs: Any = None, **more: Any) -> Any:
    given = [(prompt, SOURCE)] if pairs is None else pairs
    return tlk.subspaces.learn_subspace(model, given, **{"validation": [(SOURCE, OTHER)], "training": QUICK} | PLACE | more)


def patch(**more: Any) -> Any:
    good = {"basis": torch.eye(16, 2), "states": torch.zeros(16), "component": "resid_post", "layer": 1, "positions": 0}
    return tlk.hooks.patch_subspace(**good | more)


def learnt(model: Any, prompt: Any) -> Any:
    return learn(model, prompt, component="neuron")


BAD_SUBSPACES: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "patch_subspace: component": (lambda m, p: patch(component="head"), errors.ComponentError, "component 'head' is unknown"),
    "patch_subspace: position": (lambda m, p: patch(positions=()), errors.ComponentError, "at least one position"),
    "patch_subspace: states": (lambda m, p: patch(states=torch.zeros(1, 2, 16)), errors.ComponentError, r"shape \(1, 2, 16\)"),
    "patch_subspace: basis": (lambda m, p: patch(basis=torch.ones(16, 2)), errors.ComponentError, "not orthonormal"),
    "patch_subspace: nan": (lambda m, p: patch(basis=torch.full((16, 2), float("nan"))), errors.ComponentError, "not orthonormal"),
    "patch_subspace: width": (lambda m, p: patch(states=torch.zeros(24)), errors.ComponentError, "does not fit states of 24"),
    "patch_subspace: model": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=patch(component="neuron")),
        errors.ComponentError,
        r"states \[1, 16\] do not fit",
    ),
    "patch_subspace: rows": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=patch(states=torch.zeros(2, 16))),
        errors.ComponentError,
        r"states \[2, 16\] do not fit",
    ),
    "patch_subspace: outside": (lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=patch(positions=7)), errors.ComponentError, "position 7"),
    "learn_subspace: no pair": (lambda m, p: learn(m, p, []), errors.DataError, "no pair of a base and a source"),
    "learn_subspace: no target": (
        lambda m, p: learn(m, p, [(SOURCE, tlk.Prompt.from_tokens([1], subject=[0]))]),
        errors.TargetError,
        "has no target",
    ),
    "learn_subspace: foreign": (lambda m, p: learn(m, p, [(foreign_prompt(), SOURCE)]), errors.PromptError, "outside the model"),
    "learn_subspace: span": (lambda m, p: learn(m, p, at="object"), errors.PromptError, "has no span 'object'"),
    "learn_subspace: component": (lambda m, p: learn(m, p, component="pattern"), errors.ComponentError, "component 'pattern' is unknown"),
    "learn_subspace: layer": (lambda m, p: learn(m, p, layer=4), errors.ComponentError, "layer 4 is outside"),
    "learn_subspace: dims": (lambda m, p: learn(m, p, dims=16), errors.ComponentError, "dims=16 directions of 16"),
    "learn_subspace: no dims": (lambda m, p: learn(m, p, dims=0), errors.ComponentError, "dims=0 directions"),
    "learn_subspace: metric": (lambda m, p: learn(m, p, metric="rank"), errors.InputError, "has none; pass 'logit'"),
    "learn_subspace: one answer": (lambda m, p: learn(m, p, [(SOURCE, SOURCE)]), errors.DataError, "1 whose answers begin with the same token"),
    "learn_subspace: not known": (lambda m, p: learn(m, p, known_only=True), errors.DataError, "1 whose answers the model does not say"),
    "learn_subspace: validation": (lambda m, p: learn(m, p, [(SOURCE, OTHER)]), errors.InputError, "1 of 1 validation pairs are among"),
    "learn_subspace: too late": (lambda m, p: learn(m, p, layer=3), errors.InputError, "nothing that is put in the resid_post of layer 3"),
    "check_illusion: component": (lambda m, p: learn(m, p).check_illusion(m, [(SOURCE, OTHER)]), errors.ComponentError, "no single matrix reads it"),
    "subspace: other weights": (lambda m, p: learnt(m, p).score("factlm", [(FACT, FACT)]), errors.ModelStateError, "trained for other weights"),
    "measure_subspaces: few": (
        lambda m, p: tlk.subspaces.measure_subspaces("factlm", FACT, component="resid_post", at="subject", dims=2),
        errors.DataError,
        "cannot be made of 1 subject; pass more facts",
    ),
    "draw_pairs: no partner": (lambda m, p: tlk.subspaces.draw_pairs([FACT]), errors.DataError, "none of 1 facts shares its relation"),
    "draw_pairs: no fact": (lambda m, p: tlk.subspaces.draw_pairs([]), errors.DataError, "no fact was given"),
    "draw_pairs: by": (lambda m, p: tlk.subspaces.draw_pairs([FACT], by="target"), errors.InputError, "by 'target' is unknown"),
    "split_pairs: few": (lambda m, p: tlk.subspaces.split_pairs([FACT]), errors.DataError, "cannot be made of 1 subject; pass more facts"),
    "SubspaceSettings: patience": (lambda m, p: tlk.subspaces.SubspaceSettings(patience=0), errors.InputError, "patience=0 trains nothing"),
}
