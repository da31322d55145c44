"""What is ablated in one run: heads, neurons and modules, checked against the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from more_itertools import flatten

from tl_knowledge.arrays import Hooks, as_pairs
from tl_knowledge.errors import ComponentError, check_choice
from tl_knowledge.hooks import Ablation, Activations, ablate
from tl_knowledge.models.checks import check_has, check_layers
from tl_knowledge.models.hook_names import Component, Written
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.runs.windows import unit_count

__all__ = ["Heads", "Modules", "Neurons", "Part", "Unit", "parts_of"]

Unit: TypeAlias = tuple[int, int]
Heads: TypeAlias = Literal["all"] | Unit | Iterable[Unit] | None
Neurons: TypeAlias = Unit | Iterable[Unit] | None
Modules: TypeAlias = Written | tuple[int, Written] | Iterable[Written] | Iterable[tuple[int, Written]] | None

WORDS: dict[str, str] = {"head": "head {0}.{1}", "neuron": "neuron {0}.{1}", "mlp_out": "MLP {0}", "attn_out": "attention {0}"}


@dataclass(frozen=True)
class Part:
    """What one run is without.

    Attributes:
        heads, neurons: pairs of layer and number.
        modules: pairs of layer and module.
    """

    heads: tuple[Unit, ...] = ()
    neurons: tuple[Unit, ...] = ()
    modules: tuple[tuple[int, Written], ...] = ()

    @property
    def born_at(self) -> int:
        """The last layer at whose output the run still is the clean run; ``-1`` for the input of block 0."""
        return min(layer for layer, _ in (*self.heads, *self.neurons, *self.modules)) - 1

    @property
    def columns(self) -> dict[str, object]:
        """The part in a table: its name, and what and where it is if it is one thing."""
        if len(self) > 1:
            return {"part": self.name, "component": "together", "layer": -1, "unit": -1}
        for component, units in (("head", self.heads), ("neuron", self.neurons)):
            for layer, unit in units:
                return {"part": self.name, "component": component, "layer": layer, "unit": unit}
        layer, module = self.modules[0]
        return {"part": self.name, "component": module, "layer": layer, "unit": -1}

    @property
    def name(self) -> str:
        """In words."""
        if len(self) == 1:
            units = [WORDS["head"].format(*unit) for unit in self.heads] + [WORDS["neuron"].format(*unit) for unit in self.neurons]
            return (units or [WORDS[module].format(layer) for layer, module in self.modules])[0]
        mlps = sum(module == "mlp_out" for _, module in self.modules)
        counts = {"head": len(self.heads), "neuron": len(self.neurons), "MLP": mlps, "attention layer": len(self.modules) - mlps}
        return ", ".join(f"{count} {word}{'s' * (count > 1)}" for word, count in counts.items() if count)

    def __len__(self) -> int:
        return len(self.heads) + len(self.neurons) + len(self.modules)

    def hooks(self, by: Ablation, recorded: Activations | None, positions: Sequence[int] | None) -> Hooks:
        """As `ablate` has it."""
        return ablate(heads=self.heads, neurons=self.neurons, modules=self.modules, by=by, recorded=recorded, positions=positions)

    def hook_names(self) -> list[str]:
        """Where it is written."""
        return [name for name, _ in self.hooks("zero", None, None)]


def parts_of(model: HookedModel, heads: Heads, neurons: Neurons, modules: Modules, *, together: bool) -> list[Part]:
    """Each head, neuron and module by itself, or all of them as one.

    Raises:
        ComponentError: nothing given, or what the model does not have.
    """
    of_heads = _all_heads(model) if isinstance(heads, str) else as_pairs(heads)
    if isinstance(heads, str):
        check_choice("heads", heads, ("all",), ComponentError)
    of_neurons, of_modules = as_pairs(neurons), _module_pairs(model, modules)
    parts = [
        *(Part(heads=(unit,)) for unit in _checked(model, "head", of_heads)),
        *(Part(neurons=(unit,)) for unit in _checked(model, "neuron", of_neurons)),
        *(Part(modules=(pair,)) for pair in dict.fromkeys(of_modules)),
    ]
    if not parts:
        raise ComponentError("nothing was given to ablate; pass heads='all', or heads=, neurons= or modules= as pairs such as (3, 0).")
    if not together or len(parts) == 1:
        return parts
    return [Part(*(tuple(flatten(getattr(part, kind) for part in parts)) for kind in ("heads", "neurons", "modules")))]


def _all_heads(model: HookedModel) -> list[Unit]:
    return [(layer, head) for layer in range(layer_count(model)) for head in range(unit_count(model, "head"))]


def _checked(model: HookedModel, component: Component, units: Sequence[Unit]) -> list[Unit]:
    """The pairs, each once, refusing those the model does not have."""
    if units:
        check_has(model, component)
        check_layers(model, [layer for layer, _ in units])
        count = unit_count(model, component)
        outside = [unit for _, unit in units if not 0 <= unit < count]
        if outside:
            raise ComponentError(f"{component} {outside[0]} is outside the model's {count} a layer; pass pairs of layer and number, such as (3, 0).")
    return list(dict.fromkeys(units))


def _module_pairs(model: HookedModel, modules: Modules) -> list[tuple[int, Written]]:
    """Pairs of layer and module; a word alone is that module of every layer."""
    listed: list[object] = [modules] if isinstance(modules, str) else list(as_pairs(modules))  # pyright: ignore[reportArgumentType]
    pairs: list[tuple[int, Written]] = []
    for each in listed:
        words: Iterable[tuple[int, str]] = [(layer, each) for layer in range(layer_count(model))] if isinstance(each, str) else [each]  # pyright: ignore
        for layer, module in words:
            check_choice("modules", module, get_args(Written), ComponentError)
            check_has(model, module)
            pairs.append((check_layers(model, [layer])[0], module))  # pyright: ignore[reportArgumentType]
    return pairs
