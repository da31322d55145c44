"""Results on disk: a ``.safetensors`` file or a parquet table, whose header carries the rest as JSON. Never pickle.

A file is written beside its final name and moved there in one step, so no reader ever sees half a file. Its header has a checksum of everything
in it, which is compared on reading: a file that lost a bit is refused, and never gives other values.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tl_knowledge.errors import DataError
from tl_knowledge.results.placing import moved_into_place, with_ending

__all__ = [
    "SCHEMA_VERSION",
    "read_result",
    "read_table",
    "result_kind",
    "write_result",
    "write_table",
    "write_text",
]

SCHEMA_VERSION = 2  # 1 had no checksum
Table: TypeAlias = Any  # pyarrow has no types


def write_result(path: str | os.PathLike[str], kind: str, tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> Path:
    """Write tensors and JSON-able fields to ``path`` in one step.

    Args:
        path: the file; ``.safetensors`` is appended when it has no suffix.
        kind: the result's class name, checked on reading.
    """
    target = with_ending(path, ".safetensors")
    own = _of_their_own(tensors)
    header = {"tl_knowledge": _header(kind, fields, _tensor_bytes(own))}
    with moved_into_place(target) as partial:
        save_file(own, partial, metadata=header)
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
    """Write a text file in one step, making its folder.

    Raises:
        DataError: it cannot be written, or the text has half of a surrogate pair, which UTF-8 has no bytes for.
    """
    target = Path(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"{text[error.start]!r} at character {error.start}"
        raise DataError(f"cannot write {str(target)!r}: the text has {found}, half of a character; take it out.") from error
    with moved_into_place(target) as partial:
        partial.write_text(text, encoding="utf-8")
    return target


def read_result(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what ``write_result`` wrote.

    Raises:
        DataError: no such file, a folder, not written by this package, another kind of result, or a newer schema.
    """
    source = _one_file(with_ending(path, ".safetensors"), kind)
    try:
        with safe_open(source, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise DataError(f"cannot read {str(source)!r} as a saved {kind}: {error}; pass a file written by {kind}.save().") from error
    return tensors, _fields(metadata.get("tl_knowledge"), source, kind, _tensor_bytes(tensors))


def result_kind(path: str | os.PathLike[str]) -> str:
    """The class name that a ``.safetensors`` file of a result says it is of; nothing else of it is read.

    Raises:
        DataError: no such file, a folder, or not written by this package.
    """
    source = _one_file(with_ending(path, ".safetensors"), "result")
    try:
        with safe_open(source, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return str(json.loads(metadata["tl_knowledge"])["kind"])
    except Exception as error:
        raise DataError(f"cannot read {str(source)!r} as a saved result: {error}; pass a file written by save().") from error


def write_table(path: str | os.PathLike[str], kind: str, table: Table, fields: dict[str, Any]) -> Path:
    """Write a table and JSON-able fields to one parquet file, in one step; ``.parquet`` is appended when it has no suffix."""
    target = with_ending(path, ".parquet")
    header = _header(kind, fields, _table_bytes(_as_read(table)))
    with moved_into_place(target) as partial:
        pq.write_table(table.replace_schema_metadata({"tl_knowledge": header}), partial, compression="zstd")
    return target


def read_table(path: str | os.PathLike[str], kind: str) -> tuple[Table, dict[str, Any]]:
    """Read what ``write_table`` wrote.

    Raises:
        DataError: as `read_result`.
    """
    source = _one_file(with_ending(path, ".parquet"), kind)
    try:
        table: Table = pq.ParquetFile(source).read()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"cannot read {str(source)!r} as a saved {kind}: {error}; pass a file written by {kind}.save().") from error
    metadata: dict[bytes, bytes] = table.schema.metadata or {}
    written = metadata.get(b"tl_knowledge")
    return table, _fields(None if written is None else written.decode(errors="replace"), source, kind, _table_bytes(table))


def _one_file(source: Path, kind: str) -> Path:
    """The path of what is read; opening a folder would say something else on every system."""
    if source.is_dir():
        raise DataError(f"{str(source)!r} is a folder, and a saved {kind} is one file; pass that file's path.")
    return source


def _header(kind: str, fields: dict[str, Any], content: Iterable[bytes]) -> str:
    written = {"schema": SCHEMA_VERSION, "kind": kind, "fields": fields}
    return json.dumps(written | {"sha256": _checksum(written, content)})


def _checksum(header: dict[str, Any], content: Iterable[bytes]) -> str:
    digest = hashlib.sha256(json.dumps(header).encode())
    for part in content:
        digest.update(part)
    return digest.hexdigest()


def _tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes]:
    for name, tensor in sorted(tensors.items()):
        yield json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()
        yield tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _table_bytes(table: Table) -> Iterator[bytes]:
    sink = pa.BufferOutputStream()
    whole = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, whole.schema) as stream:
        stream.write_table(whole)
    yield sink.getvalue().to_pybytes()


def _as_read(table: Table) -> Table:
    """A table as it comes back from a file: in parquet some types and buffers become others."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return pq.ParquetFile(pa.BufferReader(buffer.getvalue())).read()


def _fields(written: str | None, source: Path, kind: str, content: Iterable[bytes]) -> dict[str, Any]:
    """The fields of a file's header, refusing other kinds, newer schemas and what is not as it was written."""
    if written is None:
        raise DataError(f"{str(source)!r} was not written by tl_knowledge; pass a file written by {kind}.save().")
    damaged = f"{str(source)!r} is damaged: it is not what was written; compute it again, or restore it from a copy."
    try:
        header: dict[str, Any] = json.loads(written)
        checksum = header.pop("sha256", None)
        if header["schema"] > 1 and (checksum is None or checksum != _checksum(header, content)):
            raise DataError(damaged)
        _ = header["kind"], header["fields"].items()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(damaged) from error
    if header["kind"] != kind:
        raise DataError(f"{str(source)!r} holds a {header['kind']}, not a {kind}; load it with {header['kind']}.load().")
    if header["schema"] > SCHEMA_VERSION:
        raise DataError(f"{str(source)!r} has schema {header['schema']}, newer than {SCHEMA_VERSION}; upgrade tl-knowledge.")
    return header["fields"]
