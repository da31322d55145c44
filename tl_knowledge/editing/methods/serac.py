"""SERAC: a memory of edits, a scope classifier, and a counterfactual model that answers in scope (Mitchell et al. 2022b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.editing.reread import RereadEdit
from tl_knowledge.editing.scope import similarities
from tl_knowledge.editing.serac_network import SeracNetwork, network_of
from tl_knowledge.editing.serac_training import ScopeData, edit_context, own_tokens, serac_outcome
from tl_knowledge.editing.training.method import TrainedMethod
from tl_knowledge.editing.training.outcome import Outcome, Sample
from tl_knowledge.editing.training.samples import TrainingData
from tl_knowledge.editing.training.settings import TrainingSettings
from tl_knowledge.errors import InputError, ModelStateError
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.reread import Read
from tl_knowledge.models.routed import routed_on
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.digest import digest
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.runs.key_moments import KeyMoments
from tl_knowledge.runs.training_state import Trainable
from tl_knowledge.wording import counted

__all__ = ["SERAC", "SeracEdit"]

SERAC_TRAINING = TrainingSettings(steps=200_000, learning_rate=1e-5, batch_size=10, validate_every=1_000, patience=40_000)
FACTLM_TRAINING = TrainingSettings(
    steps=600, learning_rate=1e-3, batch_size=16, accumulate=1, validate_every=50, validation_samples=60, patience=200, text_tokens=16
)


@dataclass(frozen=True, eq=False)
class SeracEdit(RereadEdit):
    """A memory of edits: a prompt in the scope of one of them is answered by the counterfactual model, which reads that edit before it.

    Several on a model are one memory: the most similar edit of all is taken. A file of it holds the trained modules, too.

    Attributes:
        vectors: of the edits' prompts, by the scope's encoder.
        contexts: the edits' tokens, as the counterfactual model reads them.
        least: a prompt is in scope where its similarity to an edit is greater.
        most_edits: how many the memory may hold.
        scope, counterfactual: what the modules are made of.
        content: their digest.
        weights: theirs.
    """

    ranked_by: ClassVar[str] = "tokens"
    vectors: Float[torch.Tensor, "fact size"]
    contexts: tuple[tuple[int, ...], ...]
    least: float
    most_edits: int
    scope: str
    counterfactual: str
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
        own = own_tokens(model, tokens)
        nothing = Read(model, tokens[:0])
        if not len(own):
            return nothing
        network = self._network(model)
        with torch.no_grad():
            alike = similarities(self.vectors.to(own.device), network.scope([own]))[0]
        best = int(alike.argmax())
        if not float(alike[best]) > self.least:
            return nothing
        return Read(network.counterfactual, tokens.new_tensor(self.contexts[best]), strength=float(alike[best]))

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
                f"the memory is full: it holds {counted(there, 'edit')}, and {len(self.contexts)} more would exceed "
                f"most_edits={self.most_edits}; revert some, "
                "or plan with SERAC(most_edits=...) of more."
            )
        self.check(model)
        self._network(model)  # a copy of a model that has no edit on it yet
        super().write_into(model)

    def _network(self, model: HookedModel) -> SeracNetwork:
        return network_of(model, self.scope, self.counterfactual, self.content, self.weights)

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
class SERAC(TrainedMethod):
    """Settings of SERAC, and once trained what it has learnt (Mitchell et al. 2022b, section 3 and equation 6).

    No weight changes. ``sim = exp(-||e_i - e_q||^2)`` to the most similar edit decides whether the counterfactual model answers: in scope it reads
    the edit and the prompt; out of scope the answer is the model's own, bit for bit. The encoder reads the edit's prompt without its target.
    Mitchell et al.'s mixture of both models' probabilities is not here.

    The loss is ``edit_weight * NLL(target | edit, question) + kl_factor * (BCE(sim(edit, question), 1) + BCE(sim(edit, other), 0))``; the question
    is the edit's prompt or a paraphrase, the other one a neighbour, another case's prompt (half of them of the same relation) or, one in twenty,
    a text of the corpus. The defaults are the paper's constants, for modules that are trained already; small encoders from scratch want a larger
    ``learning_rate``.

    Attributes:
        scope: the scope's encoder: ``"tokens"``, a small one on the model's own token embeddings, or a text encoder of Hugging Face's
            (in the paper distilbert-base-cased).
        counterfactual: the model that answers in scope: ``"copy"`` of the edited one, or a smaller one of its family by name.
        separator: between the edit and the prompt.
        least: a prompt is in scope where its similarity to an edit is greater.
        most_edits: how many the memory may hold.
        training, editor: as `TrainedMethod`.

    Raises:
        InputError: a similarity outside 0 to 1, or no memory.

    Example:
        >>> import tl_knowledge as tlk
        >>> from tl_knowledge.editing import SERAC, load_training_data
        >>> model, data = tlk.load_model("factlm"), load_training_data("factlm")
        >>> serac = SERAC.small().train(model, data.cases[:9], data.corpus[:9], validation=data.validation[:2], progress=False)
        >>> tlk.plan_edit(model, tlk.load_edit_cases()[0].rewrite, serac)
        <SeracEdit: SERAC, a memory of 1 edit, in scope above 0.5; factlm>
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"factlm": {"training": FACTLM_TRAINING}}
    untrained: ClassVar[tuple[str, ...]] = ("least", "most_edits")
    data: ClassVar[type[TrainingData]] = ScopeData

    training: TrainingSettings = field(default_factory=lambda: SERAC_TRAINING, kw_only=True)
    scope: str = "tokens"
    counterfactual: str = "copy"
    separator: str = ".\n"
    least: float = 0.5
    most_edits: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.least < 1 or self.most_edits < 1:
            raise InputError(f"SERAC(least={self.least}, most_edits={self.most_edits}) is no memory; pass a similarity below 1, and 1 edit or more.")

    @override
    def network(self, model: HookedModel) -> SeracNetwork:
        return SeracNetwork(model, self.scope, self.counterfactual, self.training.seed).wants_gradients(True)

    @override
    def _outcome(self, model: HookedModel, network: Trainable, samples: Sequence[Sample], learn: bool) -> Outcome:
        assert isinstance(network, SeracNetwork)
        with torch.set_grad_enabled(learn):
            return serac_outcome(model, network.scope, network.counterfactual, samples, self.separator, self.least)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> SeracEdit:
        """A memory of some facts; moments are not needed.

        Raises:
            InputError: nothing was learnt yet, or more facts than the memory holds.
            ModelStateError: it was trained for other weights.
        """
        trained = self.trained
        trained.check(model)
        if len(facts) > self.most_edits:
            raise InputError(
                f"{counted(len(facts), 'fact')} are more than the memory of most_edits={self.most_edits} holds; pass fewer, or a larger one."
            )
        network = network_of(model, self.scope, self.counterfactual, self.editor, trained.networks)
        prompts = [Prompt.from_fact(model, fact) for fact in facts]
        with torch.no_grad():
            vectors = network.scope([own_tokens(model, prompt.tokens[0]) for prompt in prompts])
        return SeracEdit(
            vectors,
            tuple(tuple(edit_context(model, prompt, self.separator).tolist()) for prompt in prompts),
            self.least,
            self.most_edits,
            self.scope,
            self.counterfactual,
            self.editor,
            trained.networks,
            type(self).__name__,
            plain(self),
            unedited_fingerprint(model),
            tuple({"subject": fact.subject, "prompt": fact.text, "target": fact.target} for fact in facts),
            provenance_of(model, engine="counterfactual model", seed=self.training.seed, settings=self, method=type(self).__name__),
        )
