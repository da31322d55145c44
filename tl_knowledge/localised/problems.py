"""Five editing problems (Hase et al. 2023, section 5; paper 003): what is asked of the model, as a fact and an objective."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch

from tl_knowledge.editing import Objective
from tl_knowledge.errors import InputError, TargetError
from tl_knowledge.hooks import corrupt
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.arguments import resolve_noise
from tl_knowledge.runs.corruption import Noise

__all__ = ["EditingProblem", "editing_problem"]

EditingProblem: TypeAlias = Literal["error_injection", "tracing_reversal", "fact_erasure", "fact_amplification", "fact_forcing"]
"""=================== ======================================================================
problem             asks for
=================== ======================================================================
error_injection     the case's new object
tracing_reversal    what the corrupted run says
fact_erasure        anything but the true object (only where the model gives it at least 2%)
fact_amplification  more of the true object
fact_forcing        the true object although the subject is corrupted
=================== ======================================================================
"""

LEAST_ERASED = 0.02


def editing_problem(
    model: HookedModel, case: EditCase, problem: EditingProblem, *, noise: Noise | float | str | None = None, seed: int = 0
) -> tuple[Fact, Objective]:
    """A case's request and objective under one of the five problems.

    Args:
        noise: of the corrupted runs, as `trace` takes it.
        seed: of the noise.

    Raises:
        InputError: an unknown problem.
        TargetError: an erasure of what the model hardly says, or a corrupted run that already says the true object.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, case = tlk.load_model("factlm"), tlk.load_edit_cases()[0]
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0], progress=False)
        >>> request, objective = tlk.localised.editing_problem(model, case, "fact_erasure")
        >>> edit = tlk.plan_edit(model, request, tlk.ROME(layer=0, objective=objective), moments=moments)
        >>> edit.notes[0]["target_probability"] < 0.1
        True
    """
    if problem not in get_args(EditingProblem):
        raise InputError(f"problem {problem!r} is unknown; pass one of {', '.join(map(repr, get_args(EditingProblem)))}.")
    if problem == "error_injection":
        return case.rewrite, Objective()
    if problem == "fact_amplification":
        return case.fact, Objective()
    prompt = Prompt.from_fact(model, case.fact)
    if problem == "fact_erasure":
        with torch.no_grad():
            said = float(answer_probability(model(prompt.tokens)[:, -1:], torch.tensor([[prompt.target_token]])))
        if said < LEAST_ERASED:
            raise TargetError(f"the model gives {case.fact.target!r} only {said:.1%} after {case.fact.text!r}; there is nothing to erase.")
        return case.fact, Objective(erase=True)
    settings = resolve_noise(model, prompt, noise, seed, "ours")
    if problem == "fact_forcing":
        return case.fact, Objective(noise=settings)
    with torch.no_grad():
        logits: torch.Tensor = model.run_with_hooks(prompt.tokens, fwd_hooks=corrupt(prompt.subject, settings))
    token = int(logits[0, -1].argmax())
    if token == prompt.target_token:
        raise TargetError(f"the corrupted run of {case.fact.text!r} still says {case.fact.target!r}; raise the noise, or leave the case out.")
    return case.fact.retarget(model.tokenizer.decode([token])), Objective()
