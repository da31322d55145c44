"""A relation as an affine map from the subject's state to the object's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from more_itertools import always_iterable

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.relations.adding import add_vector
from tl_knowledge.relations.inverse import LowRankInverse
from tl_knowledge.relations.owner import check_own
from tl_knowledge.relations.settings import RelationMapSettings
from tl_knowledge.relations.states import ask, decode, read_states
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result
from tl_knowledge.wording import counted, relation_words

__all__ = ["RelationMap"]


@dataclass(frozen=True, eq=False)
class RelationMap(Result):
    """``o ~ beta W s + b`` (Hernandez et al. 2024, equation 4).

    ``s`` is what leaves block ``settings.layer`` at the subject's last token, ``o`` what leaves the last block where the answer is predicted.

    Attributes:
        weight: ``W``, the mean over the facts of the Jacobian ``d o / d s``.
        bias: ``b``, the mean of ``o - W s``.
        facts: what it was estimated from, in the map's template; they stand as examples before every subject that it is asked about.
        settings: layer, beta, rank and separator.
        held_out: of the facts it was estimated from, how often the map of all the others says what the model says; NaN for a single fact.
        n_layers: how many blocks the model has.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "singular_value"
    weight: Float[torch.Tensor, "d_model d_model"]
    bias: Float[torch.Tensor, " d_model"]
    facts: tuple[Fact, ...]
    settings: RelationMapSettings
    held_out: float
    n_layers: int
    provenance: Provenance

    def headline(self) -> str:
        """The relation, layer, strength, facts and model."""
        about = self.settings
        return (
            f"{self._about()!r} after block {about.layer}, beta {about.beta:g}, rank {about.rank}; "
            f"{counted(len(self.facts), 'fact')}; {self.provenance.model}"
        )

    def _about(self) -> str:
        return relation_words(self.facts[0].relation or self.facts[0].template)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a direction of ``W``, strongest first: its singular value, and the share of all squares in it and those before."""
        squares = self._inverse.values.double().square().cpu()
        share = (squares.cumsum(0) / squares.sum()).tolist()
        values = self._inverse.values.double().tolist()
        return pd.DataFrame({"direction": range(1, len(values) + 1), "singular_value": values, "share": share})

    def plot(self) -> go.Figure:
        """Singular values of ``W``, those inside the rank of the inverse filled."""
        frame = self.to_dataframe()
        values, places = frame["singular_value"].tolist(), frame["direction"].tolist()
        line = Line("singular value", places, values, values, values, filled=frozenset(range(1, self.settings.rank + 1)))
        return line_panels(
            [LinePanel("", [line])],
            title=f"Directions of {self._about()!r} as a map",
            subtitle=f"{self.headline()}; filled: inverted in an edit",
            x_axis="direction",
            y_axis="singular value of W",
            log_x=True,
        )

    @public
    def prompt(self, model: AnyModel, fact: Fact) -> Prompt:
        """A fact of any subject as the map is asked about it: in its template, after its facts.

        Raises:
            PromptError, SubjectNotFoundError: as `Prompt.from_fact`.
        """
        return ask(as_model(model), fact.rephrase(self.facts[0].template), self.facts, self.settings.separator)

    @public
    def predict(self, model: AnyModel, facts: Fact | Iterable[Fact]) -> pd.DataFrame:
        """What the model and the map say of some subjects.

        Returns:
            One row a fact: ``subject``, ``target``, ``model`` and ``map`` (their most probable tokens), ``probability`` of the model's token
            by the map, and ``faithful``: whether the two are the same token.

        Raises:
            InputError, ModelStateError: the map is of another model, or of other weights.
        """
        model = self.check(model)
        given = check_given(always_iterable(facts, Fact), "fact")
        states = read_states(model, [self.prompt(model, fact) for fact in given], [self.settings.layer])
        log_probability = decode(model, self._objects(states.subject[:, 0]).to(states.object))
        says, mapped = states.says, log_probability.argmax(-1)
        words = [[str(model.tokenizer.decode([token])) for token in tokens.tolist()] for tokens in (says, mapped)]
        probability = log_probability.gather(-1, says[:, None])[:, 0].exp().tolist()
        columns = {"subject": [fact.subject for fact in given], "target": [fact.target for fact in given], "model": words[0], "map": words[1]}
        return pd.DataFrame(columns | {"probability": probability, "faithful": (says == mapped).tolist()})

    @public
    def edit_hooks(self, model: AnyModel, fact: Fact, other: Fact) -> Hooks:
        """Hooks that change the subject's state so that, by the map, its object is another fact's (Hernandez et al. 2024, equation 5).

        ``s + W^+ (o' - o)`` with the inverse of ``settings.rank``; ``o`` and ``o'`` are the model's own. Run them on ``prompt(model, fact)``.

        Raises:
            ComponentError: a rank that the map does not have.
            InputError, ModelStateError: the map is of another model, or of other weights.

        Example:
            >>> import tl_knowledge as tlk
            >>> model = tlk.load_model("factlm")
            >>> facts = tlk.datasets.of_relation(tlk.load_facts(), "P1303")
            >>> relation = tlk.relations.estimate_relation(model, facts[:8], layer=4, beta=4.5, rank=16, progress=False)
            >>> hooks = relation.edit_hooks(model, facts[9], facts[11])
            >>> logits = model.run_with_hooks(relation.prompt(model, facts[9]).tokens, fwd_hooks=hooks)
        """
        model = self.check(model)
        prompts = [self.prompt(model, each) for each in (fact, other)]
        states = read_states(model, prompts, [self.settings.layer])
        change = self._inverse.pull_back((states.object[1] - states.object[0]).to(self.weight), self.settings.rank)
        return add_vector(change, layer=self.settings.layer, positions=prompts[0].subject.last)

    @property
    def source_layers(self) -> range:
        """Every layer but the last, the embeddings (``-1``) first: of all of them `transport` takes states."""
        return range(-1, self.n_layers - 1)

    def transport(self, residual: Float[torch.Tensor, "*row d_model"], layer: int) -> Float[torch.Tensor, "*row d_model"]:
        """The object's state by the map of any state, whichever layer and token it is from: the attribute lens (Hernandez et al. 2024, section 5)."""
        return self._objects(residual).to(residual)

    def _objects(self, states: Float[torch.Tensor, "*row d_model"]) -> Float[torch.Tensor, "*row d_model"]:
        """The object's state by the map, for some states of subjects."""
        return self.settings.beta * states.to(self.weight) @ self.weight.mT + self.bias

    @cached_property
    def _inverse(self) -> LowRankInverse:
        return LowRankInverse.of(self.weight)

    @public
    def check(self, model: AnyModel) -> HookedModel:
        """Refuse a model that the map is not of; the model. Edits that are written since do not matter.

        Raises:
            InputError: a model of another width or depth.
            ModelStateError: other weights.
        """
        return check_own(as_model(model), self.provenance, "map", (len(self.bias), self.n_layers))
