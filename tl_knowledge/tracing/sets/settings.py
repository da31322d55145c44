"""What is traced of every fact of a set, as a value; and how that is computed, which moves no number but in its last bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from tl_knowledge.engine.acting import check_sites
from tl_knowledge.errors import ComponentError, CorruptionError, check_choice
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.hook_names import Component, Module, has_units, severable
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.runs.arguments import check_words, sample_count, traced_units
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.metric import PROBABILITY, Metric
from tl_knowledge.runs.roles import SIDES, Side
from tl_knowledge.runs.windows import TraceVariant, Window

__all__ = ["ExactEngine", "Execution", "Survey"]

ExactEngine: TypeAlias = Literal["rows", "loop"]


@dataclass(frozen=True)
class Survey:
    """What is traced of every fact, and how: everything that decides the numbers but the model and the facts.

    Attributes:
        corrupt: the corrupted sides.
        components: what was restored.
        sever: modules, each severed by itself while the residual state is restored.
        window: of modules, in layers.
        layers: the layer numbers of every trace's layer axis; ``None`` is all, as long as the model is not known.
        noise: how embeddings are corrupted; its own seed is not set, because every fact has one.
        seed: of the set: each fact's noise comes from it and the fact's text (``"meng2022_code"``: from it alone).
        samples: noise draws.
        variant: which published program's numbers these are.
        multi_token: whether all of the target's tokens are scored.
        known_only: whether facts that the model does not predict are left out.
        metric: what effects are measured in.
        units: heads or neurons, of components that have them; ``None`` is all.
    """

    corrupt: tuple[Side, ...]
    components: tuple[Component, ...]
    sever: tuple[Module, ...]
    window: Window
    layers: tuple[int, ...] | None
    noise: Noise
    seed: int
    samples: int
    variant: TraceVariant
    multi_token: bool
    known_only: bool
    metric: Metric = PROBABILITY
    units: tuple[int, ...] | None = None  # files of versions that traced no units have none

    def check(self) -> None:
        """Refuse settings that no model could run.

        Raises:
            ComponentError, CorruptionError: the setting, and what to pass.
        """
        if not self.corrupt:
            raise CorruptionError("corrupt=() corrupts nothing; pass 'subject', 'relation' or both.")
        for side in self.corrupt:
            check_choice("corrupt", side, SIDES, CorruptionError)
        if not self.components:
            raise ComponentError("no component was given; pass at least one, for example 'mlp_out'.")
        for component in self.components:
            check_words(component, "rows", self.variant)
        if self.units is not None and not any(map(has_units, self.components)):
            raise ComponentError(
                f"components {self.components} have no units, but units={self.units} was given; use 'head' or 'neuron', or drop units=."
            )
        severable(self.sever)
        sample_count(self.samples, self.noise)

    def resolve(self, model: HookedModel) -> Survey:
        """The same settings with the noise's scale as a number and the layers that are traced.

        Raises:
            ComponentError, CorruptionError: a layer or unit that the model does not have, or noise that cannot be drawn.
        """
        check_sites(model, (*self.components, *self.sever))
        noise = replace(self.noise, variant=self.variant) if self.variant == "meng2022_code" else self.noise
        for component in filter(has_units, self.components):
            traced_units(model, component, self.units)
        return replace(self, noise=noise.resolve(model), layers=check_layers(model, self.layers))


@dataclass(frozen=True)
class Execution:
    """How a survey is computed: which engine, and how many bytes activations may take. Numbers agree to rounding."""

    engine: ExactEngine
    memory_budget: float

    def check(self) -> None:
        """Refuse other engines than the exact ones.

        Raises:
            ComponentError: an unknown engine.
        """
        if self.engine == "screen":  # pyright: ignore[reportUnnecessaryComparison]
            raise ComponentError("fact sets are traced exactly, not by engine 'screen'; pass engine='rows' or 'loop'.")
        check_choice("engine", self.engine, ExactEngine, ComponentError)
