"""The target of a prompt as tokens."""

from __future__ import annotations

import warnings

from tl_knowledge.errors import MissingSpaceWarning, TargetError
from tl_knowledge.models.protocol import HookedModel

__all__ = ["is_one_token", "target_tokens", "warn_of_missing_space"]

SPACE = "\u0120"  # how byte-level tokenizers write the space that begins a token


def target_tokens(model: HookedModel, target: str) -> tuple[int, ...]:
    """Tokens of a target's text.

    Raises:
        TargetError: no tokens, or a part that the tokenizer does not know.
    """
    ids = model.tokenizer(target, add_special_tokens=False)["input_ids"] if target else []
    if not ids:
        raise TargetError(f"target {target!r} has no tokens; pass the object's text, usually with its leading space, as in ' Seattle'.")
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    if unknown is not None and unknown in ids:
        raise TargetError(f"target {target!r} holds a part that the tokenizer does not know; pass words of its vocabulary.")
    return tuple(ids)


def warn_of_missing_space(model: HookedModel, text: str, target: str) -> None:
    """Say that a target would go on inside the prompt's last word: GPT-2's tokenizer, and those like it, have words with their space before them."""
    if not (text[-1:].isalnum() and target[:1].isalnum()):
        return
    spaced, bare = (model.tokenizer.convert_ids_to_tokens(target_tokens(model, each)[:1])[0] for each in (f" {target}", target))
    if spaced.startswith(SPACE) and not bare.startswith(SPACE):
        warnings.warn(
            f"target {target!r} has no space before it, so it would go on inside the last word of {text[-40:]!r}; pass {' ' + target!r}.",
            MissingSpaceWarning,
            stacklevel=2,
        )


def is_one_token(model: HookedModel, target: str) -> bool:
    """Whether a target is one token of this model."""
    try:
        return len(target_tokens(model, target)) == 1
    except TargetError:
        return False
