"""Whether something can be written, asked before it is computed. Nothing here needs torch, so the command line can ask at once."""

from __future__ import annotations

import os
from pathlib import Path

from tl_knowledge.errors import DataError

__all__ = ["check_path", "check_writable", "check_writable_file", "check_writable_folder"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out, before anything is computed for it, whether a file or folder can be written; nothing is made.

    Raises:
        DataError: it cannot, and why.
    """
    check_path(path)
    target = Path(path)
    there = next((parent for parent in (target, *target.absolute().parents) if _exists(parent)), Path("/"))
    if there != target and not there.is_dir():
        raise DataError(f"cannot write {str(target)!r}: {str(there)!r} is no folder; pass another path.")
    if not os.access(there, os.W_OK):
        raise DataError(f"cannot write {str(target)!r}: {str(there)!r} is read-only; pass a path that you may write to.")
    longest = os.pathconf(there, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for name in target.parts:
        if (size := len(os.fsencode(name))) > longest:
            raise DataError(f"cannot write {name[:20]!r}...: a name of {size} bytes, more than the {longest} of a file; pass a shorter one.")


def check_writable_file(path: str | os.PathLike[str]) -> None:
    """`check_writable` of a file: a folder is none.

    Raises:
        DataError: it cannot be written, and why.
    """
    check_writable(path)
    if Path(path).is_dir():
        raise DataError(f"cannot write {os.fspath(path)!r}: it is a folder; pass the path of a file.")


def check_writable_folder(path: str | os.PathLike[str]) -> None:
    """`check_writable` of a folder: a file is none.

    Raises:
        DataError: it cannot be written, and why.
    """
    check_writable(path)
    if Path(path).exists() and not Path(path).is_dir():
        raise DataError(f"cannot write into {os.fspath(path)!r}: it is a file; pass the path of a folder.")


def check_path(path: str | os.PathLike[str]) -> None:
    """Refuse what no file can be called.

    Raises:
        DataError: the path is empty, or has a NUL character or half of one.
    """
    text = os.fspath(path)
    try:
        unfit = "" if text and b"\0" not in os.fsencode(text) else "it holds a NUL character" if text else "the path is empty"
    except UnicodeEncodeError as error:
        unfit = str(error)
    if unfit:
        raise DataError(f"cannot write {text!r}: {unfit}; pass a path that a file can have.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, which no file has
        return False
