"""An edit is a value: low-rank factors for some layers' ``W_out``, as hooks, inside a ``with``, or written into the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from itertools import islice
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from typing_extensions import override

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, bar_chart, line_panels
from tl_knowledge.editing.health import EditHealth, LayerHealth, clamped_subjects
from tl_knowledge.editing.planned import PlannedEdit
from tl_knowledge.engine.batches import perplexity
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.errors import ComponentError, NumericalError
from tl_knowledge.hooks import add_low_rank
from tl_knowledge.lock import model_lock
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.ledger import ledger_of, unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel, context_length
from tl_knowledge.models.weights import OutputBias, add_to_hugging_face, output_bias, output_hook, output_weights
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import Provenance, provenance_of

__all__ = ["Edit", "LowRank"]

FACTS_DRAWN = 12


@public
@dataclass(frozen=True, eq=False)
class LowRank:
    """``dW = left @ right``: one layer's change of ``W_out [d_mlp d_model]``."""

    left: Float[torch.Tensor, "d_mlp rank"]
    right: Float[torch.Tensor, "rank d_model"]

    @property
    def dense(self) -> Float[torch.Tensor, "d_mlp d_model"]:
        """The change itself."""
        return self.left @ self.right

    @property
    def rank(self) -> int:
        """Columns of the factors; the change's rank is at most this."""
        return self.left.shape[1]


