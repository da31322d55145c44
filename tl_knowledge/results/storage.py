"""Results on disk: a ``.safetensors`` file or a parquet table, whose header carries the rest as JSON. Never pickle.

A file is written beside its final name and moved there in one step, so no reader ever sees half a file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tl_knowledge.errors import DataError

__all__ = ["SCHEMA_VERSION", "read_result", "read_table", "remove_partial_files", "write_result", "write_table", "write_text"]

SCHEMA_VERSION = 1
Table: TypeAlias = Any  # pyarrow has no types
PARTIAL = ".partial"


def write_result(path: str | os.PathLike[str], kind: str, tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> Path:
    """Write tensors and JSON-able fields to ``path`` in one step.

    Args:
        path: the file; ``.safetensors`` is appended when it has no suffix.
        kind: the result's class name, checked on reading.
    """
    target = Path(path)
    target = target if target.suffix else target.with_suffix(".safetensors")
    header = {"tl_knowledge": _header(kind, fields)}
    with _moved_into_place(target) as partial:
        save_file(_of_their_own(tensors), partial, metadata=header)
    return target


def _of_their_own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, copied where two share memory (a result that is compared with itself), which safetensors refuses."""
    seen: set[int] = set()
    separate: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        separate[name] = plain.clone() if address in seen else plain
        seen.add(address)
    return separate


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file in one step, making its folder."""
    target = Path(path)
    with _moved_into_place(target) as partial:
        partial.write_text(text, encoding="utf-8")
    return target


def read_result(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what ``write_result`` wrote.

    Raises:
        DataError: no such file, not written by this package, another kind of result, or a newer schema.
    """
    source = Path(path)
    source = source if source.suffix else source.with_suffix(".safetensors")
    try:
        with safe_open(source, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise DataError(f"cannot read {str(source)!r} as a saved {kind}: {error}; pass a file written by {kind}.save().") from error
    return tensors, _fields(metadata.get("tl_knowledge"), source, kind)


def write_table(path: str | os.PathLike[str], kind: str, table: Table, fields: dict[str, Any]) -> Path:
    """Write a table and JSON-able fields to one parquet file, in one step; ``.parquet`` is appended when it has no suffix."""
    target = Path(path)
    target = target if target.suffix else target.with_suffix(".parquet")
    with _moved_into_place(target) as partial:
        pq.write_table(table.replace_schema_metadata({"tl_knowledge": _header(kind, fields)}), partial, compression="zstd")
    return target


def read_table(path: str | os.PathLike[str], kind: str) -> tuple[Table, dict[str, Any]]:
    """Read what ``write_table`` wrote.

    Raises:
        DataError: as `read_result`.
    """
    source = Path(path)
    source = source if source.suffix else source.with_suffix(".parquet")
    try:
        table: Table = pq.ParquetFile(source).read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {str(source)!r} as a saved {kind}: {error}; pass a file written by {kind}.save().") from error
    metadata: dict[bytes, bytes] = table.schema.metadata or {}
    written = metadata.get(b"tl_knowledge")
    return table, _fields(None if written is None else written.decode(), source, kind)


def remove_partial_files(directory: Path) -> None:
    """Remove what a killed process left half-written in a folder."""
    for left in directory.glob(f"*{PARTIAL}"):
        left.unlink()


def _header(kind: str, fields: dict[str, Any]) -> str:
    return json.dumps({"schema": SCHEMA_VERSION, "kind": kind, "fields": fields})


def _fields(written: str | None, source: Path, kind: str) -> dict[str, Any]:
    """The fields of a file's header, refusing other kinds and newer schemas."""
    if written is None:
        raise DataError(f"{str(source)!r} was not written by tl_knowledge; pass a file written by {kind}.save().")
    header: dict[str, Any] = json.loads(written)
    if header["kind"] != kind:
        raise DataError(f"{str(source)!r} holds a {header['kind']}, not a {kind}; load it with {header['kind']}.load().")
    if header["schema"] > SCHEMA_VERSION:
        raise DataError(f"{str(source)!r} has schema {header['schema']}, newer than {SCHEMA_VERSION}; upgrade tl-knowledge.")
    return header["fields"]


@contextmanager
def _moved_into_place(target: Path) -> Generator[Path]:
    """Hand out a temporary path in the target's folder; on success move it to the target, on failure remove it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=PARTIAL)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
