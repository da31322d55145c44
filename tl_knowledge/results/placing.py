"""Where a file is written: beside its final name and moved there in one step, or straight into a device, a pipe or an open file."""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tl_knowledge.errors import DataError
from tl_knowledge.results.writable import check_path

__all__ = ["PARTIAL", "moved_into_place", "remove_partial_files", "with_ending"]

PARTIAL = ".partial"
LINKS = 40  # as many as Linux follows
OWN_FILES = {"/dev/stdout": 1, "/dev/stderr": 2}
OWN_FILE = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")


def with_ending(path: str | os.PathLike[str], ending: str) -> Path:
    """The path, with the ending where it has none; a device keeps its name.

    Example:
        >>> with_ending("edit", ".safetensors").name, with_ending("edit.bin", ".safetensors").name, with_ending("/dev/null", ".json").name
        ('edit.safetensors', 'edit.bin', 'null')
    """
    target = Path(path)
    return target if target.suffix or not target.name or _written_straight(target) else target.with_suffix(ending)


@contextmanager
def moved_into_place(target: Path) -> Generator[Path]:
    """Hand out a temporary path in the target's folder; on success move it to the target, on failure remove it.

    Links stay, and so do the rights of a file that was there. What lies in ``/dev`` or ``/proc``, and what is no file, is written to.

    Raises:
        DataError: it cannot be written.
    """
    check_path(target)
    straight = _written_straight(target)
    if straight is not None:
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole"
            yield whole
            _copy_to(whole, straight)
        return
    real, partial = Path(os.path.realpath(target)), None
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        rights = stat.S_IMODE(real.stat().st_mode) if real.exists() else None
        partial = _created(real, rights)
        yield partial
        if rights is not None:
            partial.chmod(rights)
        partial.replace(real)
    except (OSError, SafetensorError) as error:  # the second of a full disk
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot write {str(target)!r}: {reason}; pass a path that can be written to, or make room.") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def remove_partial_files(directory: Path) -> None:
    """Remove what a killed process left half-written in a folder."""
    for left in directory.glob(f"*{PARTIAL}"):
        left.unlink()


def _created(real: Path, rights: int | None) -> Path:
    """An empty file beside another: with its rights, or with those that the process gives new files."""
    partial = real.with_name(f"{real.name[:40]}.{secrets.token_hex(8)}{PARTIAL}")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if rights is None else (rights & 0o666) | 0o600))
    return partial


def _written_straight(target: Path) -> Path | None:
    """What is written to and never replaced: a device or a process' open file, also behind links, or anything else that is no file."""
    step = Path(os.path.abspath(target))  # noqa: PTH100  # without following links
    try:
        for _ in range(LINKS):
            if step.parts[1:2] in (("dev",), ("proc",)) and step.parts[1:3] != ("dev", "shm"):
                return step
            if not step.is_symlink():
                break
            step = Path(os.path.abspath(step.parent / step.readlink()))  # noqa: PTH100
        return target if target.exists() and not target.is_file() else None
    except OSError:  # such as a name too long: said where the file is made
        return None


def _copy_to(whole: Path, device: Path) -> None:
    """A file's bytes into a device; into this process' own open files where they stand, behind what it has printed."""
    number = OWN_FILES.get(str(device))
    if number is None and (own := OWN_FILE.fullmatch(str(device))):
        number = int(own[1])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        with device.open("wb", buffering=0) if number is None else os.fdopen(os.dup(number), "wb") as out:
            out.write(whole.read_bytes())
    except OSError as error:
        raise DataError(f"cannot write {str(device)!r}: {error.strerror or error}; pass the path of a file.") from error
