"""SERAC: a memory of edits, a scope classifier, and a counterfactual model that answers in scope (Mitchell et al. 2022b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.reread import RereadEdit
from tl_knowledge.editing.scope import similarities
from tl_knowledge.editing.serac_training import edit_context, own_tokens
from tl_knowledge.editing.serac_weights import SeracSettings, TrainedSerac, modules_of
from tl_knowledge.errors import InputError, ModelStateError
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.reread import Read, own_start
from tl_knowledge.models.routed import routed_on
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.digest import digest
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["SERAC", "SeracEdit"]


@dataclass(frozen=True, eq=False)
class SeracEdit(RereadEdit):
    """A memory of edits: a prompt in the scope of one of them is answered by the counterfactual model, which reads that edit before it.

    Several on a model are one memory: the most similar edit of all is taken. A file of it holds the trained modules, too.

    Attributes:
        vectors: of the edits' prompts, by the scope's encoder.
        contexts: the edits' tokens, as the counterfactual model reads them.
        least: a prompt is in scope where its similarity to an edit is greater.
        most_edits: how many the memory may hold.
        training: how the modules were trained.
        content: their digest.
        weights: theirs.
    """

    ranked_by: ClassVar[str] = "tokens"
    vectors: Float[torch.Tensor, "fact size"]
    contexts: tuple[tuple[int, ...], ...]
    least: float
    most_edits: int
    training: SeracSettings
    content: str
    weights: dict[str, torch.Tensor]
    method: str
    settings: dict[str, Any]
    fingerprint: str
    notes: tuple[dict[str, Any], ...]
    provenance: Provenance
    _key: object = field(default_factory=object, init=False, repr=False)

    @override
    def reads(self, model: HookedModel, tokens: Int[torch.Tensor, " pos"]) -> Read:
        """The counterfactual model behind the most similar edit, or the model itself out of scope."""
        own = tokens[own_start(model, tokens) :]
        nothing = Read(model, tokens[:0])
        if not len(own):
            return nothing
        encoder, other = modules_of(model, self.training, self.content, self.weights)
        with torch.no_grad():
            alike = similarities(self.vectors.to(own.device), encoder([own]))[0]
        best = int(alike.argmax())
        if not float(alike[best]) > self.least:
            return nothing
        return Read(other, tokens.new_tensor(self.contexts[best]), strength=float(alike[best]))

    @override
    def write_into(self, model: HookedModel) -> None:
        """Put the memory before the model, until `revert`.

        Raises:
            ModelStateError: as `applied`, or a memory that is full.
            UnsupportedModelError: a model that reads in both directions.
        """
        there = sum(len(edit.contexts) for edit in routed_on(model) if isinstance(edit, SeracEdit))
        if there + len(self.contexts) > self.most_edits:
            raise ModelStateError(
                f"the memory is full: {there} edits are in it, and {len(self.contexts)} more would exceed most_edits={self.most_edits}; revert some, "
                "or plan with SERAC(most_edits=...) of more."
            )
        self.check(model)
        modules_of(model, self.training, self.content, self.weights)
        super().write_into(model)

    @override
    def digest(self) -> str:
        return digest([self.content, [list(context) for context in self.contexts], self.least])

    @override
    def headline(self) -> str:
        count = len(self.contexts)
        return f"{self.method}, a memory of {count} edit{'s' * (count != 1)}, in scope above {self.least:g}; {self.provenance.model}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row an edit: ``prompt target tokens``."""
        rows = [{**note, "tokens": len(context)} for note, context in zip(self.notes, self.contexts, strict=True)]
        return pd.DataFrame(rows, columns=["subject", "prompt", "target", "tokens"])

    def plot(self) -> go.Figure:
        """Bars: how long each edit is before a prompt."""
        frame = self.to_dataframe()
        return bar_chart(
            frame["prompt"].tolist(),
            frame["tokens"].astype(float).tolist(),
            title="What is in the memory",
            subtitle=self.headline(),
            value_axis="tokens",
        )


@public
@dataclass(frozen=True)
class SERAC(EditMethod):
    """Settings of SERAC: ``exp(-||e_i - e_q||^2)`` to the most similar edit decides whether the counterfactual model answers (Mitchell et al. 2022b).

    No weight changes. In scope the counterfactual model reads the edit and the prompt; out of scope the answer is the model's own, bit for bit.
    The encoder reads the edit's prompt without its target. Mitchell et al.'s mixture of both models' probabilities is not here.

    Attributes:
        trained: what `train_serac` gave, on other cases than the edited ones.
        least: a prompt is in scope where its similarity to an edit is greater.
        most_edits: how many the memory may hold.

    Raises:
        InputError: a similarity outside 0 to 1, or no memory.

    Example:
        >>> import tl_knowledge as tlk
        >>> cases, settings = tlk.load_edit_cases(), tlk.editing.SeracSettings(steps=1, check_every=1, accumulate=1, batch_size=2)
        >>> trained = tlk.editing.train_serac("factlm", cases[10:14], settings, progress=False)
        >>> tlk.plan_edit("factlm", cases[0].rewrite, tlk.editing.SERAC(trained))
        <SeracEdit: SERAC, a memory of 1 edit, in scope above 0.5; factlm>
    """

    trained: TrainedSerac
    least: float = 0.5
    most_edits: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1 or self.most_edits < 1:
            raise InputError(f"SERAC(least={self.least}, most_edits={self.most_edits}) is no memory; pass a similarity below 1, and 1 edit or more.")

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> SeracEdit:
        """A memory of some facts; moments are not needed.

        Raises:
            InputError: a fact that SERAC was trained on, or more than the memory holds.
            ModelStateError: a model that it was not trained for.
        """
        trained = self.trained
        trained.check(model)
        if len(facts) > self.most_edits:
            raise InputError(f"{len(facts)} facts are more than the memory of most_edits={self.most_edits} holds; pass fewer, or a larger one.")
        for fact in facts:
            trained.check_apart(fact)
        encoder, _ = modules_of(model, trained.settings, trained.content, trained.weights)
        with torch.no_grad():
            vectors = encoder([own_tokens(model, Prompt.from_fact(model, fact)) for fact in facts])
        return SeracEdit(
            vectors,
            tuple(tuple(edit_context(model, fact, trained.settings.separator).tolist()) for fact in facts),
            self.least,
            self.most_edits,
            trained.settings,
            trained.content,
            trained.weights,
            type(self).__name__,
            plain(self),
            unedited_fingerprint(model),
            tuple({"subject": fact.subject, "prompt": fact.text, "target": fact.target} for fact in facts),
            provenance_of(model, engine="counterfactual model", seed=trained.settings.seed, settings=self, method=type(self).__name__),
        )
