"""What every editing method is, and the one verb that plans an edit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from tl_knowledge.editing.edit import Edit
from tl_knowledge.errors import InputError
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import Fact, refuse_contradictions
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["EditMethod", "edit_provenance", "plan_edit"]


@runtime_checkable
class EditMethod(Protocol):
    """Frozen settings of an editing method."""

    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """The edit that makes the model say each fact's target; the model is left as it was."""
        ...


def plan_edit(model: HookedModel, facts: Fact | Iterable[Fact], method: EditMethod, *, moments: KeyMoments | None = None) -> Edit:
    """Plan the edit that makes the model say each fact's target; the model is never changed.

    Args:
        facts: with their *new* targets (``fact.retarget(" Rome")``, ``case.rewrite``).
        method: for example ``ROME(layer=5)``.
        moments: of the model's keys, from `collect_key_moments`, for the methods that need them.

    Raises:
        InputError: no fact, facts that contradict each other, or moments of another model.
        PromptError, TargetError, SubjectNotFoundError: a fact that the model cannot be asked.
        NumericalError: singular moments, or a loss that is not finite.
    """
    check_model(model)
    asked = [facts] if isinstance(facts, Fact) else list(facts)
    if not asked:
        raise InputError("no fact was given to edit; pass at least one.")
    refuse_contradictions(asked)
    for fact in asked:
        check_fits(model, Prompt.from_fact(model, fact), multi_token=True)
    if moments is not None:
        moments.check(model)
    return method.plan(model, asked, moments)


def edit_provenance(model: HookedModel, method: Any, settings: dict[str, Any], seed: int) -> Provenance:
    """Where an edit comes from."""
    made = {"method": type(method).__name__, "fingerprint": unedited_fingerprint(model)} | settings
    return Provenance(**describe_model(model), prepends_bos=prepends_bos(model), seed=seed, engine="cached residuals", settings=made)
