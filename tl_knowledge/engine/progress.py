"""Progress bars: in a terminal and in a notebook, and none before the work has lasted two seconds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # a notebook without ipywidgets gets the text bar, and no warning in its first cell
    from tqdm.auto import tqdm

__all__ = ["progress_bar"]

DELAY = 2.0


def progress_bar(
    items: Iterable[Any] | None = None, *, what: str, unit: str, progress: bool, total: int | None = None, initial: int = 0, leave: bool = True
) -> Any:
    """A tqdm bar over some items, or to be moved on by hand (``bar.update(n)``) up to a total.

    Args:
        what: what is being done.
        unit: what is counted.
        progress: whether to show it at all.

    Example:
        >>> list(progress_bar([1, 2], what="count", unit="number", progress=False))
        [1, 2]
    """
    return tqdm(items, total=total, initial=initial, desc=what, unit=unit, delay=DELAY, leave=leave, disable=not progress)
