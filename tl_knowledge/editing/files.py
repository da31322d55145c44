"""Reading an edit's file without knowing what kind of edit it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module

from tl_knowledge.door import public
from tl_knowledge.editing.planned import PlannedEdit
from tl_knowledge.errors import DataError
from tl_knowledge.results.storage import result_kind

__all__ = ["load_edit"]

OWN = {
    "Edit": "tl_knowledge.editing.edit",
    "CodebookEdit": "tl_knowledge.editing.codebook_edit",
    "NeuronEdit": "tl_knowledge.editing.neuron_edit",
    "ContextEdit": "tl_knowledge.editing.methods.ike",
    "SeracEdit": "tl_knowledge.editing.methods.serac",
}
"""The classes of this package's methods, and where they are."""


@public
def load_edit(path: str | os.PathLike[str]) -> PlannedEdit:
    """Read what any edit's ``save`` wrote, by the class that the file names; a class of your own has to be imported before.

    Raises:
        DataError: not such a file, or another result's.

    Example:
        >>> import tempfile, tl_knowledge as tlk
        >>> edit = tlk.plan_edit("factlm", tlk.Fact("France", "The capital of {} is", " London"), tlk.editing.GRACE(layer=4, steps=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_edit(edit.save(f"{folder}/edit"))
        <CodebookEdit: GRACE, 1 key at W_in of layer 4, 2.5 KiB; factlm>
    """
    kind = result_kind(path)
    if kind in OWN:
        return getattr(import_module(OWN[kind]), kind).load(path)
    known = {each.__name__: each for each in _subclasses(PlannedEdit)}
    if kind not in known:
        raise DataError(f"{os.fspath(path)!r} holds a {kind}, which is no edit that is known here; import its class first, or pass an edit's file.")
    return known[kind].load(path)


def _subclasses(kind: type[PlannedEdit]) -> Iterator[type[PlannedEdit]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)
