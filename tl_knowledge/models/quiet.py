"""TransformerLens and transformers without what they say in a notebook's first cell: a missing widget, and a bar for weights that load at once."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager

from tqdm import TqdmWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # without ipywidgets the bar is text; whoever imports it first would be told so
    from tqdm.auto import tqdm

__all__ = ["loading_quietly", "tqdm"]


@contextmanager
def loading_quietly() -> Generator[None]:
    """No progress bar of transformers for the length of a ``with``, unless the caller's own choice was none anyway."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
