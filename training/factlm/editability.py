"""Can FactLM be edited where it stores its facts?  Value vectors, and the rank-one rewrite that writes them.

With the model frozen, one vector is added to the MLP output at the last subject token of one layer, optimised (Adam) over
the bare prompt and six contexts to make the model say another object (ROME, section 3.1).  The rank-one rewrite
``dW = u (x) delta / (k . u)``, ``u = C^-1 k`` writes it into ``W_out``; ``C`` is the second moment of the keys on FactLM's corpus.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

import tl_knowledge as tlk
from tl_knowledge.models.hook_names import component_hook

CASES, CONTEXTS, STEPS, RATE, CLAMP, ENOUGH = 50, 6, 30, 0.3, 4.0, 0.05
CORPUS_TEXTS = 400


@dataclass(frozen=True)
class Batch:
    """Right-padded prompts with the positions that matter."""

    tokens: torch.Tensor
    subject_last: torch.Tensor
    last: torch.Tensor

    @classmethod
    def of(cls, prompts: list[tlk.Prompt]) -> Batch:
        tokens = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt.tokens[0]
        return cls(tokens, torch.tensor([p.subject.last for p in prompts]), torch.tensor([p.last.last for p in prompts]))

    def rows(self, which: torch.Tensor) -> Batch:
        """Some of the prompts."""
        return Batch(self.tokens[which], self.subject_last[which], self.last[which])

    def logits_from(self, model, layer: int, states: torch.Tensor) -> torch.Tensor:
        """Logits of the prompts that have these states after a layer; below it one row runs for all."""
        alone = replace(self, tokens=self.tokens[:1])
        return alone.logits(model, [(f"blocks.{layer}.hook_resid_post", lambda state, *, hook: states)])

    def logits(self, model, hooks=()) -> torch.Tensor:
        rows = torch.arange(len(self.last))
        # Keep only each row's last position before the unembedding.
        keep = [("unembed.hook_in", lambda x, *, hook: x[rows, self.last][:, None])]
        return model.run_with_hooks(self.tokens, fwd_hooks=[*hooks, *keep])[:, 0]

    def add(self, layer: int, delta: torch.Tensor):
        """Hooks that add one vector a row to the MLP output at the last subject token."""

        def write(output, *, hook):
            changed = output.clone()
            changed[torch.arange(len(output)), self.subject_last] += delta
            return changed

        return [(f"blocks.{layer}.hook_mlp_out", write)]


def in_contexts(model, fact: tlk.Fact, contexts: list[str]) -> list[tlk.Prompt]:
    return [tlk.Prompt.from_fact(model, fact.rephrase(f"{context} {fact.template}" if context else fact.template)) for context in contexts]


def key_moment(model, layer: int, corpus: list[str]) -> torch.Tensor:
    """E[k k^T] over the corpus."""
    total, count = 0.0, 0
    for text in corpus:
        kept: list[torch.Tensor] = []
        tokens = tlk.Prompt.from_text(model, text).tokens
        model.run_with_hooks(tokens, fwd_hooks=[(component_hook("neuron", layer), lambda x, *, hook, kept=kept: kept.append(x[0].double()))])
        total, count = total + kept[0].T @ kept[0], count + len(kept[0])
    return total / count


def optimise_values(model, layer: int, batch: Batch, targets: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One vector a case, all cases in one batch; also each case's mean key."""
    key, output, after = component_hook("neuron", layer), f"blocks.{layer}.hook_mlp_out", f"blocks.{layer}.hook_resid_post"
    kept: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        batch.logits(model, [(name, lambda x, *, hook, name=name: kept.update({name: x.detach()})) for name in (key, output, after)])
    at_subject = (torch.arange(len(batch.tokens)), batch.subject_last)
    limit = CLAMP * kept[output][at_subject].unflatten(0, (-1, group))[:, 0].norm(dim=-1, keepdim=True)
    delta, short = torch.zeros(len(limit), kept[output].shape[-1]), torch.arange(len(limit))  # the cases whose loss is not low enough
    optimiser = torch.optim.Adam([delta], lr=RATE)
    for _ in range(STEPS):
        asked = delta[short].requires_grad_()
        losses = value_losses(model, layer, batch, kept[after], short, group, asked, targets)
        left = losses >= ENOUGH
        if not bool(left.any()):
            break
        gradient = torch.autograd.grad(losses.sum(), asked)[0]
        short = short[left]
        delta.grad = torch.zeros_like(delta).index_put((short,), gradient[left])
        before = delta.clone()
        optimiser.step()
        moved = delta * (limit / delta.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1.0)
        delta.copy_(before.index_put((short,), moved[short]))
    return delta, kept[key][at_subject].unflatten(0, (-1, group)).mean(1).double()


