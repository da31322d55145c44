"""The folder of a run that can be killed and go on: ``run.json`` says which run, ``part-*.parquet`` hold what is finished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tl_knowledge.errors import DataError
from tl_knowledge.results.storage import remove_partial_files, write_text

__all__ = ["RunFolder"]


class RunFolder:
    """One run's folder."""

    def __init__(self, directory: str | os.PathLike[str], run: dict[str, Any], name: str) -> None:
        """Open or create the folder.

        Args:
            run: what makes it this run, as plain data, with a mapping ``settings``.
            name: of the function, for the messages.

        Raises:
            DataError: the folder holds another run, or something else.
        """
        self.directory, self.name = Path(directory), name
        path = self.directory / "run.json"
        if path.is_file():
            self._check_same(json.loads(path.read_text(encoding="utf-8")), run)
            remove_partial_files(self.directory)
        elif self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir())):
            raise DataError(f"{str(self.directory)!r} exists and is no folder of a {name} run; pass a new or an empty folder.")
        else:
            write_text(path, json.dumps(run, indent=2))

    def finished(self) -> list[int]:
        """Numbers of the parts that are there."""
        return sorted(int(path.stem.removeprefix("part-")) for path in self.directory.glob("part-*.parquet"))

    def part(self, number: int) -> Path:
        """A part's file."""
        return self.directory / f"part-{number:05d}.parquet"

    def _check_same(self, there: dict[str, Any], now: dict[str, Any]) -> None:
        settings: dict[str, Any] = there.pop("settings", {})
        wanted: dict[str, Any] = now["settings"]
        different = [key for key in wanted if settings.get(key) != wanted[key]]
        different += [key for key in now if key != "settings" and there.get(key) != now[key]]
        if different:
            raise DataError(
                f"{str(self.directory)!r} holds a run with other {', '.join(different)}; pass a new folder, or that run's arguments to go on with it."
            )
