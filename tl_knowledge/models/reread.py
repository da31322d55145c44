"""Edits that change what is read: tokens that stand before a model's input, or another model that answers in its place.

While such an edit is on a model, the model's own ``forward`` and ``generate`` go through here. Every row of the input is read as the edits say,
and the logits are cut back to the row's own positions. What cannot be answered exactly is refused: hooks of somebody else (a position would be
another token), a start or stop in the middle, caches from outside, masks.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Int

from tl_knowledge.errors import InputError, ModelStateError, PromptError
from tl_knowledge.models.protocol import HookedModel, context_length, model_name
from tl_knowledge.models.routed import foreign_hook, routed_on
from tl_knowledge.wording import counted

__all__ = ["Read", "Reader", "as_it_is", "check_calls", "check_readable", "has_readers", "match_readers", "own_start", "read_rows", "reading_of"]

Row: TypeAlias = Int[torch.Tensor, " _"]
Rows: TypeAlias = Int[torch.Tensor, "batch pos"]
Run: TypeAlias = Callable[[HookedModel, torch.Tensor, int], torch.Tensor]
"""What runs a model on tokens whose first so many are no row's own, and gives a row of results for each of theirs."""

PASSED_ON = ("return_type", "loss_per_token", "prepend_bos", "padding_side")
CLOSED = ("hf_generate", "generate_stream", "diffusion_generate")
REMEDY = "revert(model) takes the edit off"


@dataclass(frozen=True, eq=False)
class Read:
    """How a row is read.

    Attributes:
        model: which answers: the model itself, or another one with its vocabulary.
        context: what stands before the row, behind its BOS token where it has one.
        first: what stands in the place of the row's first own token (the same word with a space before it); ``None`` leaves it.
        strength: how much it wants to be the one, where several edits have other models answer.
    """

    model: HookedModel
    context: Row
    first: int | None = None
    strength: float = 0.0


@runtime_checkable
class Reader(Protocol):
    """An edit that changes what is read."""

    def reads(self, model: HookedModel, tokens: Row) -> Read:
        """How a row is read; with the model itself and no context, nothing changes."""
        ...


class _AsItIs(threading.local):
    """How often each model is asked, by this thread, to read its input as it stands."""

    def __init__(self) -> None:
        self.times: WeakKeyDictionary[object, int] = WeakKeyDictionary()


_as_it_is = _AsItIs()


@contextmanager
def as_it_is(model: HookedModel) -> Generator[None]:
    """For the length of a ``with``, the model reads its input as it stands."""
    before = _as_it_is.times.get(model, 0)
    try:
        _as_it_is.times[model] = before + 1
        yield
    finally:
        _as_it_is.times[model] = before


def has_readers(model: HookedModel) -> bool:
    """Whether edits that change what is read are on the model, and count now."""
    return not _as_it_is.times.get(model) and any(isinstance(edit, Reader) for edit in routed_on(model))


def reading_of(model: HookedModel, tokens: Row) -> Read:
    """How a row is read under all edits on the model.

    Each decides by the row alone. Their contexts follow one another in the order the edits came; another model answers with its own edit's context
    alone, that of the greatest strength (the latest among equals) where there are several.
    """
    with as_it_is(model):
        reads = [edit.reads(model, tokens) for edit in routed_on(model) if isinstance(edit, Reader)]
    others = [read for read in reads if read.model is not model]
    if others:
        return max(reversed(others), key=lambda read: read.strength)
    first = next((read.first for read in reversed(reads) if read.first is not None), None)
    return Read(model, torch.cat([tokens[:0], *(read.context.to(tokens) for read in reads)]), first)


def read_rows(model: HookedModel, tokens: Rows, prompt: int, run: Run) -> torch.Tensor:
    """Run every row as it is read, rows that are read alike together.

    Args:
        prompt: how many of a row's tokens, from the first, decide how it is read.
        run: gives ``[batch ...]``.
    """
    readings = [reading_of(model, row[:prompt]) for row in tokens]
    results: dict[int, torch.Tensor] = {}
    for reader, rows in _alike(model, readings):
        length = len(readings[rows[0]].context)
        untouched = reader is model and length == 0
        # untouched rows run in the batch they came in: another one could round otherwise
        given = tokens if untouched else torch.stack([_as_read(model, tokens[i], readings[i]) for i in rows])
        _check_length(reader, given.shape[1], length)
        with as_it_is(reader):
            found = run(reader, given, length)
        results |= {i: found[i if untouched else n] for n, i in enumerate(rows)}
    return torch.stack([results[i] for i in range(len(tokens))])


