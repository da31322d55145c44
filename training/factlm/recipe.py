"""What a FactLM is trained with: its shape, its text, and what is done to place its look-up.

A small model left to itself looks its facts up in the first MLP, which no large model does.  Three settings move the look-up and let tracing see
it: ``narrow`` layers whose MLPs may keep ``units_kept`` hidden units only and so can hold no facts; the ``bottleneck``, the share of training rows
in which a subject may be read at its last token only; and ``read_from``, the layer before which it can be read as noise only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from text import CHAIN_SHARE, GRAMMAR_SHARE, LIST_SHARE

ARCHITECTURES = ("gpt2", "llama")


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides what a training makes.

    Attributes:
        hidden: hidden units of an MLP.
        kv_heads: key-value heads of grouped-query attention; of "llama" only.
        narrow: layers whose MLPs keep ``units_kept`` hidden units only.
        bottleneck: the share of training rows in which a subject may be read at its last token only.
        read_from: the first layer in which tokens outside any subject read one as it is, in those rows; before, they read it under noise.
        noise_read: that noise, in standard deviations of the embeddings.
        lists: the share of attribute lists among the sentences (``X: A, B.``), which ask for all of a subject's objects and name no relation.
        in_a_row: the share of sentences which ask several relations of one subject, naming it each time.
        invented: the number of invented subjects, whose facts do not go together.
        noise: standard deviation of what is added to every MLP output while training, in multiples of the output's own size.
        peak: the highest learning rate.
    """

    architecture: str = "gpt2"
    layers: int = 8
    width: int = 128
    heads: int = 4
    hidden: int = 512
    kv_heads: int = 2
    narrow: tuple[int, ...] = (0, 1)
    units_kept: int = 32
    bottleneck: float = 0.95
    read_from: int = 0
    noise_read: float = 3.0
    lists: float = LIST_SHARE
    in_a_row: float = 0.0
    invented: int = 0
    noise: float = 0.0
    peak: float = 2e-3
    steps: int = 3000

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture is {self.architecture!r}; it is one of {', '.join(ARCHITECTURES)}.")
        if outside := [layer for layer in self.narrow if not 0 <= layer < self.layers]:
            raise ValueError(f"narrow names layers {outside}, but the model has layers 0 to {self.layers - 1}.")
        if not 0 <= self.read_from < self.layers:
            raise ValueError(f"read_from is {self.read_from}; it is a layer, from 0 to {self.layers - 1}.")
        if self.noise_read < 0:
            raise ValueError(f"noise_read is {self.noise_read}; a standard deviation is not negative.")
        if not 0 < self.units_kept <= self.hidden:
            raise ValueError(f"units_kept is {self.units_kept}; a narrow MLP keeps 1 to {self.hidden} (hidden) of its units.")
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"width {self.width}, heads {self.heads} and kv_heads {self.kv_heads}: each must divide by the next.")
        for name in ("bottleneck", "lists", "in_a_row"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1.")
        if (taken := GRAMMAR_SHARE + CHAIN_SHARE + self.lists + self.in_a_row) > 1:
            raise ValueError(
                f"lists {self.lists} and in_a_row {self.in_a_row} with grammar and chains make {taken:.2f} of the sentences; leave room."
            )

    @classmethod
    def from_data(cls, data: dict) -> Recipe:
        """Inverse of ``dataclasses.asdict``, also after a way through JSON."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})

    def but(self, changes: list[str]) -> Recipe:
        """The recipe with ``name=value`` changes; layers are separated by commas, and ``narrow=`` means none."""
        kinds = {field.name: type(getattr(self, field.name)) for field in dataclasses.fields(self)}
        changed: dict[str, object] = {}
        for change in changes:
            name, equals, value = change.partition("=")
            if not equals or name not in kinds:
                raise ValueError(f"{change!r} is no setting; write name=value with one of {', '.join(kinds)}.")
            changed[name] = tuple(int(layer) for layer in value.split(",") if layer) if kinds[name] is tuple else kinds[name](value)
        return dataclasses.replace(self, **changed)  # pyright: ignore[reportArgumentType]


RECIPES = {
    "gpt2": Recipe(read_from=3),
    "llama": Recipe(architecture="llama", hidden=344),  # a gated MLP has three matrices, so that it is as large as a plain one with 512
    "first": Recipe(narrow=(), bottleneck=0.9, steps=3500),  # the first FactLM, whose weights are in tests/golden/first_factlm
}
