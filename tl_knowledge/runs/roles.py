"""Roles of tokens, over which effects of prompts of different wording are averaged (as in Meng et al. 2022 and Wei et al. 2024).

From the subject's side: first, middle and last subject token, first token after, further tokens, last token. From the
relation's side: subject tokens; first, middle and last relation token. As in Meng et al.'s program, the middle and further
tokens pool (every token counts), a one-token subject is first *and* last, and a token may be "first after" *and* "last".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from tl_knowledge.errors import PromptError

__all__ = [
    "PLACES",
    "RELATION_ROLES",
    "ROLES",
    "SIDES",
    "SUBJECT_ROLES",
    "Place",
    "Role",
    "Side",
    "last_corrupted",
    "role_positions",
    "roles_of_side",
]

Side: TypeAlias = Literal["subject", "relation"]
"""Which tokens are corrupted: the subject's, or all others (Wei et al. 2024)."""

Role: TypeAlias = Literal[
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first token after",
    "further tokens",
    "last token",
    "subject tokens",
    "first relation token",
    "middle relation tokens",
    "last relation token",
]

SIDES: tuple[Side, ...] = get_args(Side)
ROLES: tuple[Role, ...] = get_args(Role)
SUBJECT_ROLES, RELATION_ROLES = ROLES[:6], ROLES[6:]


Place: TypeAlias = Literal["last corrupted token", "last token"]
"""The early site and the late one."""

PLACES: tuple[Place, ...] = get_args(Place)


def role_positions(subject: Sequence[int], relation: Sequence[int], length: int) -> dict[Role, tuple[int, ...]]:
    """The positions of every role in a prompt; empty where the prompt has none.

    Args:
        subject: the subject's positions, ascending.
        relation: the positions outside the subject, ascending.
        length: of the prompt.

    Example:
        >>> role_positions([1, 2], [3, 4], 5)["last subject token"]
        (2,)
    """
    if not subject or not relation:
        raise PromptError(f"subject {tuple(subject)} and relation {tuple(relation)} must both have tokens; pass a prompt with both.")
    after = list(range(subject[-1] + 1, length))
    return {
        "first subject token": (subject[0],),
        "middle subject tokens": tuple(subject[1:-1]),
        "last subject token": (subject[-1],),
        "first token after": tuple(after[:1]),
        "further tokens": tuple(after[1:-1]),
        "last token": (length - 1,),
        "subject tokens": tuple(subject),
        "first relation token": (relation[0],),
        "middle relation tokens": tuple(relation[1:-1]),
        "last relation token": (relation[-1],),
    }


def roles_of_side(side: Side) -> tuple[Role, ...]:
    """The roles in which a side's effects are usually shown."""
    return SUBJECT_ROLES if side == "subject" else RELATION_ROLES


def last_corrupted(side: Side) -> Role:
    """The early site's token: the last corrupted one."""
    return "last subject token" if side == "subject" else "last relation token"
