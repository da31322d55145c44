"""An edit is a value: low-rank factors for some layers' ``W_out``, as hooks, inside a ``with``, or written into the weights."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.editing.health import EditHealth, LayerHealth, clamped_subjects
from tl_knowledge.engine.batches import perplexity
from tl_knowledge.errors import ComponentError, ModelStateError
from tl_knowledge.hooks import add_low_rank
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.ledger import ledger_of
from tl_knowledge.models.protocol import HookedModel, context_length
from tl_knowledge.models.weights import add_to_hugging_face, output_weights
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.storage import read_result, write_result

__all__ = ["Edit", "LowRank"]


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
class Edit:
    """Changes of ``W_out`` in some layers.

    Attributes:
        factors: by layer.
        outputs: by layer, the hook of ``W_out``'s own output.
        notes: what the method recorded of each fact, plain data: losses, stop reason, norms.
        provenance: the model, the method and its settings; ``settings["fingerprint"]`` is of the weights it was made for.
        keys: by layer, the facts' keys it was made for, where the method has them; later edits can spare them (`AlphaEdit`).

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

    factors: Mapping[int, LowRank]
    outputs: Mapping[int, str]
    notes: tuple[dict[str, Any], ...]
    provenance: Provenance
    keys: Mapping[int, Float[torch.Tensor, "fact d_mlp"]] = field(default_factory=dict)
    _key: object = field(default_factory=object, repr=False)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it changes, ascending."""
        return tuple(sorted(self.factors))

    def hooks(self) -> Hooks:
        """The edit as plain hooks, for anybody's ``run_with_hooks`` or ``with model.hooks(...)``; the weights stay as they are."""
        return [
            pair for layer in self.layers for pair in add_low_rank(layer, self.factors[layer].left, self.factors[layer].right, self.outputs[layer])
        ]

    @contextmanager
    def applied(self, model: HookedModel) -> Generator[HookedModel]:
        """Write the edit for the length of a ``with``; afterwards, and after an exception, the weights are bit for bit what they were.

        Raises:
            ComponentError: the edit is of another model's shape.
            ModelStateError: it is written already.
        """
        self.write_into(model)
        try:
            yield model
        finally:
            self.revert(model)

    def write_into(self, model: HookedModel) -> None:
        """Write the edit into the weights; several stack, and any of them can be reverted.

        Raises:
            ComponentError, ModelStateError: as `applied`.
        """
        check_layers(model, self.layers)
        for layer in self.layers:
            shape, own = tuple(output_weights(model, layer).shape), self.factors[layer]
            if shape != (own.left.shape[0], own.right.shape[1]):
                raise ComponentError(
                    f"the edit was made for {self.provenance.model!r} with a W_out of {own.left.shape[0]} x {own.right.shape[1]}; "
                    f"layer {layer} of this model has {shape[0]} x {shape[1]}."
                )
        ledger_of(model).add(model, self._key, {layer: self.factors[layer].dense for layer in self.layers}, self.keys)

    def revert(self, model: HookedModel) -> None:
        """Take the edit back out of the weights.

        Raises:
            ModelStateError: it is not written into this model, or someone else changed the weights since.
        """
        ledger_of(model).remove(model, self._key)

    def is_written_into(self, model: HookedModel) -> bool:
        """Whether the edit is in the model's weights now."""
        return self._key in ledger_of(model)

    def to_hf(self, module: torch.nn.Module) -> None:
        """Add the edit to a Hugging Face model's own weights, in all layers or in none; keep a copy to go back.

        Raises:
            UnsupportedModelError: a model without these layers or of another shape.
        """
        add_to_hugging_face(module, {layer: self.factors[layer].dense for layer in self.layers})

    def health(self, model: HookedModel, corpus: Iterable[str] = (), *, limit: int = 100) -> EditHealth:
        """How large the change is, whether the clamp was bound, and what it does to ordinary text; the model is left as it is.

        Args:
            model: the model without this edit.
            corpus: ordinary text for the perplexity; none is measured without.
            limit: how many of them, at most.

        Raises:
            ModelStateError: the edit is written into the model.
        """
        if self.is_written_into(model):
            raise ModelStateError("the edit is written into this model, so there is nothing to compare it with; revert(model) first.")
        layers: list[LayerHealth] = []
        for layer in self.layers:
            change = self.factors[layer].dense.double()
            relative = float(change.norm()) / float(output_weights(model, layer).detach().double().norm())
            layers.append(LayerHealth(layer, int(torch.linalg.matrix_rank(change)), relative))
        prompts = [Prompt.from_text(model, text) for text in islice(corpus, limit)]
        prompts = [prompt for prompt in prompts if 1 < len(prompt) <= context_length(model)]
        before, after = (perplexity(model, prompts, hooks) if prompts else float("nan") for hooks in ([], self.hooks()))
        return EditHealth(tuple(layers), clamped_subjects(self.notes), before, after)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer: rank of the factors and the change's Frobenius norm."""
        rows = [{"layer": layer, "rank": self.factors[layer].rank, "norm": float(self.factors[layer].dense.norm())} for layer in self.layers]
        return pd.DataFrame(rows)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.safetensors`` file; returns the path."""
        tensors = {f"{name}.{layer}": getattr(self.factors[layer], name) for layer in self.layers for name in ("left", "right")}
        tensors |= {f"keys.{layer}": keys for layer, keys in self.keys.items()}
        outputs = [[layer, self.outputs[layer]] for layer in self.layers]
        return write_result(path, "Edit", tensors, {"outputs": outputs, "notes": list(self.notes), "provenance": self.provenance.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Edit:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        tensors, fields = read_result(path, "Edit")
        outputs = {int(layer): str(name) for layer, name in fields["outputs"]}
        factors = {layer: LowRank(tensors[f"left.{layer}"], tensors[f"right.{layer}"]) for layer in outputs}
        keys = {layer: tensors[f"keys.{layer}"] for layer in outputs if f"keys.{layer}" in tensors}
        return cls(factors, outputs, tuple(fields["notes"]), Provenance(**fields["provenance"]), keys)
