"""Roles of tokens, under the name they have in tracing."""

from tl_knowledge.runs.roles import (
    PLACES,
    RELATION_ROLES,
    ROLES,
    SIDES,
    SUBJECT_ROLES,
    Place,
    Role,
    Side,
    last_corrupted,
    role_positions,
    roles_of_side,
)

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
