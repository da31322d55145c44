"""Whether something can be written, asked before it is computed. Nothing here needs torch, so the command line can ask at once."""

from __future__ import annotations

import os
from pathlib import Path

from tl_knowledge.errors import DataError

__all__ = ["check_writable", "check_writable_file"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out, before anything is computed for it, whether a file or folder can be written; nothing is made.

    Raises:
        DataError: it cannot, and why.
    """
    target = Path(path)
    there = next((parent for parent in (target, *target.absolute().parents) if parent.exists()), Path("/"))
    if there != target and not there.is_dir():
        raise DataError(f"cannot write {str(target)!r}: {str(there)!r} is no folder; pass another path.")
    if not os.access(there, os.W_OK):
        raise DataError(f"cannot write {str(target)!r}: {str(there)!r} is read-only; pass a path that you may write to.")


def check_writable_file(path: str | os.PathLike[str]) -> None:
    """`check_writable` of a file: a folder is none.

    Raises:
        DataError: it cannot be written, and why.
    """
    if Path(path).is_dir():
        raise DataError(f"cannot write {os.fspath(path)!r}: it is a folder; pass the path of a file.")
    check_writable(path)
