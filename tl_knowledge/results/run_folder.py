"""The folder of a run that can be killed and go on: ``run.json`` says which run, ``part-*.parquet`` hold what is finished."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tl_knowledge.errors import DataError
from tl_knowledge.results.placing import PARTIAL, remove_partial_files
from tl_knowledge.results.storage import write_text
from tl_knowledge.results.writable import check_writable

__all__ = ["PART", "RunFolder", "taken_lock"]


LOCK = ".lock"
PART = re.compile(r"part-(\d{5})\.parquet")


def taken_lock(path: Path, *, busy: str | None = None) -> FileLock:
    """A lock that this process now has, its folder made; it is let go by ``release``, and by the end of the process, however it ends.

    Args:
        busy: what to say where another process has it; ``None`` waits for that process.

    Raises:
        DataError: another process has it, or the folder cannot have locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=-1 if busy is None else 0)
    except Timeout as error:
        raise DataError(f"{busy}; wait for it, or pass another folder.") from error
    except (OSError, NotImplementedError) as error:
        raise DataError(f"cannot lock {str(path)!r}: {error}; pass a folder of a file system that has locks and room.") from error
    return lock


class RunFolder:
    """One run's folder, which one run at a time has: `close` lets it go, as the end of the process does, however it ends."""

    def __init__(self, directory: str | os.PathLike[str], run: dict[str, Any], name: str) -> None:
        """Open or create the folder.

        Args:
            run: what makes it this run, as plain data, with a mapping ``settings``.
            name: of the function, for the messages.

        Raises:
            DataError: the folder holds another run, or something else, another process is at work in it, or it cannot be written.
        """
        check_writable(directory)
        self.directory, self.name = Path(directory), name
        path = self.directory / "run.json"
        if not path.is_file() and self.directory.exists() and (not self.directory.is_dir() or any(self._strangers())):
            raise DataError(f"{str(self.directory)!r} exists and is no folder of a {name} run; pass a new or an empty folder.")
        self._lock = taken_lock(self.directory / LOCK, busy=f"another {name} run is at work in {str(self.directory)!r}")
        try:
            if path.is_file():
                self._check_same(self._read(path), run)
                remove_partial_files(self.directory)
                self._refuse_strangers()
            else:
                write_text(path, json.dumps(run, indent=2))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others at the folder."""
        self._lock.release()

    def finished(self) -> list[int]:
        """Numbers of the parts that are there."""
        return sorted(int(part[1]) for path in self.directory.iterdir() if (part := PART.fullmatch(path.name)))

    def part(self, number: int) -> Path:
        """A part's file."""
        return self.directory / f"part-{number:05d}.parquet"

    def _strangers(self) -> list[str]:
        known = {"run.json", LOCK}
        return sorted(path.name for path in self.directory.iterdir() if path.name not in known and not path.name.endswith(PARTIAL))

    def _refuse_strangers(self) -> None:
        strange = [name for name in self._strangers() if name.startswith("part-") and not PART.fullmatch(name)]
        if strange:
            raise DataError(f"{str(self.directory)!r} holds {strange[0]!r}, which is no part of a {self.name} run; take it out.")

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            return {**there, "settings": {**there["settings"]}}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{str(path)!r} is damaged ({error}); delete the folder, or pass a new one.") from error

    def _check_same(self, there: dict[str, Any], now: dict[str, Any]) -> None:
        settings: dict[str, Any] = there.pop("settings", {})
        wanted: dict[str, Any] = now["settings"]
        different = [key for key in wanted if settings.get(key) != wanted[key]]
        different += [key for key in now if key != "settings" and there.get(key) != now[key]]
        if different:
            raise DataError(
                f"{str(self.directory)!r} holds a run with other {', '.join(different)}; pass a new folder, or that run's arguments to go on with it."
            )
