"""An edit is a value: low-rank factors for some matrices, as hooks, inside a ``with``, or written into the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from typing_extensions import override

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.drawing import bar_chart
from tl_knowledge.editing.health import EditHealth, MatrixHealth, clamped_subjects, perplexities
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.planned import PlannedEdit, loss_lines, planned_fields
from tl_knowledge.errors import ComponentError, NumericalError
from tl_knowledge.hooks import add_low_rank
from tl_knowledge.lock import model_lock
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.hugging_face import add_to_hugging_face
from tl_knowledge.models.ledger import Place, ledger_of
from tl_knowledge.models.matrices import MATRICES, BlockMatrix, as_held, held_matrix, matrix_weights
from tl_knowledge.models.matrix_sites import Sites, add_at, matrix_sites
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.routed import check_not_replaced
from tl_knowledge.models.weights import OutputBias, output_bias, output_hook
from tl_knowledge.results.provenance import Provenance

__all__ = ["Edit"]


@dataclass(frozen=True, eq=False)
class Edit(PlannedEdit):
    """Changes of ``W_out`` in some layers, of its bias where a method trains it, and of other matrices of a block.

    Attributes:
        factors: of ``W_out``, by layer.
        outputs: by layer, the hook of ``W_out``'s own output.
        method: the method's name.
        settings: the method's settings, as plain data.
        fingerprint: of the weights it was planned for.
        notes: what the method recorded of each fact, plain data: losses, stop reason, norms.
        provenance: the model, the versions.
        keys: by layer, the facts' keys it was planned for, where the method has them; later edits can spare them (`AlphaEdit`).
        biases: by layer, what is added to the bias of ``W_out``; of some of the same layers.
        matrices: of other matrices, by TransformerLens' name (``"blocks.3.mlp.W_in"``); those of attention have all heads side by side.
        sites: the hooks around these, by the same names.
        records: what the method has later edits know of this one while it is written into the model, by name (`UltraEdit`).

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> method = tlk.ROME.for_model(model)
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=method.layer, progress=False)
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> edit = tlk.plan_edit(model, fact, method, moments=moments)
        >>> prompt = tlk.Prompt.from_fact(model, fact)
        >>> with edit.applied(model):
        ...     int(model(prompt.tokens)[0, -1].argmax()) == prompt.target_token
        True
    """

    ranked_by: ClassVar[str] = "norm"
    factors: dict[int, LowRank]
    outputs: dict[int, str]
    method: str
    settings: dict[str, Any]
    fingerprint: str
    notes: tuple[dict[str, Any], ...]
    provenance: Provenance
    keys: dict[int, Float[torch.Tensor, "fact d_mlp"]] = field(default_factory=dict)
    biases: dict[int, Float[torch.Tensor, " d_model"]] = field(default_factory=dict)
    matrices: dict[str, LowRank] = field(default_factory=dict)
    sites: dict[str, Sites] = field(default_factory=dict)
    records: dict[str, Float[torch.Tensor, "..."]] = field(default_factory=dict)
    _key: object = field(default_factory=object, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, change in self.changes.items():
            if not (bool(change.left.isfinite().all()) and bool(change.right.isfinite().all())):
                place = BlockMatrix.named(name)
                self._not_finite(f"{place.name} of layer {place.layer}")
        for layer, bias in self.biases.items():
            if not bool(bias.isfinite().all()):
                self._not_finite(f"the bias of W_out of layer {layer}")

    def _not_finite(self, what: str) -> NoReturn:
        raise NumericalError(f"the {self.method} edit of {what} is not finite; check the weights and moments for NaN, or lower the learning rate.")

    @classmethod
    def planned(
        cls,
        model: HookedModel,
        method: object,
        factors: Mapping[int, LowRank] | Mapping[BlockMatrix, LowRank] | Mapping[int | BlockMatrix, LowRank],
        *,
        notes: Iterable[Mapping[str, Any]] = (),
        keys: Mapping[int, torch.Tensor] | None = None,
        biases: Mapping[int, torch.Tensor] | None = None,
        records: Mapping[str, torch.Tensor] | None = None,
        **more: Any,
    ) -> Edit:
        """The edit that a method has planned for a model: what every ``plan`` returns.

        Args:
            method: the method's settings, a dataclass.
            factors: the changes: of ``W_out`` by layer, of any matrix by `BlockMatrix`.
            notes: for each fact what is worth knowing of it, plain data.
            keys: by layer, the keys that the changes were planned for.
            biases: by layer, changes of the bias of ``W_out``.
            records: what later edits should know of this one while it is written into the model, by name.
            more: what the provenance should have besides the settings, plain data.
        """
        named: list[tuple[int | BlockMatrix, LowRank]] = list(factors.items())
        of_outputs = {place if isinstance(place, int) else place.layer: change for place, change in named if _is_output(place)}
        others = {place: change for place, change in named if isinstance(place, BlockMatrix) and not _is_output(place)}
        return cls(
            of_outputs,
            {layer: output_hook(model, layer) for layer in of_outputs},
            **planned_fields(model, method, notes, **more),
            keys=dict(keys or {}),
            biases=dict(biases or {}),
            matrices={str(place): change for place, change in others.items()},
            sites={str(place): matrix_sites(model, place) for place in others},
            records=dict(records or {}),
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it changes, ascending."""
        return tuple(sorted({*self.factors, *(BlockMatrix.named(name).layer for name in self.matrices)}))

    @property
    def changes(self) -> dict[str, LowRank]:
        """The change of every matrix, by TransformerLens' name of it."""
        outputs = {str(BlockMatrix(layer, "W_out")): self.factors[layer] for layer in sorted(self.factors)}
        return outputs | {name: self.matrices[name] for name in sorted(self.matrices)}

    def hooks(self) -> Hooks:
        """The edit as plain hooks, for anybody's ``run_with_hooks`` or ``with model.hooks(...)``; the weights stay as they are."""
        pairs = [
            pair
            for layer in sorted(self.factors)
            for pair in add_low_rank(layer, self.factors[layer].left, self.factors[layer].right, self.outputs[layer])
        ]
        pairs += [pair for name, change in self.matrices.items() for pair in add_at(self.sites[name], change.left, change.right, name)]
        return pairs + [(self.outputs[layer], _add(bias, self.outputs[layer])) for layer, bias in sorted(self.biases.items())]

    @override
    def write_into(self, model: HookedModel) -> None:
        """Write the edit into the weights; several stack, and any of them can be reverted.

        Raises:
            ComponentError, ModelStateError, NumericalError: as `applied`.
        """
        check_layers(model, self.layers)
        for name, change in self.changes.items():
            shape = tuple(matrix_weights(model, BlockMatrix.named(name)).shape)
            if shape != change.shape:
                raise ComponentError(
                    f"the edit was planned for {self.provenance.model!r} with a {name} of {change.shape[0]} x {change.shape[1]}; "
                    f"this model's has {shape[0]} x {shape[1]}."
                )
        for layer, change in self.biases.items():
            bias = output_bias(model, layer)
            if bias is None or bias.shape != change.shape:
                raise ComponentError(
                    f"the edit changes the bias of W_out, which layer {layer} of this model does not have in that shape; "
                    f"it was planned for {self.provenance.model!r}."
                )
        with model_lock(model):
            self.check(model)
            ledger_of(model).add(model, self._key, self._deltas(model), self.keys, self.records)

    def _deltas(self, model: HookedModel) -> dict[Place, torch.Tensor]:
        """What is added at every place, in the shape that the model holds."""
        deltas: dict[Place, torch.Tensor] = {layer: change.dense for layer, change in self.factors.items()}
        for name, change in self.matrices.items():
            place = BlockMatrix.named(name)
            matrix_sites(model, place)  # refuses a matrix that no forward reads
            deltas[place] = as_held(change.dense, held_matrix(model, place), place)
        return deltas | {OutputBias(layer): bias for layer, bias in self.biases.items()}

    @override
    def revert(self, model: HookedModel) -> None:
        """Take the edit back out of the weights.

        Raises:
            ModelStateError: it is not written into this model, or someone else changed the weights since.
        """
        with model_lock(model):
            ledger_of(model).remove(model, self._key)

    @override
    def is_written_into(self, model: HookedModel) -> bool:
        """Whether the edit is in the model's weights now."""
        return self._key in ledger_of(model)

    def to_hf(self, module: torch.nn.Module) -> None:
        """Add the edit to a Hugging Face model's own weights, in all layers or in none; keep a copy to go back.

        Raises:
            UnsupportedModelError: a model that TransformerLens computes with, such as a bridge's ``original_model``; one without these matrices (or
                biases) or of another shape, or a change of what reads a norm that was folded into it.
        """
        folded = self.provenance.weight_processing.get("fold_ln", False)
        changes = {BlockMatrix.named(name): change.dense for name, change in self.changes.items()}
        add_to_hugging_face(module, changes, self.biases, norms_folded=folded)

    @override
    def health(self, model: HookedModel, corpus: Iterable[str] = (), *, limit: int = 100) -> EditHealth:
        """How large the change is, whether the clamp was bound, and what it does to ordinary text; the model is left as it is.

        Args:
            model: the model without this edit.
            corpus: ordinary text for the perplexity; none is measured without.
            limit: how many of them, at most.

        Raises:
            ModelStateError: the edit is written into the model, or was planned for other weights.
        """
        self.check_not_written(model)
        matrices: list[MatrixHealth] = []
        for name, low_rank in self.changes.items():
            change, place = low_rank.dense.double(), BlockMatrix.named(name)
            relative = float(change.norm()) / float(matrix_weights(model, place).detach().double().norm())
            matrices.append(MatrixHealth(place.layer, place.name, int(torch.linalg.matrix_rank(change)), relative))
        before, after = perplexities(model, self.hooks(), corpus, limit)
        return EditHealth(tuple(matrices), clamped_subjects(self.notes), before, after, self.stored_bytes)

    def headline(self) -> str:
        """The method, the matrices, how many facts, and the model."""
        layers = f"layer{'s' * (len(self.layers) != 1)} {', '.join(map(str, self.layers))}"
        names = {BlockMatrix.named(name).name for name in self.changes}
        matrices = ", ".join(name for name in MATRICES if name in names) or "nothing"
        return f"{self.method}, {matrices} of {layers}, {self.facts_written} fact{'s' * (self.facts_written != 1)}; {self.provenance.model}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row a matrix: its layer and name, rank of the factors and the change's Frobenius norm."""
        rows = [
            {"layer": place.layer, "matrix": place.name, "rank": change.rank, "norm": float(change.dense.norm())}
            for place, change in ((BlockMatrix.named(name), change) for name, change in self.changes.items())
        ]
        return pd.DataFrame(rows, columns=["layer", "matrix", "rank", "norm"])

    def plot(self) -> go.Figure:
        """Lines: each fact's loss at every step of the optimisation; for a method that optimises nothing, bars: the change's size by layer."""
        lines = loss_lines(self.notes, self.headline())
        if lines is None:
            frame = self.to_dataframe()
            labels = [
                f"{matrix} of layer {layer} (rank {rank})" for layer, matrix, rank in zip(frame["layer"], frame["matrix"], frame["rank"], strict=True)
            ]
            return bar_chart(labels, frame["norm"].tolist(), title="How much the edit changes", subtitle=self.headline(), value_axis="||dW||")
        return lines


def _is_output(place: int | BlockMatrix) -> bool:
    return isinstance(place, int) or place.name == "W_out"


def _add(bias: torch.Tensor, output: str) -> HookFn:
    def add(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        check_not_replaced(activation, output)
        return activation + bias.to(activation)

    return add
