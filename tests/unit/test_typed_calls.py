"""What checks every call in the typed lane refuses what it should: types and shapes, arguments and results, of functions, hooks and dataclasses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation, BeartypeDoorHintViolation
from jaxtyping import Float
from typed_calls import jaxtyped

checked = jaxtyped(typechecker=beartype)
REFUSED = (BeartypeCallHintViolation, BeartypeDoorHintViolation, jaxtyping.TypeCheckError)


@checked
def doubled(number: int, *more: int, text: str = "", **words: str) -> int:
    return text or 2 * number  # pyright: ignore[reportReturnType]


@checked
def added(one: Float[torch.Tensor, "row pos"], other: Float[torch.Tensor, "row pos"]) -> Float[torch.Tensor, "row pos"]:
    return one + other if one.shape[0] < 4 else (one + other)[1:]


@checked
def of_a_name_that_is_not_here(value: NotHere, number: int) -> NotHere:  # pyright: ignore[reportUndefinedVariable]
    return value


def hook_of(width: int) -> Callable[..., Any]:
    @checked
    def hook(activation: Float[torch.Tensor, "row pos"], *others: int, hook: str, **more: int) -> Float[torch.Tensor, "row pos"]:
        return activation[:, :width] if width else activation

    return hook


@checked
@dataclass(frozen=True)
class Pair:
    first: int
    second: tuple[str, ...] = ()

    @property
    @checked
    def both(self) -> tuple[int, int]:
        return self.first, self.second  # pyright: ignore[reportReturnType]

    @classmethod
    @checked
    def of(cls, first: int) -> Pair:
        return cls(first)


ROWS = torch.zeros(2, 3)
BAD = {
    "an argument": lambda: doubled("1"),
    "one of several": lambda: doubled(1, 2, "3"),
    "a keyword": lambda: doubled(1, text=2),
    "one of several keywords": lambda: doubled(1, word=2),
    "a result": lambda: doubled(1, text="no number"),
    "a type of numbers": lambda: added(ROWS, ROWS.int()),
    "a number of axes": lambda: added(ROWS, ROWS[0]),
    "axes that differ": lambda: added(ROWS, ROWS.T),
    "axes of the result": lambda: added(torch.zeros(4, 3), torch.zeros(4, 3)),
    "beside an unknown name": lambda: of_a_name_that_is_not_here(1, "2"),
    "a hook's argument": lambda: hook_of(0)(ROWS[0], hook=""),
    "a hook's result": lambda: hook_of(2)(ROWS, hook=""),
    "a hook's keyword": lambda: hook_of(0)(ROWS, hook=1),
    "one of a hook's several": lambda: hook_of(0)(ROWS, "1", hook=""),
    "one of a hook's keywords": lambda: hook_of(0)(ROWS, hook="", more="1"),
    "a field": lambda: Pair("1"),
    "what is in a field": lambda: Pair(1, (2,)),
    "a property": lambda: Pair(1).both,
    "a class method's argument": lambda: Pair.of("1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_call_is_refused(name):
    with pytest.raises(REFUSED):
        BAD[name]()


def test_a_right_call_gives_what_it_gives():
    assert doubled(2, 3, 4, word="a") == 4
    assert torch.equal(added(ROWS, ROWS), ROWS) and of_a_name_that_is_not_here("x", 1) == "x"
    assert torch.equal(hook_of(0)(ROWS, 1, 2, hook="a", more=1), ROWS) and torch.equal(hook_of(3)(ROWS, hook="a"), ROWS)
    assert Pair(1, ("a",)) == Pair(first=1, second=("a",)) and Pair.of(1).first == 1
    assert [each.__name__ for each in (doubled, added, hook_of(0))] == ["doubled", "added", "hook"]


@pytest.mark.usefixtures("without_type_checks")
def test_checks_can_be_switched_off():
    assert doubled("1") == "11" and hook_of(0)(ROWS[0], hook=1) is not None and Pair("1").first == "1"
