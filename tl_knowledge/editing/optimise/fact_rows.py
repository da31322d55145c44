"""A fact to write, as the rows that its value is optimised on.

Three contexts of a fact with two target tokens, padded right::

    row 0   The capital of [France] is  Lon                       contexts: the value is changed at [.] in each,
    row 1   I think so . The capital of [France] is  Lon          and the loss reads "is" and "Lon", which should
    row 2   You are . The capital of [France] is  Lon             predict "Lon" and "don"
    row 3   [France] is a                                         essence: its prediction should not drift
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.engine.rows import pad_right
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.hooks import Corruption
from tl_knowledge.models.hook_names import EMBED
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["EditedToken", "FactRows", "at_positions", "corrupt_rows", "edited_position", "rows_of"]

EditedToken: TypeAlias = Literal["subject", "subject_first", "after_subject", "relation"]
"""Which token's key is edited: the subject's last, its first, the one after it, or the relation's last (Wei et al. 2024 edit from that side)."""

ESSENCE = "{} is a"


@dataclass(frozen=True, eq=False)
class FactRows:
    """One fact in every context, padded right, with the essence row (``"{subject} is a"``), which must not drift, at the end.

    Attributes:
        tokens: ``[row pos]``, the target's tokens but the last appended.
        edited: ``[row]``: where the value is changed.
        scored: ``[row answer]``: the positions that predict the target's tokens; all rows but the last.
        answer: the target's tokens.
        essence: the position of the essence row whose prediction should stay.
        objective: whether the target is written or erased, and under which noise.
        subjects: each row's subject tokens; the essence row's are never corrupted.
    """

    tokens: Tokens
    edited: Int[torch.Tensor, " row"]
    scored: Int[torch.Tensor, "context answer"]
    answer: Int[torch.Tensor, " answer"]
    essence: int
    objective: Objective = field(default_factory=Objective)
    subjects: tuple[tuple[int, ...], ...] = ()

    @property
    def noise(self) -> Hooks:
        """The objective's corruption of every context, as hooks; none without one."""
        return corrupt_rows(self.subjects, self.objective.noise)


def rows_of(
    model: HookedModel, fact: Fact, templates: Sequence[str], at: EditedToken, objective: Objective | None = None, *, essence_alike: bool = False
) -> FactRows:
    """A fact as rows.

    Args:
        templates: contexts with ``{}`` in the prompt's place.
        at: which token is edited.
        objective: whether to write (when ``None``) or to erase the target.
        essence_alike: whether the essence row is changed and held at the same token of the subject as the others, as in Meng et al.'s programs,
            and not at the subject's last token.

    Raises:
        InputError: an unknown token, or one that the prompt does not have.
    """
    stated = [fact.rephrase(template.replace("{}", fact.template)) for template in templates]
    prompts = [Prompt.from_fact(model, each) for each in stated]
    essence = Prompt.from_fact(model, fact.rephrase(ESSENCE))
    answer = torch.tensor(prompts[0].answer, device=prompts[0].tokens.device)
    rows = [torch.cat([prompt.tokens, answer[None, :-1]], dim=1) for prompt in prompts]
    scored = torch.tensor([[len(prompt) - 1 + k for k in range(len(answer))] for prompt in prompts], device=answer.device)
    edited = [edited_position(prompt, at) for prompt in prompts]
    at_essence = len(essence) - 1 if at == "relation" else edited_position(essence, at) if essence_alike else essence.subject.last
    positions = torch.tensor([*edited, at_essence], device=answer.device)
    subjects = (*(tuple(prompt.subject) for prompt in prompts), ())
    return FactRows(pad_right([*rows, essence.tokens]), positions, scored, answer, at_essence, objective or Objective(), subjects)


def corrupt_rows(subjects: Sequence[Sequence[int]], noise: Corruption | None) -> Hooks:
    """Corrupt each row's own tokens, with the same draw for rows of equally many; rows of none, and those not listed, stay."""
    if noise is None:
        return []

    def corrupt(embeddings: torch.Tensor, *, hook: object) -> torch.Tensor:
        changed = embeddings.clone()
        for row, span in enumerate(subjects[: len(embeddings)]):
            if span:
                changed[row, list(span)] = noise.corrupted(embeddings[row : row + 1], tuple(span))[0]
        return changed

    return [(EMBED, corrupt)]


def edited_position(prompt: Prompt, at: EditedToken) -> int:
    """The position of the edited token in a prompt.

    Raises:
        InputError: an unknown choice, or one that the prompt does not have.
    """
    check_choice("at", at, EditedToken)
    if at == "subject":
        return max(prompt.subject)
    if at == "subject_first":
        return prompt.subject.first
    if at == "relation":
        return prompt.relation.last
    after = max(prompt.subject) + 1
    if after >= len(prompt):
        raise InputError(f"no token follows the subject in {prompt.text!r}; edit the subject's last token (at='subject') instead.")
    return after


def at_positions(states: Float[torch.Tensor, "row pos d"], positions: Int[torch.Tensor, " row"]) -> Float[torch.Tensor, "row d"]:
    """One position of every row."""
    return states[torch.arange(len(states), device=states.device), positions]