def _alike(model: HookedModel, readings: list[Read]) -> Iterator[tuple[HookedModel, list[int]]]:
    """Rows by who answers and how much stands before them."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, read in enumerate(readings):
        groups.setdefault((id(read.model), len(read.context)), []).append(i)
    for rows in groups.values():
        yield readings[rows[0]].model, rows


def _as_read(model: HookedModel, row: Row, read: Read) -> Row:
    """The tokens that are read: a context takes its place behind BOS."""
    begins = own_start(model, row)
    own = row[begins:].clone()
    if read.first is not None and len(own):
        own[0] = read.first
    return torch.cat([row[:begins], read.context.to(row), own])


def own_start(model: HookedModel, row: Row) -> int:
    """Where a row's own tokens begin: behind its BOS token, where it has one."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    return int(bos is not None and len(row) > 0 and int(row[0]) == bos)


def _check_length(model: HookedModel, length: int, context: int, more: int = 0) -> None:
    if context and length + more > context_length(model):
        written = f" and {more} to be written" if more else ""
        raise PromptError(
            f"with the {counted(context, 'token')} that the edit puts before it the prompt has "
            f"{counted(length, 'token')}{written}; the context of {model_name(model)} is "
            f"{context_length(model)}: fewer demonstrations (k=...), or a shorter prompt."
        )


def check_readable(model: HookedModel) -> None:
    """Refuse hooks of somebody else on the model: under the edit they would see other tokens at their positions.

    Raises:
        ModelStateError: there is one.
    """
    name = foreign_hook(model)
    if name is not None:
        raise ModelStateError(
            f"a hook is on {name!r} while an edit that changes what is read is on {model_name(model)}: its positions would be other tokens. "
            f"Take the hook off (run_with_cache puts some on, too), or {REMEDY}."
        )


def match_readers(model: HookedModel) -> None:
    """Have the model's calls go through here while edits that change what is read are on it, and only then; it may be called again."""
    own = vars(model)
    if any(isinstance(edit, Reader) for edit in routed_on(model)):
        for name, call in _calls(model).items():
            if not isinstance(own.get(name), _Call):
                own[name] = call
        return
    for name, call in [(name, call) for name, call in own.items() if isinstance(call, _Call)]:
        if call.before is None:
            del own[name]
        else:
            own[name] = call.before


def check_calls(model: HookedModel) -> None:
    """Refuse to take an edit off while somebody else has replaced a call of the model that goes through here.

    Raises:
        ModelStateError: somebody has.
    """
    for name in _calls(model):
        if not isinstance(vars(model).get(name), _Call):
            raise ModelStateError(f"the model's {name}() was replaced by something else since the edit was put on it; put it back first.")


def _calls(model: HookedModel) -> dict[str, _Call]:
    ways: dict[str, Callable[..., Any]] = {"forward": _forward, "generate": _generate} | dict.fromkeys(CLOSED, _closed)
    return {name: _Call(ref(model), name, way, vars(model).get(name)) for name, way in ways.items() if hasattr(type(model), name)}


class _Call:
    """What stands in a model's instance for one of its methods.

    Attributes:
        before: what stood there already.
    """

    def __init__(self, model: Callable[[], Any], name: str, way: Callable[..., Any], before: Any) -> None:
        self.model, self.name, self.way, self.before = model, name, way, before

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = self.model()
        own: Callable[..., Any] = self.before or getattr(type(model), self.name).__get__(model)
        return own(*args, **kwargs) if _as_it_is.times.get(model) else self.way(model, own, args, kwargs)

    def __reduce_ex__(self, _: Any) -> Any:
        raise ModelStateError(f"a model cannot be copied or pickled while an edit that changes what is read is on it; {REMEDY}.")


