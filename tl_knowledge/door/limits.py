"""What numbers and texts may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tl_knowledge.door.words import shown
from tl_knowledge.errors import InputError

__all__ = ["check_number", "check_text"]

NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "memory_budget": (lambda n: 0 < n < 2**63, "above 0 and below 2**63, in bytes"),
    **dict.fromkeys(("threshold", "shared_by"), (lambda n: not math.isnan(n), "a number")),
}
"""What a number may be, by the name of its argument, where the function itself does not say."""

SETTINGS: dict[str, tuple[Callable[[float], bool], str]] = {
    "steps": (lambda n: n >= 1, "1 or more"),
    "seed": (lambda n: n >= 0, "0 or more"),
    "rank": (lambda n: n >= 1, "1 or more"),
    **dict.fromkeys(("learning_rate", "clamp", "alpha"), (lambda n: 0 < n < math.inf, "above 0 and finite")),
    **dict.fromkeys(
        ("weight_decay", "kl_factor", "damping", "moment_weight", "ridge", "null_below"), (lambda n: 0 <= n < math.inf, "0 or more and finite")
    ),
}
"""The same for the settings of editing methods."""

LARGEST = 2**40

SETTINGS_OF = {
    *("ROME", "MEMIT", "PMET", "EMMET", "AlphaEdit", "UltraEdit", "LoRA", "ValueSettings", "TrainingSettings"),
    *("FineTune", "FineTuneConstrained", "FineTuneAttention", "FineTuneDecayed"),
    *("GRACE", "TransformerPatcher", "MEND", "KE", "SERAC", "IKE", "LensSettings", "SubspaceSettings"),
}


def check_text(function: str, argument: str, value: Any) -> None:
    """Refuse what no tokenizer takes; what is no text passes.

    Raises:
        InputError: half a character.
    """
    if not isinstance(value, str):
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{function}({argument}=...): {shown(value)} has half a character (a lone surrogate) at {error.start}, which no tokenizer takes; "
            "read the text with errors='replace'."
        ) from error


def check_number(function: str, argument: str, value: Any) -> None:
    """Refuse a number that its argument cannot be; what is no number passes.

    Raises:
        InputError: out of range.
    """
    if isinstance(value, int) and abs(value) > LARGEST:
        raise InputError(f"{function}({argument}=...): {shown(value)} is too large a number.")
    ranges = SETTINGS if function in SETTINGS_OF else NUMBERS
    if argument not in ranges or isinstance(value, bool) or not isinstance(value, int | float):
        return
    allowed, words = ranges[argument]
    if not allowed(value):
        raise InputError(f"{function}({argument}={value!r}): {argument} must be {words}.")
