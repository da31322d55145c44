"""Functions of one prompt, for several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload, runtime_checkable

from tl_knowledge.errors import check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["each_prompt"]

Rest = ParamSpec("Rest")
Given = TypeVar("Given")


@runtime_checkable
class _OfPrompts(Protocol[Rest, Given]):
    """What `each_prompt` makes."""

    @overload
    def __call__(self, model: AnyModel, prompt: Prompt | Fact, *args: Rest.args, **kwargs: Rest.kwargs) -> Given: ...

    @overload
    def __call__(self, model: AnyModel, prompt: Sequence[Prompt | Fact], *args: Rest.args, **kwargs: Rest.kwargs) -> list[Given]: ...


def each_prompt(function: Callable[Concatenate[AnyModel, Prompt, Rest], Given]) -> _OfPrompts[Rest, Given]:
    """Let a function of one prompt take a list of prompts, too, and give a list: what it gives of each by itself.

    Raises:
        DataError: by the function, for an empty list.
    """

    @wraps(function)
    def of_one_or_several(model: Any, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(prompt, list | tuple):
            return function(model, prompt, *args, **kwargs)
        batch: tuple[Prompt, ...] = check_given(prompt, "prompt")
        loaded = as_model(model, masked=True, without_mlps=True, encoder_decoder=True)  # once; what else it must be the function says
        return [function(loaded, each, *args, **kwargs) for each in batch]

    return cast("_OfPrompts[Rest, Given]", of_one_or_several)
