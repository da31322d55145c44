"""Results on disk: one ``.safetensors`` file whose header carries the rest as JSON. Never pickle.

A file is written beside its final name and moved there in one step, so no reader ever sees half a file.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tl_knowledge.errors import DataError

__all__ = ["SCHEMA_VERSION", "read_result", "write_result", "write_text"]

SCHEMA_VERSION = 1


def write_result(path: str | os.PathLike[str], kind: str, tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> Path:
    """Write tensors and JSON-able fields to ``path`` in one step.

    Args:
        path: the file; ``.safetensors`` is appended when it has no suffix.
        kind: the result's class name, checked on reading.
    """
    target = Path(path)
    target = target if target.suffix else target.with_suffix(".safetensors")
    header = {"tl_knowledge": json.dumps({"schema": SCHEMA_VERSION, "kind": kind, "fields": fields})}
    with _moved_into_place(target) as partial:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial, metadata=header)
    return target


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
    if "tl_knowledge" not in metadata:
        raise DataError(f"{str(source)!r} was not written by tl_knowledge; pass a file written by {kind}.save().")
    header: dict[str, Any] = json.loads(metadata["tl_knowledge"])
    if header["kind"] != kind:
        raise DataError(f"{str(source)!r} holds a {header['kind']}, not a {kind}; load it with {header['kind']}.load().")
    if header["schema"] > SCHEMA_VERSION:
        raise DataError(f"{str(source)!r} has schema {header['schema']}, newer than {SCHEMA_VERSION}; upgrade tl-knowledge.")
    return tensors, header["fields"]


@contextmanager
def _moved_into_place(target: Path) -> Generator[Path]:
    """Hand out a temporary path in the target's folder; on success move it to the target, on failure remove it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
