"""What each control makes of a tab: from one state to the next, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from tl_knowledge.errors import InputError
from tl_knowledge.explore.keys import ResultKeys
from tl_knowledge.explore.state import COMPONENTS, EditRequest, ExplorerState

__all__ = ["asked", "circuit_found", "compared_on", "edited", "looked_at", "marked", "settled", "toggled", "traced", "without"]

Role = Literal["subject", "relation"]
Units = Literal["suppressed", "knocked_out"]


def asked(state: ExplorerState, prompt: str | None, target: str | None) -> ExplorerState:
    """Another prompt, on which nothing is marked yet and nothing traced, or another answer to the same one; changes of the model stay."""
    state = replace(state, prompt=prompt or "", target=target or None) if prompt == state.prompt else _anew(state, prompt or "", target or None)
    if not state.prompt.strip():
        raise InputError("the prompt is empty; type the beginning of a sentence, such as 'The capital of France is'.")
    return state


def _anew(state: ExplorerState, prompt: str, target: str | None) -> ExplorerState:
    return replace(state, prompt=prompt, target=target, subject=None, relation=None, cell=None, components=())


def marked(state: ExplorerState, role: Role, start: int, stop: int) -> ExplorerState:
    """Tokens marked as subject or relation; the mark that is there already is taken off, and so is the other one where they overlap."""
    own = None if getattr(state, role) == (start, stop) else (start, stop)
    other: Role = "relation" if role == "subject" else "subject"
    theirs = getattr(state, other)
    if own is not None and theirs is not None and own[0] < theirs[1] and theirs[0] < own[1]:
        theirs = None
    marks: dict[str, Any] = {role: own, other: theirs}
    if marks["subject"] is None and marks["relation"] is None:
        marks |= {"components": (), "cell": None}
    return replace(state, **marks)


def traced(state: ExplorerState, corrupt: Any, components: Sequence[Any], window: str | None, samples: Any, seed: Any, metric: Any) -> ExplorerState:
    """Maps of some components, with their settings."""
    chosen = tuple(each for each in COMPONENTS if each in components)
    if not chosen:
        raise InputError("no component is ticked; tick at least one to restore.")
    if state.subject is None and state.relation is None:
        raise InputError("no token is marked; mark the subject or the relation above, so that there is something to corrupt.")
    numbers = {"samples": _whole("noise samples", samples), "seed": _whole("seed", seed)}
    settings: dict[str, Any] = {"corrupt": corrupt, "window": _window(window), "metric": metric} | numbers
    return replace(state, components=chosen, **settings)


def _window(text: str | None) -> Any:
    words = (text or "auto").strip()
    if words != "auto" and not _is_number(words):
        raise InputError(f"layers restored together are {words!r}; type a whole number, or auto.")
    return words if words == "auto" else int(words)


def looked_at(state: ExplorerState, component: Any, layer: Any, pos: Any) -> ExplorerState:
    """A cell."""
    return replace(state, cell=(component, _whole("layer", layer), _whole("token", pos)))


def circuit_found(state: ExplorerState) -> ExplorerState:
    """The circuit of what is traced."""
    if not state.components or (state.subject is None and state.relation is None):
        raise InputError("there is no trace yet; mark the subject and press Trace first.")
    return replace(state, circuit=True)


def settled(old: ExplorerState, new: ExplorerState) -> ExplorerState:
    """The next state without a circuit that is of the one before: it may take minutes, so another one waits until it is asked for."""
    stale = old.circuit and ResultKeys(old).circuit != ResultKeys(new).circuit
    return replace(new, circuit=False) if stale else new


def toggled(state: ExplorerState, kind: Units, units: Sequence[tuple[int, int]]) -> ExplorerState:
    """Neurons or heads switched off; switched on again where all of them are off."""
    held: tuple[tuple[int, int], ...] = getattr(state, kind)
    if set(units) <= set(held):
        return replace(state, **{kind: tuple(each for each in held if each not in units)})
    return replace(state, **{kind: (*held, *(each for each in units if each not in held))})


def edited(state: ExplorerState, fact: tuple[str, str], method: Any, layers: str | None, target_new: str | None, editor: str = "") -> ExplorerState:
    """One more edit.

    Args:
        fact: subject and template.
        layers: numbers with commas between.
        editor: fingerprint of the trained editor, of a method that is trained.
    """
    if not (target_new or "").strip():
        raise InputError("there is no new answer; type it with its leading space, such as ' London'.")
    return replace(state, edits=(*state.edits, EditRequest(str(method), *fact, str(target_new), _layers(layers), editor)))


def _layers(text: str | None) -> tuple[int, ...]:
    parts = (text or "").replace(",", " ").split()
    if not all(map(_is_number, parts)):
        raise InputError(f"layers {text!r} are no numbers; type them with commas between, such as 3, 4, or leave the field empty.")
    return tuple(map(int, parts))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10


def compared_on(state: ExplorerState, text: str | None) -> ExplorerState:
    """Further prompts, one a line."""
    return replace(state, further=tuple(line for line in (text or "").splitlines() if line.strip()))


def without(state: ExplorerState, kind: str, number: int) -> ExplorerState:
    """One change less: an edit, a neuron or a head, by its place."""
    held: tuple[Any, ...] = getattr(state, kind)
    return replace(state, **{kind: (*held[:number], *held[number + 1 :])})


def _whole(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{what} is {value!r}; type a whole number.")
    return value