def _closed(model: HookedModel, own: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    raise ModelStateError(f"{own.__name__}() does not know of the edit that changes what {model_name(model)} reads; use generate(), or {REMEDY}.")


def _arguments(own: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What was passed, by name, without defaults."""
    signature = inspect.signature(own)
    given = signature.bind(*args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    return {name: value for name, value in given.items() if name == "input" or value is not None}


def _forward(model: HookedModel, own: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    given = _arguments(own, args, kwargs)
    check_readable(model)
    for name, value in given.items():
        if name not in ("input", *PASSED_ON) and value is not False:
            raise ModelStateError(f"an edit that changes what is read is on {model_name(model)}, which cannot take {name}= meanwhile; {REMEDY}.")
    if given.get("return_type", "logits") not in ("logits", "loss"):
        raise InputError(f"return_type {given['return_type']!r} is not there while an edit that changes what is read is; pass 'logits' or 'loss'.")
    tokens = _tokens(model, given)
    logits = read_rows(model, tokens, tokens.shape[1], lambda reader, rows, context: reader(rows)[:, context:])
    if given.get("return_type", "logits") == "logits":
        return logits
    return model.loss_fn(logits, tokens, per_token=given.get("loss_per_token", False))  # pyright: ignore  # of both classes


def _tokens(model: Any, given: Mapping[str, Any]) -> Rows:
    """The input as tokens."""
    text: Any = given.get("input", "")
    if isinstance(text, torch.Tensor) and not text.is_floating_point() and text.ndim <= 2:
        return text.reshape(-1, text.shape[-1])
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, list) else []
    if not texts or not all(isinstance(each, str) for each in texts):
        raise InputError(f"an edit that changes what is read needs tokens [batch pos] or a text, not {type(text).__name__}; {REMEDY}.")
    bos = {"prepend_bos": given["prepend_bos"]} if "prepend_bos" in given else {}
    rows = [model.to_tokens(each, **bos) for each in texts]
    if len({row.shape[1] for row in rows}) > 1:
        raise InputError("texts of different lengths would be padded, and an edit that changes what is read knows no padding; pass one at a time.")
    return torch.cat(rows)


def _generate(model: Any, own: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The model's own ``generate`` on what is read, and the context cut off what it wrote."""
    given = _arguments(own, args, kwargs)
    check_readable(model)
    tokens = _tokens(model, given)
    readings = [reading_of(model, row) for row in tokens]
    if all(read.model is model and len(read.context) == 0 for read in readings):
        with as_it_is(model):
            return own(*args, **kwargs)
    asked = given.get("return_type", "input")
    as_text = asked == "str" or (asked == "input" and not isinstance(given.get("input"), torch.Tensor))
    if asked not in ("input", "str", "tokens"):
        raise InputError(f"return_type {asked!r} is not there while an edit that changes what is read is on the model; pass 'tokens' or 'str'.")
    settings = {name: value for name, value in given.items() if name not in ("input", "return_type", "prepend_bos", "padding_side")}
    more, written = int(given.get("max_new_tokens", inspect.signature(own).parameters["max_new_tokens"].default)), dict[int, torch.Tensor]()
    for reader, rows in _alike(model, readings):
        read = torch.stack([_as_read(model, tokens[i], readings[i]) for i in rows])
        _check_length(reader, read.shape[1], len(readings[rows[0]].context), more)
        with as_it_is(reader):
            new = reader.generate(read, return_type="tokens", **settings)[:, read.shape[1] :]  # pyright: ignore
        written |= dict(zip(rows, new, strict=True))
    ends = getattr(model.tokenizer, "eos_token_id", None)
    longest = max(map(len, written.values()))  # rows that ended are filled up with the end's token, as TransformerLens does
    filled = [torch.nn.functional.pad(written[i], (0, longest - len(written[i])), value=ends or 0) for i in range(len(tokens))]
    texts = torch.cat([tokens, torch.stack(filled).to(tokens)], dim=1)
    if not as_text:
        return texts
    decoded = [model.tokenizer.decode(row, skip_special_tokens=True) for row in texts]
    return decoded[0] if len(decoded) == 1 else decoded
