"""Five editing problems (Hase et al. 2023, section 5): what the model should say after the edit, as a fact and an objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

from tl_knowledge.door import public
from tl_knowledge.editing import Objective, ObjectiveVariant
from tl_knowledge.engine.batches import answer_probabilities, predicted_tokens
from tl_knowledge.errors import InputError, TargetError, check_choice
from tl_knowledge.hooks import corrupt
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.arguments import resolve_noise
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.wording import counted

__all__ = ["EditingProblem", "editing_problem"]

EditingProblem: TypeAlias = Literal["error_injection", "tracing_reversal", "fact_erasure", "fact_amplification", "fact_forcing"]
"""=================== ======================================================================
problem             the edit writes
=================== ======================================================================
error_injection     the case's new object
tracing_reversal    what the corrupted run says
fact_erasure        anything but the true object (only where the model gives it at least 2%)
fact_amplification  more of the true object
fact_forcing        the true object although the subject is corrupted
=================== ======================================================================
"""

LEAST_ERASED = 0.02


@public
def editing_problem(
    model: AnyModel,
    case: EditCase,
    problem: EditingProblem,
    *,
    noise: Noise | float | str | None = None,
    seed: int = 0,
    variant: ObjectiveVariant = "ours",
) -> tuple[Fact, Objective]:
    """A case's fact to write and the objective under one of the five problems.

    Args:
        noise: of the corrupted runs, as `trace` takes it.
        seed: of noise that has no seed of its own.
        variant: ``"ours"``, or ``"hase2023"`` for the program's way to optimise values, and its stream of noise. Its reversal writes a whole
            generated text; here it is the corrupted run's first token under either variant.

    Raises:
        InputError: an unknown problem or variant, or a case that writes further facts.
        TargetError: an erasure of what the model hardly says, or a corrupted run that already says the true object.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, case = tlk.load_model("factlm"), tlk.load_edit_cases()[0]
        >>> layer = tlk.ROME.for_model(model).layer
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=layer, progress=False)
        >>> fact, objective = tlk.localised.editing_problem(model, case, "fact_erasure")
        >>> edit = tlk.plan_edit(model, fact, tlk.ROME(layer=layer, objective=objective), moments=moments)
        >>> edit.notes[0]["target_probability"] < 0.1
        True
    """
    model = as_model(model)
    check_choice("problem", problem, EditingProblem)
    if case.also:
        raise InputError(
            f"the case of {case.fact.text!r} writes {counted(1 + len(case.also), 'fact')} at once, and a problem has one; evaluate it instead."
        )
    write = Objective(variant=variant)
    if problem == "error_injection":
        return case.rewrite, write
    if problem == "fact_amplification":
        return case.fact, write
    prompt = Prompt.from_fact(model, case.fact)
    if problem == "fact_erasure":
        probability = float(answer_probabilities(model, [prompt])[0])
        if probability < LEAST_ERASED:
            raise TargetError(f"the model gives {case.fact.target!r} only {probability:.1%} after {case.fact.text!r}; there is nothing to erase.")
        return case.fact, replace(write, erase=True)
    corruption = resolve_noise(model, prompt, noise, seed, "ours" if variant == "ours" else "meng2022_code")
    if problem == "fact_forcing":
        return case.fact, replace(write, noise=corruption)
    (token,) = predicted_tokens(model, [prompt], lambda _: corrupt(prompt.subject, corruption))
    if token == prompt.target_token:
        raise TargetError(f"the corrupted run of {case.fact.text!r} still says {case.fact.target!r}; raise the noise, or leave the case out.")
    return case.fact.retarget(model.tokenizer.decode([token])), write
