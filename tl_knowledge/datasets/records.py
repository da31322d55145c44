"""Rows of a data set from a local file, a folder, a URL or the Hugging Face hub, each knowing where it stands.

A field that is missing or of the wrong kind is an error with file, line and field, so that a malformed file can be mended.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tl_knowledge.errors import DataError, InputError

__all__ = ["Row", "Source", "files_in", "read_rows"]

Source: TypeAlias = str | os.PathLike[str]
"""A file (JSON, JSON lines, either gzipped; parquet, CSV), a folder or hub id that ``datasets.load_dataset`` reads, or a URL of a file."""

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet", ".csv")
_TABLES = {".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class Row:
    """One record: its fields, and where it stands."""

    fields: dict[str, Any]
    where: str

    def __contains__(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def text(self, name: str, *, empty: bool = False) -> str:
        """A field that must be text, not blank unless ``empty``."""
        value = self._value(name)
        if not isinstance(value, str) or not (empty or value.strip()):
            raise DataError(f"{self.where}: field {name!r} is {value!r}; it must be text that is not blank.")
        return value

    def optional_text(self, name: str) -> str | None:
        """A field that may be missing, and must be text if it is there."""
        return self.text(name, empty=True) if name in self else None

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that must be a list of texts; one text stands for a list of one."""
        value = self._value(name)
        items = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]
        wrong = [item for item in items if not isinstance(item, str)]
        if wrong:
            raise DataError(f"{self.where}: field {name!r} holds {wrong[0]!r}; it must be a list of texts.")
        return tuple(items)

    def row(self, name: str) -> Row:
        """A field that must be a record of its own."""
        value = self._value(name)
        if not isinstance(value, dict):
            raise DataError(f"{self.where}: field {name!r} is {value!r}; it must be a record.")
        return Row(value, f"{self.where}, {name!r}")

    def rows(self, name: str) -> tuple[Row, ...]:
        """A field that must be a list of records."""
        value = self._value(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise DataError(f"{self.where}: field {name!r} is {str(value)[:60]!r}; it must be a list of records.")
        return tuple(Row(item, f"{self.where}, {name!r} {number}") for number, item in enumerate(value))

    def refuse(self, error: InputError) -> DataError:
        """The error of a record whose fields do not fit together."""
        return DataError(f"{self.where}: {error}")

    def _value(self, name: str) -> Any:
        if name not in self.fields:
            raise DataError(f"{self.where}: field {name!r} is missing; the record has {', '.join(map(repr, self.fields)) or 'no fields'}.")
        return self.fields[name]


def read_rows(source: Source, *, subset: str | None = None, split: str = "train", data_files: str | None = None) -> Iterator[Row]:
    """Every record of a source.

    Args:
        source: what to read; see `Source`.
        subset, split, data_files: passed to ``datasets.load_dataset`` for folders, URLs and the hub.

    Raises:
        DataError: the source cannot be read, or a line of it is not a JSON record.
    """
    path = Path(source)
    if path.is_file() and path.suffix not in _TABLES:
        yield from _file_rows(path)
    elif str(source).endswith(_SUFFIXES) and "://" not in str(source) and not path.is_file():
        raise DataError(f"there is no file {str(source)!r}; pass the path of an existing file, or a data set of the Hugging Face hub.")
    else:
        yield from _hub_rows(source, subset, split, data_files)


def files_in(source: Source, pattern: str) -> list[Path]:
    """The files of a folder that match a pattern, in order of their names.

    Raises:
        DataError: no folder, or no such file in it.
    """
    paths = sorted(Path(source).glob(pattern))
    if not paths:
        raise DataError(f"there is no {pattern} in {str(source)!r}; pass the folder that has them.")
    return paths


def _file_rows(path: Path) -> Iterator[Row]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}; pass a JSON or JSON-lines file in UTF-8, gzipped or not.") from error
    if text.lstrip().startswith("["):
        yield from _array_rows(path, text)
        return
    if path.name.removesuffix(".gz").endswith(".json"):  # one record, over as many lines as it likes
        yield _row(path, 1, _parsed(path, text, 1))
        return
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):  # U+2028 and others are allowed inside a line
        if line.strip():
            yield _row(path, number, _parsed(path, line, number))


def _array_rows(path: Path, text: str) -> Iterator[Row]:
    """The records of a JSON array one by one, each with the line it starts on."""
    decoder, at, line, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at < len(text) and text[at] == "]":
            return
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); mend the file or fetch it again.") from error
        except (RecursionError, ValueError) as error:
            raise _unreadable(path, line, error) from error
        yield _row(path, line, value)


def _parsed(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {line + error.lineno - 1}: not JSON ({error.msg}); mend the file or fetch it again.") from error
    except (RecursionError, ValueError) as error:
        raise _unreadable(path, line, error) from error


def _unreadable(path: Path, line: int, error: Exception) -> DataError:
    """The error of JSON that Python does not read: too deep, or with a number of thousands of digits."""
    reason = "nested too deeply for a record" if isinstance(error, RecursionError) else str(error)
    return DataError(f"{path}, line {line}: {reason}; mend the file or fetch it again.")


def _row(path: Path, line: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {line}: {str(value)[:60]!r} is no record; every line or array element must be a JSON object.")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{path}, line {line}: a text has half of a surrogate pair ({error.reason}); mend the file or fetch it again.") from error
    return Row(value, f"{path}, line {line}")


def _hub_rows(source: Source, subset: str | None, split: str, data_files: str | None) -> Iterator[Row]:
    import datasets

    name = str(source)
    try:
        if "://" in name or Path(name).is_file():
            loaded: Any = datasets.load_dataset(_TABLES.get(Path(name).suffix, "json"), data_files=name, split=split)
        else:
            loaded = datasets.load_dataset(name, subset, split=split, data_files=data_files)
    except Exception as error:  # the library and the hub client raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot load {name!r} ({reason}); pass a local file or folder, or a data set id that the hub has.") from error
    for number, fields in enumerate(loaded):
        yield Row(dict(fields), f"{name}, row {number}")
