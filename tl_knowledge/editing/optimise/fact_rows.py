"""A fact to write, as the rows that its value is optimised on.

Three contexts of a fact with two target tokens, padded right::

    row 0   The capital of [France] is  Lon                       contexts: the value is changed at [.] in each,
    row 1   I think so . The capital of [France] is  Lon          and the loss reads "is" and "Lon", which should
    row 2   You are . The capital of [France] is  Lon             predict "Lon" and "don"
    row 3   [France] is a                                         essence: its prediction should not drift
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.engine.rows import pad_right
from tl_knowledge.errors import InputError, MissingSpaceWarning, check_choice
from tl_knowledge.hooks import Corruption
from tl_knowledge.models.hook_names import EMBED
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact, RelationFact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.corruption import Noise

__all__ = [
    "EditedToken",
    "FactRows",
    "at_positions",
    "corrupt_rows",
    "drawn_from",
    "edited_position",
    "removed_rows",
    "rows_beside",
    "rows_of",
    "to_width",
]

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
        answers, weights: ``[context answer]``, where the contexts do not all ask for the answer (`rows_beside`): what each asks for, and how much
            each token counts in the loss; ``None``: all ask for the answer, and all tokens count alike.
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
    answers: Int[torch.Tensor, "context answer"] | None = None
    weights: Float[torch.Tensor, "context answer"] | None = None

    @property
    def asked(self) -> Int[torch.Tensor, "row answer"]:
        """What every row asks for; the essence row's is never read."""
        if self.answers is None:
            return self.answer[None].expand(len(self.edited), -1)
        return torch.cat([self.answers, self.answers[-1:]])

    @property
    def noise(self) -> Hooks:
        """The objective's corruption of every context, as hooks; none without one."""
        if self.objective.fresh_noise is not None:
            return drawn_from(self.objective.fresh_noise, self.subjects[0], 0)
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


def removed_rows(model: HookedModel, fact: Fact, templates: Sequence[str], at: EditedToken, objective: Objective) -> FactRows:
    """The rows of what a fact of the relation's side takes away.

    Raises:
        InputError: a fact that is none, or takes nothing away.
    """
    if not isinstance(fact, RelationFact) or fact.removed is None:
        raise InputError(
            f"variant 'wei2024' edits facts of the relation's side, which {fact.text!r} is not; pass those of tlk.datasets.relation_side_cases()."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingSpaceWarning)  # the program's "None" has no space before it
        return rows_of(model, fact.removed, templates, at, objective, essence_alike=True)


def rows_beside(rows: FactRows, other: FactRows, contexts: int) -> FactRows:
    """A fact's rows, with the first contexts of another fact, which asks for something else, before the essence row.

    One change serves both, as in Wei et al.'s program, which divides every row's loss by the length of the *first* fact's answer.
    """
    contexts = min(contexts, len(other.scored))
    tokens = pad_right([*(row[None] for row in rows.tokens[:-1]), *(row[None] for row in other.tokens[:contexts]), rows.tokens[-1:]])
    edited = torch.cat([rows.edited[:-1], other.edited[:contexts], rows.edited[-1:]])
    width = max(len(rows.answer), len(other.answer))
    both = [(rows, len(rows.scored)), (other, contexts)]
    scored = torch.cat([to_width(each.scored[:count], width) for each, count in both])
    answers = torch.cat([to_width(each.answer[None].expand(count, -1), width) for each, count in both])
    weights = torch.zeros(len(scored), width, dtype=torch.float64, device=scored.device)
    weights[: len(rows.scored), : len(rows.answer)] = 1 / (len(scored) * len(rows.answer))
    weights[len(rows.scored) :, : len(other.answer)] = 1 / (len(scored) * len(rows.answer))
    subjects = (*rows.subjects[:-1], *other.subjects[:contexts], ())
    answer = answers[0]  # as long as the longer of the two
    return replace(rows, tokens=tokens, edited=edited, scored=scored, answer=answer, subjects=subjects, answers=answers, weights=weights)


def to_width(values: torch.Tensor, width: int) -> torch.Tensor:
    """Repeat the last column up to a width."""
    return torch.cat([values, values[:, -1:].expand(-1, width - values.shape[1])], dim=1)


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


def drawn_from(noise: Noise, positions: Sequence[int], drawn: int) -> Hooks:
    """Corrupt some positions of every row by the next rows of a stream of noise.

    Args:
        drawn: how many rows of the stream were drawn before.
    """
    at = list(positions)

    def corrupt(embeddings: torch.Tensor, *, hook: object) -> torch.Tensor:
        clean, changed = embeddings[:, at], embeddings.clone()
        before = clean.new_zeros(drawn, *clean.shape[1:])
        changed[:, at] = noise.corrupted(torch.cat([before, clean]), tuple(range(len(at))))[drawn:]
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
