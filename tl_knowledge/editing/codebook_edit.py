"""An edit that is a codebook: near its keys, a linear map's output is replaced by a value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.editing.codebook import Codebook
from tl_knowledge.editing.map_edit import MapEdit
from tl_knowledge.editing.planned import loss_lines
from tl_knowledge.editing.routes import Trail, trail_of
from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.lock import model_lock
from tl_knowledge.models.mlp_maps import MLPMap
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.routed import routed_at, routed_on
from tl_knowledge.results.provenance import Provenance

__all__ = ["CodebookEdit", "check_room", "codebook_of", "edits_at", "trail_after"]


@public
@dataclass(frozen=True, eq=False)
class CodebookEdit(MapEdit):
    """Keys and values at one linear map: wherever its input is within a key's radius, its output becomes that key's value.

    Position by position, and nothing else of the model changes: where no input comes near a key, every number is the unedited model's, bit for
    bit. Several such edits at one map are one codebook, which follows from the edits that are on the model and from their order: a key that
    comes later may halve the radius of one that was there. So they leave in any order, and what is left is what it would be without them.

    As plain `hooks` it joins the codebook of the edits that are on the model and of those whose hooks come before it.

    Attributes:
        place: the map, by its hooks.
        keys: its inputs at the facts' last tokens.
        values: what its outputs become.
        labels: what each makes the model say.
        radius: of every key, as long as no other is near (euclidean).
        most_keys: how many keys the codebook may have, with those of other edits.
        method, settings, fingerprint, notes, provenance: as every edit has them.

    Raises:
        NumericalError: a key or a value that is not finite.
    """

    ranked_by: ClassVar[str] = "radius"
    place: MLPMap
    keys: Float[torch.Tensor, "fact d_in"]
    values: Float[torch.Tensor, "fact d_out"]
    labels: tuple[str, ...]
    radius: float
    most_keys: int | None
    method: str
    settings: dict[str, Any]
    fingerprint: str
    notes: tuple[dict[str, Any], ...]
    provenance: Provenance
    _key: object = field(default_factory=object, init=False, repr=False)
    _codebook: list[tuple[tuple[CodebookEdit, ...], Codebook]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not bool(self.keys.isfinite().all() and self.values.isfinite().all()):
            raise NumericalError(
                f"a key or value of the {self.method} edit of layer {self.place.layer} is not finite; check the weights for NaN, or lower the "
                "learning rate."
            )

    @property
    def codebook(self) -> Codebook:
        """What it is on a model where no other edit is."""
        return codebook_of([self])

    @override
    def _acted(self, queries: torch.Tensor, outputs: torch.Tensor, point: object) -> torch.Tensor | None:
        on = routed_at(point)
        if self._key in on and next(edits_at((on[key] for key in reversed(on)), self.place)) is not self:
            return None  # the last one acts for all
        there = tuple(edits_at(on.values(), self.place))
        if self._key in on:
            return Trail(queries, outputs, ()).followed(there, codebook_of(there).applied)
        trail = trail_after(queries, outputs, there)
        edits = (*trail.edits, self)
        return trail.followed(edits, codebook_of(edits).applied)

    @override
    def write_into(self, model: HookedModel) -> None:
        """Keep the hooks on the model until `revert`.

        Raises:
            ComponentError, ModelStateError: as `applied`.
            InputError: the codebook would have more keys than ``most_keys``.
        """
        with model_lock(model):
            self.check_fits(model)
            before = [edit for edit in edits_at(routed_on(model), self.place) if edit is not self]
            check_room(codebook_of([*before, self]), self.most_keys)
            super().write_into(model)
            for edit in before:  # the codebook of all of them is enough to remember
                edit._codebook.clear()

    @override
    def headline(self) -> str:
        """The method, the map, how many keys, and the model."""
        keys = len(self.codebook)
        where = f"{self.place.matrix} of layer {self.place.layer}"
        return f"{self.method}, {keys} key{'s' * (keys != 1)} at {where}, {self.stored_bytes / 1024:.1f} KiB; {self.provenance.model}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """One row a key of its own codebook: what it makes the model say, its radius, and the lengths of key and value."""
        own = self.codebook
        rows = [
            {
                "key": i,
                "label": label,
                "radius": float(own.radii[i]),
                "key_norm": float(own.keys[i].norm()),
                "value_norm": float(own.values[i].norm()),
            }
            for i, label in enumerate(own.labels)
        ]
        return pd.DataFrame(rows, columns=["key", "label", "radius", "key_norm", "value_norm"])

    def plot(self) -> go.Figure:
        """Lines: each value's loss at every step; bars of the radii where no loss was recorded."""
        lines = loss_lines(self.notes, self.headline())
        if lines is not None:
            return lines
        frame = self.to_dataframe()
        labels, radii = frame["label"].tolist(), frame["radius"].tolist()
        return bar_chart(labels, radii, title="How far each key reaches", subtitle=self.headline(), value_axis="radius")


def edits_at(edits: Iterable[Any], place: MLPMap) -> Iterator[CodebookEdit]:
    """Those of some edits that are codebooks of a map."""
    return (edit for edit in edits if isinstance(edit, CodebookEdit) and edit.place == place)


def trail_after(queries: torch.Tensor, outputs: torch.Tensor, there: Sequence[CodebookEdit]) -> Trail:
    """The trail of an output that the codebook of some edits on the model has acted on.

    Raises:
        ModelStateError: something else changed the output since.
    """
    return trail_of(queries, outputs, there, codebook_of(there).applied if there else lambda _, same: same)


def codebook_of(edits: Sequence[CodebookEdit]) -> Codebook:
    """The codebook of some edits in their order; the last one remembers it."""
    given, done, book = tuple(edits), 0, Codebook.empty(edits[0].keys[0], edits[0].values[0])
    for count in range(len(given), 0, -1):
        known = given[count - 1]._codebook  # pyright: ignore[reportPrivateUsage]
        if known and len(known[0][0]) == count and all(one is other for one, other in zip(known[0][0], given, strict=False)):
            done, book = count, known[0][1]
            break
    for count in range(done, len(given)):
        edit = given[count]
        for key, value, label in zip(edit.keys.to(book.keys), edit.values.to(book.values), edit.labels, strict=True):
            book = book.with_entry(key, value, label, edit.radius)
    given[-1]._codebook[:] = [(given, book)]  # pyright: ignore[reportPrivateUsage]
    return book


def check_room(codebook: Codebook, most_keys: int | None) -> None:
    """Refuse a codebook that is too large.

    Raises:
        InputError: more keys than there may be.
    """
    if most_keys is not None and len(codebook) > most_keys:
        raise InputError(
            f"the codebook would have {len(codebook)} keys, and most_keys={most_keys}; take an edit out with revert(model), or allow more keys."
        )
