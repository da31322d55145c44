"""GRACE: a fact as a key and a value at one linear map, used where an input is near the key (Hartvigsen et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.codebook import Codebook
from tl_knowledge.editing.codebook_edit import CodebookEdit, check_room, codebook_of, edits_at
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.codebook_values import read_map, train_value
from tl_knowledge.editing.optimise.fact_rows import rows_of
from tl_knowledge.editing.planned import planned_fields
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.mlp_maps import Matrix, MLPMap, mlp_map
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.routed import routed_on
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["GRACE", "ValueStart"]

_FACTLM = {"layer": 6, "matrix": "W_in", "radius": 6.0, "stop_below": 0.02}

ValueStart: TypeAlias = Literal["cold", "warm"]
"""Where a value's training starts: at numbers drawn from 0 to 1, or at what the map makes of the key."""


@public
@dataclass(frozen=True)
class GRACE(EditMethod):
    """Settings of GRACE: ``output = value of the nearest key`` where the map's input lies within that key's radius.

    The key is the map's input at the prompt's last token; the value is trained until it makes the model say the target. A new key near an old one
    follows the paper's rules (`CodebookEdit`): the same target lets the old radius grow, another halves both. On a model that has such edits
    at the map, a plan goes on from their codebook.

    Where ours is another than the published program's: there the value replaces the output at the prompt's last position only (or at all of
    them), which a run is told; ours looks at every position, so that it is the same in a batch, with padding, and in ``generate``. There two
    targets count as the same when the *means* of their tokens' numbers are equal; here they must be the same text.

    Attributes:
        layer: which block's map.
        matrix: ``"W_in"`` (of a gated MLP: the gate) or ``"W_out"``.
        radius: of a key that no other is near, euclidean.
        start: where a value's training starts; of a radius that grows, always at the old value.
        steps: of Adam, at most.
        learning_rate: of Adam.
        stop_below: the loss at which to stop; 0, as published: never.
        most_keys: how many keys the codebook of the map may have; ``None``: as many as come.
        seed: of the cold start.

    Raises:
        InputError: an unknown word, or a radius or number of keys that is not positive.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> edit = tlk.plan_edit(model, fact, tlk.editing.GRACE.for_model(model), progress=False)
        >>> prompt, other = tlk.Prompt.from_fact(model, fact), tlk.Prompt.from_text(model, "Paul McCartney plays the")
        >>> before = model(other.tokens)
        >>> with edit.applied(model):
        ...     int(model(prompt.tokens)[0, -1].argmax()) == prompt.target_token, bool((model(other.tokens) == before).all())
        (True, True)
    """

    takes_traced_layer: ClassVar[bool] = False
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layer": 35, "matrix": "W_in", "steps": 200},
        "gpt-j-6b": {"layer": 25, "matrix": "W_out", "steps": 200},
        "factlm": _FACTLM,
        "factlm-llama": _FACTLM,
    }

    layer: int
    matrix: Matrix = "W_in"
    radius: float = 1.0
    start: ValueStart = "cold"
    steps: int = 100
    learning_rate: float = 1.0
    stop_below: float = 0.0
    most_keys: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("matrix", self.matrix, Matrix)
        check_choice("start", self.start, ValueStart)
        if not 0 < self.radius < float("inf"):
            raise InputError(f"radius={self.radius} reaches nothing, or everything; pass a positive number, such as 1.0.")
        if self.most_keys is not None and self.most_keys < 1:
            raise InputError(f"most_keys={self.most_keys} has no room for a key; pass at least 1, or None.")

    @classmethod
    @override
    def small(cls) -> GRACE:
        return replace(super().small(), matrix="W_out", steps=8)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> CodebookEdit:
        """One key and value a fact, one fact after the other; moments are not needed.

        Raises:
            ComponentError: no such layer.
            InputError: more keys than there may be.
            UnsupportedModelError: the model does not show the map.
            NumericalError: a loss that is not finite.
        """
        check_layers(model, [self.layer])
        place = mlp_map(model, self.matrix, self.layer)
        there = tuple(edits_at(routed_on(model), place))
        book, draw = codebook_of(there) if there else None, torch.Generator().manual_seed(self.seed)
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        notes: list[dict[str, Any]] = []
        for fact in facts:
            key, value, book, note = self._entry(model, fact, place, there, book, draw)
            keys.append(key)
            values.append(value)
            notes.append(note)
        return CodebookEdit(
            place=place,
            keys=torch.stack(keys),
            values=torch.stack(values),
            labels=tuple(fact.target for fact in facts),
            radius=self.radius,
            most_keys=self.most_keys,
            **planned_fields(model, self, notes, engine="whole forwards"),
        )

    def _entry(
        self, model: HookedModel, fact: Fact, place: MLPMap, there: Sequence[CodebookEdit], book: Codebook | None, draw: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, Codebook, dict[str, Any]]:
        """A fact's key, its value, the codebook with it, and what is worth noting."""
        rows = rows_of(model, fact, ("{}",), "subject")
        key, output = read_map(model, place, there, rows)
        book = Codebook.empty(key, output) if book is None else book
        number, distance = book.place(key, fact.target, self.radius)
        grows = number < len(book) and book.labels[number] == fact.target
        cold = torch.rand(len(output), generator=draw).to(output)  # drawn for every fact, so that none depends on those before it
        start = book.values[number] if grows else output if self.start == "warm" else cold
        after = book.with_entry(key, start, fact.target, self.radius)
        check_room(after, self.most_keys)
        trained = train_value(
            model, place, there, after, number, rows, steps=self.steps, learning_rate=self.learning_rate, stop_below=self.stop_below
        )
        what = "grown" if grows else "replaced" if number < len(book) else "new"
        note = {"losses": list(trained.losses), "stopped": trained.stopped, "target_probability": trained.probability, "key": what}
        note |= {"distance": distance, "subject": fact.subject, "target": fact.target}
        return key, trained.value, book.with_entry(key, trained.value, fact.target, self.radius), note
