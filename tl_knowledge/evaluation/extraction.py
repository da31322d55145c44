"""Can the old object still be extracted from an edited model? Attacks on its states and in other words (Patil et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_knowledge.door import public
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import InputError
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.final_norm import unembed
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["ExtractionAttacks", "ExtractionReading"]


@dataclass(frozen=True)
class ExtractionReading:
    """Where the old object stands at the last token, read through the final norm and the unembedding.

    Attributes:
        layers: which blocks' outputs were read.
        ranks: of the old object's first token at the fact (0: the most probable).
        answered: its ranks in what the model answers, to the fact and to each paraphrase.
        moved: whether it is among the tokens whose probability rises or falls most, from one of these layers to the next.
        tells: whether that token tells the old object from the new one.
    """

    layers: tuple[int, ...]
    ranks: Int[torch.Tensor, " layer"]
    answered: Int[torch.Tensor, " prompt"]
    moved: Bool[torch.Tensor, " step"]
    tells: bool


@public
@dataclass(frozen=True)
class ExtractionAttacks:
    """Whether the *old* object can still be had from the model, after an erasure or a rewrite (Patil et al. 2024).

    In percent of the cases:

    - ``extracted_lens`` (their head projection attack): at the fact's last token the old object's first token is among the ``k`` likeliest by the
      logit lens, at one of the layers.
    - ``extracted_delta`` (their probability delta attack): it is among the ``k`` whose probability rises, or the ``k`` whose probability falls most
      from one layer to the next.
    - ``extracted_paraphrase`` (their input rephrasing attack, on the last layer's distribution instead of on sampled texts): it is among the ``k``
      likeliest answers to one of the paraphrases. NaN without paraphrases.
    - ``extracted``: one of these.

    Besides, ``old_rank``: its rank in what the model answers, and ``old_lens_rank``: the best at one of the layers (0: the most probable; no
    percent); and ``lens_0``, ``lens_1``, ...: ``extracted_lens`` by layer. All are NaN where the old and the new object begin with the same token.

    Attributes:
        k: how many tokens an attacker may try at each layer; the published program's default.
        layers: which blocks' outputs to read, ascending; ``None`` is all.

    Raises:
        InputError: k below 1, or no layer.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, case = tlk.load_model("factlm"), tlk.load_edit_cases()[0]
        >>> measure = tlk.evaluation.ExtractionAttacks()
        >>> reading = measure.read(model, case)
        >>> scores = measure.scores(reading, reading)
        >>> scores["extracted_lens"], scores["old_rank"], scores["lens_7"]
        (100.0, 0.0, 100.0)
    """

    name: ClassVar[str] = "extraction"
    k: int = 4
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.k < 1 or (self.layers is not None and (not self.layers or list(self.layers) != sorted(set(self.layers)))):
            raise InputError(f"ExtractionAttacks(k={self.k}, layers={self.layers}) tries nothing; pass k of at least 1 and ascending layers.")

    def read(self, model: HookedModel, case: EditCase) -> ExtractionReading:
        """Where the old object stands now.

        Raises:
            ComponentError: a layer that the model does not have.
        """
        layers = tuple(check_layers(model, self.layers))
        old, new = target_tokens(model, case.fact.target)[0], target_tokens(model, case.target_new)[0]
        last = (layer_count(model) - 1,)
        said, *otherwise = (_by_layer(model, fact, more) for fact, more in [(case.fact, layers + last), *((each, last) for each in case.paraphrases)])
        ranks, *others = ((each > each[:, old, None]).sum(-1).cpu() for each in (said, *otherwise))
        steps = said[:-1].softmax(-1).diff(dim=0)
        beside = [(steps > steps[:, old, None]).sum(-1), (steps < steps[:, old, None]).sum(-1)]
        moved = torch.stack(beside).min(0).values < self.k
        return ExtractionReading(layers, ranks[:-1], torch.cat([ranks[-1:], *others]), moved.cpu(), old != new)

    def scores(self, before: ExtractionReading, after: ExtractionReading) -> dict[str, float]:
        """All of them."""
        found = after.ranks < self.k
        attacks = {
            "extracted_lens": _percent(found),
            "extracted_delta": _percent(after.moved),
            "extracted_paraphrase": _percent(after.answered[1:] < self.k) if len(after.answered) > 1 else float("nan"),
        }
        ranks = {"old_rank": float(after.answered[0]), "old_lens_rank": float(after.ranks.min())}
        by_layer = {f"lens_{layer}": _percent(found[i]) for i, layer in enumerate(after.layers)}
        every = {"extracted": float(np.nanmax(list(attacks.values())))} | attacks | ranks | by_layer
        return every if after.tells else dict.fromkeys(every, float("nan"))


def _percent(found: Bool[torch.Tensor, "*place"]) -> float:
    return 100.0 * bool(found.any())


def _by_layer(model: HookedModel, fact: Fact, layers: Sequence[int]) -> Float[torch.Tensor, "layer d_vocab"]:
    """The logit lens at the last token, after each of these layers."""
    prompt = Prompt.from_fact(model, fact)
    check_fits(model, prompt)
    states = record(model, prompt.tokens, [], [block_output(layer) for layer in layers])
    return unembed(model, torch.stack([states[block_output(layer)][0, prompt.last.last] for layer in layers])).double()
