"""The models in the package: FactLM and its LLaMA-shaped sibling, which knows the same facts and has the same tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["BUNDLED", "FACTLM_DIRECTORY", "bundled_tokenizer", "is_bundled", "load_tokenizer"]

FACTLM_DIRECTORY = Path(__file__).parents[1] / "factlm"
"""FactLM's files; the tokenizer here is its sibling's, too."""

BUNDLED: Mapping[str, Path] = {"factlm": FACTLM_DIRECTORY, "factlm-llama": FACTLM_DIRECTORY.with_name("factlm_llama")}
"""Folders of the bundled models by name."""


def is_bundled(name: object) -> bool:
    """Whether a name is a bundled model's: the facts, edit cases and corpus of FactLM are what it was trained on.

    Example:
        >>> is_bundled("factlm-llama"), is_bundled("gpt2"), is_bundled(None)
        (True, False, False)
    """
    return isinstance(name, str) and name in BUNDLED


def load_tokenizer(directory: str | Path) -> Any:
    """The tokenizer of a directory in Hugging Face format."""
    from transformers import AutoTokenizer  # here, so that the command line knows the names at once

    return AutoTokenizer.from_pretrained(directory)


def bundled_tokenizer() -> Any:
    """The tokenizer of every bundled model."""
    return load_tokenizer(FACTLM_DIRECTORY)
