"""How a command's model is loaded: options that every command with ``--model`` has, given to it by one decorator."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli.words import BACKENDS, DTYPES
from tl_knowledge.errors import InputError, check_choice

__all__ = ["loads_model", "model_and_asked", "model_argument", "model_or_name", "quiet_libraries"]

_choice: ContextVar[_Loading] = ContextVar("loading")


@dataclass(frozen=True)
class _Loading:
    """The options' values.

    Attributes:
        device: as torch names it; a GPU where there is one when ``None``.
        dtype, backend, prepend_bos: as `load_model`.
    """

    device: str | None = None
    dtype: str = "float32"
    backend: str = "auto"
    prepend_bos: bool | None = None

    def check(self) -> None:
        """Refuse unknown words before anything heavy is imported."""
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("backend", self.backend, BACKENDS)


_OPTIONS: dict[str, Any] = {
    "device": Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; default a GPU where there is one.")],
    "dtype": Annotated[str, typer.Option(help=f"Of the weights: {', '.join(DTYPES)}.")],
    "backend": Annotated[str, typer.Option(help=f"TransformerLens' class: {', '.join(BACKENDS)}.")],
    "prepend_bos": Annotated[bool | None, typer.Option("--prepend-bos/--no-prepend-bos", help="Default the model's own; published programs: no.")],
}


def loads_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--device``, ``--dtype``, ``--backend`` and ``--prepend-bos``, which `model_argument` then reads."""

    @wraps(command)
    def with_options(**values: Any) -> None:
        chosen = _Loading(**{name: values.pop(name) for name in _OPTIONS})
        chosen.check()
        token = _choice.set(chosen)
        try:
            command(**values)
        finally:
            _choice.reset(token)

    own = inspect.signature(command, eval_str=True)
    defaults = _Loading()
    more = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=getattr(defaults, name), annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    held: Any = with_options
    held.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])
    held.__annotations__ = {parameter.name: parameter.annotation for parameter in held.__signature__.parameters.values()}
    return with_options


def quiet_libraries() -> None:
    """Keep transformers from announcing what it loads; importing it sets its own level, so this comes just before a model is loaded."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def model_argument(name: str, *, prepend_bos: bool | None = None) -> tlk.HookedModel:
    """The model by name or directory, loaded as the options say.

    Args:
        prepend_bos: where the option does not say.

    Raises:
        InputError: a device that torch does not know or that is not here.
    """
    import torch

    quiet_libraries()
    chosen = _choice.get(_Loading())
    if chosen.device is not None:
        try:
            torch.empty(0, device=chosen.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"--device {chosen.device!r} cannot be used here ({reason}); pass cpu, or a device that `info` lists.") from error
    bos = chosen.prepend_bos if chosen.prepend_bos is not None else prepend_bos
    dtype = getattr(torch, chosen.dtype)
    return tlk.load_model(name, device=chosen.device, dtype=dtype, backend=chosen.backend, prepend_bos=bos)  # pyright: ignore[reportArgumentType]


def model_or_name(name: str, runner: str) -> Any:
    """The loaded model, or its name where workers load it themselves.

    Raises:
        InputError: options of loading with ``--runner ray``.
    """
    if runner == "local":
        return model_argument(name)
    if _choice.get(_Loading()) != _Loading():
        given = ", ".join(f"--{option.replace('_', '-')}" for option in _OPTIONS)
        raise InputError(f"{given} do not reach the workers of --runner ray, which load the model with its defaults; drop them or --runner.")
    quiet_libraries()
    return name


def model_and_asked(name: str, runner: str) -> tuple[tlk.HookedModel, Any]:
    """The loaded model, and what a driver is asked with: the same, or the name where workers load it themselves.

    Raises:
        InputError: as `model_or_name`.
    """
    asked = model_or_name(name, runner)
    return (asked if runner == "local" else model_argument(name)), asked
