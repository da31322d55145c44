"""A relation's map at several layers from one pass over its facts, and the strength and rank that suit those facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float

from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.errors import DataError
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.relations.first_order import first_order
from tl_knowledge.relations.inverse import LowRankInverse
from tl_knowledge.relations.settings import BETAS, RANKS
from tl_knowledge.relations.states import SubjectStates, decode, example_prompts, read_states, top_tokens
from tl_knowledge.relations.suffix import Shift, Suffix

__all__ = ["MapFit", "fit_maps"]


@dataclass(frozen=True, eq=False)
class MapFit:
    """Maps of one relation, one a layer, before they are scaled: ``W`` and ``b`` are means over the facts of ``J_i`` and ``o_i - J_i s_i``.

    Attributes:
        mapped: ``J_i s_j``: each fact's Jacobian on each fact's subject, by which a map is tried on a fact that it does not hold.
        offsets: ``o_i - J_i s_i``.
    """

    model: HookedModel
    prompts: tuple[Prompt, ...]
    states: SubjectStates
    layers: tuple[int, ...]
    weight: Float[torch.Tensor, "layer d_model d_model"]
    bias: Float[torch.Tensor, "layer d_model"]
    mapped: Float[torch.Tensor, "layer fact fact d_model"]
    offsets: Float[torch.Tensor, "layer fact d_model"]

    def held_out(self, beta: float) -> Float[torch.Tensor, "layer fact d_model"]:
        """Each fact's object state by the map of all other facts.

        Raises:
            DataError: one fact, which leaves none to make a map of.
        """
        count = self.mapped.shape[1]
        if count < 2:
            raise DataError("one fact was given, and none is left to choose layer and beta by; pass more facts, or layer=, beta= and rank=.")
        others = (1 - torch.eye(count)).to(self.mapped) / (count - 1)
        return beta * torch.einsum("ij,lijd->ljd", others, self.mapped) + torch.einsum("ij,lid->ljd", others, self.offsets)

    def agreement(self, beta: float) -> tuple[Float[torch.Tensor, " layer"], Float[torch.Tensor, " layer"]]:
        """For how many of the facts the other facts' map says what the model says, and the mean log-probability that it gives that."""
        says = self.states.says
        log_probability = decode(self.model, self.held_out(beta))
        hits = (log_probability.argmax(-1) == says).double().mean(1)
        chosen = log_probability.gather(-1, says.expand(len(self.layers), -1)[..., None])[..., 0]
        return hits.cpu(), chosen.double().mean(1).cpu()

    def strengths(self, betas: Sequence[float] = BETAS) -> tuple[list[float], list[float]]:
        """Each layer's best beta, and how often the map then agrees with the model on facts that it does not hold.

        Among betas that agree equally often, the one that gives the model's answers the largest mean log-probability.
        """
        tried = [self.agreement(beta) for beta in betas]
        best = [max(range(len(betas)), key=lambda k: (float(tried[k][0][i]), float(tried[k][1][i]))) for i in range(len(self.layers))]
        return [betas[k] for k in best], [float(tried[k][0][i]) for i, k in enumerate(best)]

    def best_layer(self, betas: Sequence[float]) -> int:
        """The index of the layer whose map agrees most often with the model on facts that it does not hold, as in `strengths`."""
        scores = [tuple(float(part[i]) for part in self.agreement(beta)) for i, beta in enumerate(betas)]
        return max(range(len(self.layers)), key=lambda i: scores[i])

    @cached_property
    def inverses(self) -> tuple[LowRankInverse, ...]:
        """Each layer's map, to be inverted at any rank."""
        return tuple(map(LowRankInverse.of, self.weight))

    def ranks(self, memory_budget: float, ranks: Sequence[int] = RANKS) -> list[int]:
        """For each layer, the rank whose inverse most often makes the model say another fact's object of a fact's subject.

        The facts are those that the map holds. Of ranks that do so equally often, the smallest; 1 where the map is zero or no two answers differ.
        """
        hits = {(k, rank): 0 for k, inverse in enumerate(self.inverses) for rank in ranks if rank <= inverse.most}
        for i, prompt in enumerate(self.prompts):
            j = self._other(i)
            if j is None or not hits:
                continue
            change = (self.states.object[j] - self.states.object[i]).to(self.weight)
            shifts = [Shift(self.layers[k], self.inverses[k].pull_back(change, rank)) for k, rank in hits]
            final = Suffix.of(self.model, prompt).final_states(shifts, memory_budget)
            says = (top_tokens(self.model, final) == self.states.says[j]).tolist()
            hits = {key: count + int(hit) for (key, count), hit in zip(hits.items(), says, strict=True)}
        tried = [[rank for rank in ranks if (k, rank) in hits] for k in range(len(self.layers))]
        return [max(some, key=lambda rank: (hits[k, rank], -rank)) if some else 1 for k, some in enumerate(tried)]

    def only(self, k: int) -> MapFit:
        """The map of one layer alone."""
        states = replace(self.states, subject=self.states.subject[:, k : k + 1])
        of_layer = {name: getattr(self, name)[k : k + 1] for name in ("layers", "weight", "bias", "mapped", "offsets")}
        return replace(self, states=states, **of_layer)

    def _other(self, i: int) -> int | None:
        """The next fact, cyclically, of which the model says something else."""
        says, count = self.states.says.tolist(), len(self.prompts)
        return next((j for step in range(1, count) if says[j := (i + step) % count] != says[i]), None)


def fit_maps(model: HookedModel, facts: Sequence[Fact], layers: Sequence[int], separator: str, memory_budget: float) -> MapFit:
    """One map a layer from a relation's facts, each asked after all the others."""
    prompts = example_prompts(model, facts, separator)
    states = read_states(model, prompts, layers)
    weight: torch.Tensor | None = None
    mapped: list[torch.Tensor] = []
    offsets: list[torch.Tensor] = []
    for prompt in progress_bar(prompts, what="relation map", unit="fact", progress=progress_shown(), leave=False):
        local = first_order(model, prompt, layers, memory_budget)
        wide = torch.promote_types(local.jacobians.dtype, torch.float32)
        jacobians = local.jacobians.to(wide)
        weight = jacobians if weight is None else weight + jacobians
        mapped.append(torch.einsum("lod,jld->ljo", jacobians, states.subject.to(wide)))
        offsets.append(local.object.to(wide) - torch.einsum("lod,ld->lo", jacobians, local.subject.to(wide)))
    assert weight is not None  # facts are checked
    stacked = torch.stack(offsets, dim=1)
    return MapFit(model, tuple(prompts), states, tuple(layers), weight / len(prompts), stacked.mean(1), torch.stack(mapped, dim=1), stacked)
