"""A relation as a vector: what the heads that carry it write at the last token, on average (function vectors, Todd et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from more_itertools import always_iterable

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.drawing import HeatMap, heat_maps
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.progress import progress_bar, show_progress
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import ComponentError, check_given
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.relations.adding import add_vector
from tl_knowledge.relations.heads import MeanHeads, head_effects, mean_heads
from tl_knowledge.relations.owner import check_own
from tl_knowledge.relations.states import example_prompts, of_one_relation
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import Result
from tl_knowledge.runs.windows import unit_count
from tl_knowledge.wording import counted, relation_words

__all__ = ["HEADS", "RelationVector", "check_head_count", "estimate_relation_vector", "random_heads", "vector_layer"]

HEADS = 10
"""Of how many heads Todd et al. (2024, section 2.3) make a vector of GPT-J's 448; larger models have more."""


@dataclass(frozen=True, eq=False)
class RelationVector(Result):
    """What some heads write together at the last token of a relation's facts.

    Attributes:
        vector: their sum.
        heads: layer and head, the largest effect first.
        effects: by how much each head's average raises the answer's probability where the relation is not asked for, mean over facts.
        writes: what every head writes on average.
        layer: the block after which the vector is meant to be added.
        facts: what it was estimated from, in one template.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "effect"
    vector: Float[torch.Tensor, " d_model"]
    heads: tuple[tuple[int, int], ...]
    effects: Float[torch.Tensor, "layer head"]
    writes: Float[torch.Tensor, "layer head d_model"]
    layer: int
    facts: tuple[Fact, ...]
    provenance: Provenance

    def headline(self) -> str:
        """The relation, heads, facts and model."""
        about = relation_words(self.facts[0].relation or self.facts[0].template)
        return (
            f"{about!r} from {counted(len(self.heads), 'head')}, added after block {self.layer}; "
            f"{counted(len(self.facts), 'fact')}; {self.provenance.model}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a head: ``layer head effect``, whether it is ``chosen``, and the ``norm`` of what it writes."""
        places = [(layer, head) for layer in range(self.effects.shape[0]) for head in range(self.effects.shape[1])]
        columns = {"effect": self.effects.flatten().tolist(), "chosen": [place in self.heads for place in places]}
        frame = pd.DataFrame(places, columns=["layer", "head"])  # pyright: ignore[reportArgumentType]
        return frame.assign(**columns, norm=self.writes.norm(dim=-1).flatten().tolist())

    def plot(self) -> go.Figure:
        """Effects of all heads."""
        layers, heads = ([str(number) for number in range(size)] for size in self.effects.shape)
        chart = HeatMap(self.effects.numpy(), layers, heads, "", "layer", "head", frozenset(layer for layer, _ in self.heads), colours="attention")
        return heat_maps(
            [chart],
            title="Heads whose average makes the answer",
            subtitle=f"{self.headline()}; *: layers of the vector's heads",
            colour_axis="change of P(answer)",
        )

    @public
    def check(self, model: AnyModel) -> HookedModel:
        """Refuse a model that the vector is not of; the model. Edits that are written since do not matter.

        Raises:
            InputError: a model of another width or depth.
            ModelStateError: other weights.
        """
        return check_own(as_model(model), self.provenance, "vector", (len(self.vector), len(self.effects)))

    @public
    def hooks(self, *, positions: int | Iterable[int] | None = None) -> Hooks:
        """Hooks that add the vector, at the last position unless others are given; `check` says whether a model is the one that it is of."""
        return add_vector(self.vector, layer=self.layer, positions=-1 if positions is None else positions)


@public
def estimate_relation_vector(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    *,
    templates: str | Sequence[str],
    k: int = HEADS,
    layer: int | None = None,
    separator: str = ".\n",
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> RelationVector:
    """A relation as the sum of what a few heads write on average (Todd et al. 2024, equations 2 to 5).

    Heads are averaged over the facts, each asked after all the others. A head's effect is how much its average, put at the last token of another
    prompt about the same subject, raises the probability of the fact's object.

    That other prompt does not ask for the relation, where the publication has examples with shuffled objects: a template that states the relation
    tells it whatever the examples are.

    Args:
        facts: of one relation, each subject once.
        templates: the other prompts, with ``{}`` for the subject; facts take them in turn. ``"{}"`` is the subject alone.
        k: of how many heads the vector is made.
        layer: after which block the vector is meant to be added; ``None`` is a third of the depth, as published.
        separator: between the statements.
        memory_budget: bytes that the runs' activations may take.
        progress: show a progress bar of work that takes more than two seconds.

    Raises:
        DataError, InputError, PromptError: facts as in `estimate_relation`, or no template.
        ComponentError: a layer that the model does not have, or a number of heads below 1 or above the model's.
        UnsupportedModelError: attention's output is not the sum of what its heads write.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> facts = tlk.datasets.of_relation(tlk.load_facts(), "P1303")[:4]
        >>> vector = tlk.relations.estimate_relation_vector(model, facts, templates="{}", k=3, progress=False)
        >>> len(vector.heads), vector.layer
        (3, 2)
    """
    model = as_model(model)
    given = of_one_relation(list(always_iterable(facts, Fact)))
    others = check_given(always_iterable(templates), "template", "pass one that does not ask for the relation, such as '{}'")
    at = vector_layer(model) if layer is None else check_layers(model, [layer])[0]
    check_head_count(model, k)
    with show_progress(progress):
        mean = mean_heads(model, example_prompts(model, given, separator))
        carriers = [Prompt.from_fact(model, fact.rephrase(others[i % len(others)])) for i, fact in enumerate(given)]
        tried = progress_bar(carriers, what="heads", unit="fact", progress=progress, leave=False)
        effects = torch.stack([head_effects(model, carrier, mean.z, carrier.target_token, memory_budget) for carrier in tried]).mean(0)
    heads = best_heads(effects, k)
    provenance = provenance_of(model, engine=prefix_engine(model), templates=list(others), separator=separator, heads=k)
    return RelationVector(mean.vector(heads).cpu(), heads, effects.cpu(), mean.writes.cpu(), at, given, provenance)


def check_head_count(model: HookedModel, k: int) -> None:
    """Refuse a number of heads that the model does not have.

    Raises:
        ComponentError: k below 1, or more than there are.
    """
    most = layer_count(model) * unit_count(model, "head")
    if not 1 <= k <= most:
        raise ComponentError(f"k={k} heads do not fit a model of {most}; pass 1 to {most} ({HEADS} is published for GPT-J's 448).")


def best_heads(effects: Float[torch.Tensor, "layer head"], k: int) -> tuple[tuple[int, int], ...]:
    """Layer and head of the k largest effects."""
    order = effects.flatten().sort(descending=True, stable=True).indices[:k].tolist()
    return tuple((place // effects.shape[1], place % effects.shape[1]) for place in order)


def vector_layer(model: HookedModel) -> int:
    """A third of the depth, where Todd et al. (2024) add vectors."""
    return layer_count(model) // 3


def random_heads(mean: MeanHeads, k: int, generator: torch.Generator) -> Float[torch.Tensor, " d_model"]:
    """The vector of as many heads, drawn."""
    width = mean.writes.shape[1]
    drawn = torch.randperm(mean.writes.shape[0] * width, generator=generator)[:k].tolist()
    return mean.vector((place // width, place % width) for place in drawn)
