"""Interchanges as rows: a base's run with a part of a source's state in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from more_itertools import unique_everseen

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.batches import check_finite, equal_groups
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.recording import capture, record
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.errors import DataError, UnsupportedModelError
from tl_knowledge.hooks import SubspaceComponent, patch_subspace
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel, model_name
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.subspaces.pairs import Pair

__all__ = ["Basis", "Outcome", "Site", "Trials", "as_prompts", "outcome", "reaches", "read_trials", "state_of"]

ROWS_AT_ONCE = 64

Basis = Float[torch.Tensor, "d dims"]


@dataclass(frozen=True)
class Site:
    """Where states are exchanged.

    Attributes:
        component: whose.
        layer: of which block.
        at: at the last token of which span, of the base as of the source.
    """

    component: SubspaceComponent
    layer: int
    at: str

    def __str__(self) -> str:
        return f"{self.component} of layer {self.layer} at {self.at!r}"

    @property
    def hook(self) -> str:
        """The hook that shows it."""
        return component_hook(self.component, self.layer)


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of prompts, and their states at a site.

    Attributes:
        pairs: base and source.
        site: where the states are from.
        own: the bases' states.
        states: the sources' states.
        logits: what the sources say, where a metric compares with it.
        left_out: how many pairs were not taken, by reason.
    """

    pairs: tuple[tuple[Prompt, Prompt], ...]
    site: Site
    own: Float[torch.Tensor, "pair d"]
    states: Float[torch.Tensor, "pair d"]
    logits: Float[torch.Tensor, "pair d_vocab"] | None
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def answers(self) -> Int[torch.Tensor, "pair 2"]:
        """The source's answer and the base's, by their first tokens."""
        return torch.tensor([[source.target_token, base.target_token] for base, source in self.pairs], device=self.states.device)

    def groups(self, most: int, order: Sequence[int] | None = None) -> list[list[int]]:
        """Pairs that can run together, so many at most, in some order."""
        numbers = range(len(self)) if order is None else order
        shapes = [_shape(self.pairs[i][0], self.site.at) for i in numbers]
        return [[numbers[i] for i in group] for group in equal_groups(shapes, most)]

    def run(self, model: HookedModel, group: Sequence[int], hooks: Hooks) -> Float[torch.Tensor, "row d_vocab"]:
        """Logits where some bases are answered, under some hooks; gradients go through."""
        return _logits(model, [self.pairs[i][0] for i in group], hooks)

    def interchange(self, basis: Basis | None, group: Sequence[int]) -> Hooks:
        """Hooks that put the sources' part in the bases of a group; all of their states where there is no basis."""
        site, at = self.site, self.pairs[group[0]][0].span(self.site.at).last
        return patch_subspace(basis, self.states[list(group)], component=site.component, layer=site.layer, positions=at)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the model says in some runs.

    Attributes:
        says: the most probable token.
        said: whether it is the source's answer.
        difference: the logit of the source's answer less that of the base's.
    """

    says: Int[torch.Tensor, " pair"]
    said: Bool[torch.Tensor, " pair"]
    difference: Float[torch.Tensor, " pair"]


def outcome(model: HookedModel, trials: Trials, basis: Basis | None, *, put: bool = True) -> Outcome:
    """What every base says with its source's part in it.

    Args:
        basis: the subspace; ``None`` is the whole space.
        put: whether anything is put there at all.

    Raises:
        NumericalError: logits that are not finite.
    """
    says, difference = torch.zeros(len(trials), dtype=torch.long), torch.zeros(len(trials), dtype=torch.float64)
    answers = trials.answers
    for group in trials.groups(ROWS_AT_ONCE):
        with torch.no_grad():
            logits = trials.run(model, group, trials.interchange(basis, group) if put else [])
        check_finite(logits)
        says[group] = logits.argmax(-1).cpu()
        both = logits.gather(-1, answers[group]).double().cpu()
        difference[group] = both[:, 0] - both[:, 1]
    return Outcome(says, says == answers[:, 0].cpu(), difference)


def reaches(model: HookedModel, trials: Trials) -> bool:
    """Whether anything that is put at the site can change an answer: random states do, or nothing does. (Other prompts' states may be alike.)"""
    noise = torch.randn(trials.states.shape, generator=torch.Generator().manual_seed(0)).to(trials.states)
    drawn = replace(trials, states=trials.states + (1 + trials.states.abs()) * noise)
    return not torch.equal(outcome(model, drawn, None).difference, outcome(model, trials, None, put=False).difference)


def as_prompts(model: HookedModel, pairs: Sequence[Pair]) -> list[tuple[Prompt, Prompt]]:
    """Facts as prompts; what is a prompt stays.

    Raises:
        PromptError: a prompt that does not fit the model.
        TargetError: a prompt without a target.
    """
    made: dict[Fact, Prompt] = {}

    def prompt_of(side: Fact | Prompt) -> Prompt:
        prompt = side if isinstance(side, Prompt) else made.get(side) or made.setdefault(side, Prompt.from_fact(model, side))
        check_fits(model, prompt)
        assert prompt.target_token >= 0
        return prompt

    return [(prompt_of(base), prompt_of(source)) for base, source in pairs]


def read_trials(model: HookedModel, pairs: Sequence[tuple[Prompt, Prompt]], site: Site, *, known_only: bool, keep_logits: bool = False) -> Trials:
    """Run every base and every source once, and take the pairs that can say something.

    Args:
        known_only: leave out pairs of which the model does not say both answers.
        keep_logits: keep what the sources say as a whole.

    Raises:
        DataError: no pair is left.
        PromptError: a prompt without such a span.
        NumericalError: states or logits that are not finite.
    """
    prompts = list(unique_everseen(prompt for pair in pairs for prompt in pair))
    number = {prompt: i for i, prompt in enumerate(prompts)}
    states, says, logits = _read(model, prompts, site, keep_logits)
    kept, left_out = list[tuple[Prompt, Prompt]](), {"one answer": 0, "not known": 0}
    for base, source in pairs:
        if base.target_token == source.target_token:
            left_out["one answer"] += 1
        elif known_only and any(says[number[prompt]] != prompt.target_token for prompt in (base, source)):
            left_out["not known"] += 1
        else:
            kept.append((base, source))
    if not kept:
        reasons = f"{left_out['not known']} whose answers the model does not say, {left_out['one answer']} whose answers begin with the same token"
        raise DataError(f"none of {len(pairs)} pairs can be used: {reasons}; pass other pairs, or known_only=False.")
    first, second = ([number[pair[side]] for pair in kept] for side in (0, 1))
    return Trials(tuple(kept), site, states[first], states[second], None if logits is None else logits[second], left_out)


def _read(
    model: HookedModel, prompts: Sequence[Prompt], site: Site, keep_logits: bool
) -> tuple[Float[torch.Tensor, "prompt d"], list[int], Float[torch.Tensor, "prompt d_vocab"] | None]:
    """Every prompt's state at the site, the token it says, and its logits."""
    states, says, kept = dict[int, torch.Tensor](), [0] * len(prompts), dict[int, torch.Tensor]()
    for group in equal_groups([_shape(prompt, site.at) for prompt in prompts], ROWS_AT_ONCE):
        caught: list[torch.Tensor] = []
        with torch.no_grad():
            logits = _logits(model, [prompts[i] for i in group], capture(site.hook, caught))
        at = prompts[group[0]].span(site.at).last
        check_finite(logits)
        if not caught or caught[0].ndim != 3:
            raise UnsupportedModelError(
                f"{site.hook} of {model_name(model)} shows no [batch pos d], so nothing can be put there; pass another component."
            )
        for row, i in enumerate(group):
            states[i], says[i] = caught[0][row, at], int(logits[row].argmax())
            if keep_logits:
                kept[i] = logits[row]
    every = range(len(prompts))
    return torch.stack([states[i] for i in every]), says, torch.stack([kept[i] for i in every]) if keep_logits else None


def state_of(model: HookedModel, prompt: Prompt, site: Site) -> Float[torch.Tensor, " d"]:
    """One prompt's state at a site.

    Raises:
        PromptError: a prompt that does not fit the model, or has no such span.
    """
    check_fits(model, prompt)
    at = prompt.span(site.at).last
    return record(model, prompt.tokens, [], {site.hook})[site.hook][0, at]


def _shape(prompt: Prompt, at: str) -> tuple[int, int, int]:
    return len(prompt), prompt.last.last, prompt.span(at).last


def _logits(model: HookedModel, prompts: Sequence[Prompt], hooks: Hooks) -> Float[torch.Tensor, "row d_vocab"]:
    """Logits where prompts of one shape are answered."""
    tokens = torch.cat([prompt.tokens for prompt in prompts])
    kept = torch.full((len(tokens), 1), prompts[0].last.last, device=tokens.device)
    return run_model(model, tokens, [*hooks, *keep_positions(kept)])[:, 0]