@dataclass(frozen=True, eq=False)
class Edit(PlannedEdit):
    """Changes of ``W_out`` in some layers, and of its bias where a method trains it.

    Attributes:
        factors: by layer.
        outputs: by layer, the hook of ``W_out``'s own output.
        method: the method's name.
        settings: the method's settings, as plain data.
        fingerprint: of the weights it was planned for.
        notes: what the method recorded of each fact, plain data: losses, stop reason, norms.
        provenance: the model, the versions.
        keys: by layer, the facts' keys it was planned for, where the method has them; later edits can spare them (`AlphaEdit`).
        biases: by layer, what is added to the bias of ``W_out``; of some of the same layers.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0], progress=False)
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> edit = tlk.plan_edit(model, fact, tlk.ROME(layer=0), moments=moments)
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
    _key: object = field(default_factory=object, init=False, repr=False)

    def __post_init__(self) -> None:
        for layer, factors in self.factors.items():
            parts = [factors.left, factors.right, *([self.biases[layer]] if layer in self.biases else [])]
            if not all(bool(part.isfinite().all()) for part in parts):
                raise NumericalError(
                    f"the {self.method} edit of layer {layer} is not finite; check the weights and moments for NaN, or lower the learning rate."
                )

    @classmethod
    def planned(
        cls,
        model: HookedModel,
        method: object,
        factors: Mapping[int, LowRank],
        *,
        notes: Iterable[Mapping[str, Any]] = (),
        keys: Mapping[int, torch.Tensor] | None = None,
        biases: Mapping[int, torch.Tensor] | None = None,
        **more: Any,
    ) -> Edit:
        """The edit that a method has planned for a model: what every ``plan`` returns.

        Args:
            method: the method's settings, a dataclass.
            factors: the changes, by layer.
            notes: for each fact what is worth knowing of it, plain data.
            keys: by layer, the keys that the changes were planned for.
            biases: by layer, changes of the bias of ``W_out``.
            more: what the provenance should have besides the settings, plain data.
        """
        name, seed = type(method).__name__, int(getattr(method, "seed", 0))
        settings = method if is_dataclass(method) else None
        return cls(
            dict(factors),
            {layer: output_hook(model, layer) for layer in factors},
            name,
            {} if settings is None else plain(settings),
            unedited_fingerprint(model),
            tuple(dict(note) for note in notes),
            provenance_of(model, engine=prefix_engine(model), seed=seed, settings=settings, method=name, **more),
            dict(keys or {}),
            dict(biases or {}),
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it changes, ascending."""
        return tuple(sorted(self.factors))

    def hooks(self) -> Hooks:
        """The edit as plain hooks, for anybody's ``run_with_hooks`` or ``with model.hooks(...)``; the weights stay as they are."""
        low_rank = [
            pair for layer in self.layers for pair in add_low_rank(layer, self.factors[layer].left, self.factors[layer].right, self.outputs[layer])
        ]
        return low_rank + [(self.outputs[layer], _add(bias)) for layer, bias in sorted(self.biases.items())]

    @override
    def write_into(self, model: HookedModel) -> None:
        """Write the edit into the weights; several stack, and any of them can be reverted.

        Raises:
            ComponentError, ModelStateError, NumericalError: as `applied`.
        """
        check_layers(model, self.layers)
        for layer in self.layers:
            shape, own = tuple(output_weights(model, layer).shape), self.factors[layer]
            if shape != (own.left.shape[0], own.right.shape[1]):
                raise ComponentError(
                    f"the edit was planned for {self.provenance.model!r} with a W_out of {own.left.shape[0]} x {own.right.shape[1]}; "
                    f"layer {layer} of this model has {shape[0]} x {shape[1]}."
                )
            bias = output_bias(model, layer)
            if layer in self.biases and (bias is None or bias.shape != self.biases[layer].shape):
                raise ComponentError(
                    f"the edit changes the bias of W_out, which layer {layer} of this model does not have in that shape; "
                    f"it was planned for {self.provenance.model!r}."
                )
        with model_lock(model):
            self.check(model)
            changes = {layer: self.factors[layer].dense for layer in self.layers} | {OutputBias(layer): bias for layer, bias in self.biases.items()}
            ledger_of(model).add(model, self._key, changes, self.keys)

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
            UnsupportedModelError: a model without these layers (or biases) or of another shape.
        """
        add_to_hugging_face(module, {layer: self.factors[layer].dense for layer in self.layers}, self.biases)

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
        layers: list[LayerHealth] = []
        for layer in self.layers:
            change = self.factors[layer].dense.double()
            relative = float(change.norm()) / float(output_weights(model, layer).detach().double().norm())
            layers.append(LayerHealth(layer, int(torch.linalg.matrix_rank(change)), relative))
        prompts = [Prompt.from_text(model, text) for text in islice(corpus, limit)]
        prompts = [prompt for prompt in prompts if 1 < len(prompt) <= context_length(model)]
        before, after = (perplexity(model, prompts, hooks) if prompts else float("nan") for hooks in ([], self.hooks()))
        return EditHealth(tuple(layers), clamped_subjects(self.notes), before, after)

    def headline(self) -> str:
        """The method, the layers, how many facts, and the model."""
        layers = f"layer{'s' * (len(self.layers) != 1)} {', '.join(map(str, self.layers))}"
        facts = self.facts_written
        return f"{self.method}, W_out of {layers}, {facts} fact{'s' * (facts != 1)}; {self.provenance.model}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer: rank of the factors and the change's Frobenius norm."""
        rows = [{"layer": layer, "rank": self.factors[layer].rank, "norm": float(self.factors[layer].dense.norm())} for layer in self.layers]
        return pd.DataFrame(rows)

    def plot(self) -> go.Figure:
        """Lines: each fact's loss at every step of the optimisation; for a method that optimises nothing, bars: the change's size by layer."""
        curves = [(str(note.get("subject", "all facts")), [float(loss) for loss in note["losses"]]) for note in self.notes if note.get("losses")]
        if not curves:
            frame = self.to_dataframe()
            labels = [f"layer {layer} (rank {rank})" for layer, rank in zip(frame["layer"], frame["rank"], strict=True)]
            return bar_chart(labels, frame["norm"].tolist(), title="How much the edit changes", subtitle=self.headline(), value_axis="||dW||")
        lines = [
            Line(subject, range(1, len(losses) + 1), losses, losses, losses, style=number)
            for number, (subject, losses) in enumerate(curves[:FACTS_DRAWN])
        ]
        shown = f"; the first {FACTS_DRAWN}" if len(curves) > FACTS_DRAWN else ""
        return line_panels(
            [LinePanel("", lines)], title="How the values were optimised", subtitle=self.headline() + shown, x_axis="step", y_axis="loss"
        )


def _add(bias: torch.Tensor) -> HookFn:
    return lambda activation, *, hook: activation + bias.to(activation)