def value_losses(
    model, layer: int, batch: Batch, states: torch.Tensor, cases: torch.Tensor, group: int, values: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """``-log p`` of some cases' targets, means over their ``group`` prompts, with one vector a case added at the last subject tokens ``[case]``."""
    which = (cases[:, None] * group + torch.arange(group)).flatten()
    part, rows = batch.rows(which), torch.arange(len(which))
    changed = states[which].index_put((rows, part.subject_last), values.repeat_interleave(group, 0), accumulate=True)
    log_probs = part.logits_from(model, layer, changed).log_softmax(-1)
    return -log_probs[rows, targets[cases].repeat_interleave(group)].unflatten(0, (-1, group)).mean(1)


@dataclass(frozen=True)
class RankOne:
    """Rank-one changes of one layer's ``W_out``, one a case: ``keys`` ``[case d_mlp]`` (scaled, so that its own key gives 1) and ``values``."""

    layer: int
    keys: torch.Tensor
    values: torch.Tensor

    def hooks(self, which: torch.Tensor) -> list:
        """Hooks which do to row ``i`` what the change of case ``which[i]``, written into the weights, would do at every position."""
        kept: list[torch.Tensor] = []

        def read(post, *, hook):
            kept.append(torch.einsum("rpk,rk->rp", post, self.keys[which].to(post.dtype)))

        def write(output, *, hook):
            return output + kept.pop()[..., None] * self.values[which][:, None]

        return [(component_hook("neuron", self.layer), read), (f"blocks.{self.layer}.hook_mlp_out", write)]


def rank_one(model, layer: int, delta: torch.Tensor, keys: torch.Tensor, corpus: list[str]) -> RankOne:
    moment = key_moment(model, layer, corpus[:CORPUS_TEXTS])
    moment += 1e-6 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    directions = torch.linalg.solve(moment, keys.T).T
    return RankOne(layer, directions / (keys * directions).sum(-1, keepdim=True), delta)


def other_facts(case: tlk.EditCase) -> list[tlk.Fact]:
    """The subject's facts of other relations."""
    return [f for f in _by_subject()[case.fact.subject] if f.relation != case.fact.relation]


@lru_cache(maxsize=1)
def _by_subject() -> dict[str, list[tlk.Fact]]:
    facts = defaultdict(list)
    for fact in tlk.load_facts("factlm"):
        facts[fact.subject].append(fact)
    return facts


def asked_of(model, cases: list[tlk.EditCase], facts: Callable[[tlk.EditCase], Sequence[tlk.Fact]]) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Some facts of every case in one batch, which case each row is of, and the rows' own objects."""
    pairs = [(i, tlk.Prompt.from_fact(model, fact)) for i, case in enumerate(cases) for fact in facts(case)]
    return Batch.of([p for _, p in pairs]), torch.tensor([i for i, _ in pairs]), torch.tensor([p.target_token for _, p in pairs])


@torch.no_grad()
def measure_layer(model, layer: int, cases: list[tlk.EditCase], corpus: list[str]) -> dict[str, float]:
    """Percentages over cases: the vector's own success, the rewrite's, and what the rewrite leaves alone."""
    draw = random.Random(layer)
    contexts = ["", *(text[:60].rsplit(" ", 1)[0] for text in draw.sample(corpus, CONTEXTS))]
    batch = Batch.of([p for case in cases for p in in_contexts(model, case.fact, contexts)])
    targets = torch.tensor([tlk.Prompt.from_fact(model, case.rewrite).target_token for case in cases])
    with torch.enable_grad():
        delta, keys = optimise_values(model, layer, batch, targets, len(contexts))
    rewrite = rank_one(model, layer, delta, keys, corpus)
    scores: dict[str, torch.Tensor] = {}
    for short, name, facts in (("ES", "", lambda case: [case.fact]), ("PS", "paraphrases ", lambda case: case.paraphrases)):
        rows, which, true = asked_of(model, cases, facts)
        place, wanted = torch.arange(len(which)), targets[which]
        says = "say it" if name else "says it"
        scores[f"vector: {name}{says}"] = rows.logits(model, rows.add(layer, delta[which])).argmax(-1) == wanted
        logits = rows.logits(model, rewrite.hooks(which))
        scores[f"rewrite: {name}{says}"] = logits.argmax(-1) == wanted
        scores[short] = logits[place, wanted] > logits[place, true]
    rows, which, true = asked_of(model, cases, lambda case: case.neighbourhood)
    logits, place = rows.logits(model, rewrite.hooks(which)), torch.arange(len(which))
    scores["NS"] = logits[place, true] > logits[place, targets[which]]
    rows, which, true = asked_of(model, cases, other_facts)
    known = rows.logits(model).argmax(-1) == true
    scores["subject's other facts kept"] = (rows.logits(model, rewrite.hooks(which)).argmax(-1) == true)[known]
    return {name: 100 * float(hits.double().mean()) for name, hits in scores.items()}
