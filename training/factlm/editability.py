"""Can FactLM be edited where it stores its facts?  Value vectors, and the rank-one rewrite that writes them.

With the model frozen, one vector is added to the MLP output at the last subject token of one layer, optimised (Adam) over
the bare prompt and six contexts to make the model say another object (ROME, section 3.1).  The rank-one rewrite
``dW = u (x) delta / (k . u)``, ``u = C^-1 k`` writes it into ``W_out``; ``C`` is the second moment of the keys on FactLM's corpus.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import torch

import tl_knowledge as tlk

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

    def logits(self, model, hooks=()) -> torch.Tensor:
        rows = torch.arange(len(self.tokens))
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
        model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", lambda x, *, hook, kept=kept: kept.append(x[0].double()))])
        total, count = total + kept[0].T @ kept[0], count + len(kept[0])
    return total / count


def optimise_values(model, layer: int, batch: Batch, targets: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One vector a case, all cases in one batch; also each case's mean key."""
    kept: dict[str, torch.Tensor] = {}
    rows = torch.arange(len(batch.tokens))

    def keep(name):
        return (f"blocks.{layer}.{name}", lambda x, *, hook: kept.__setitem__(name, x[rows, batch.subject_last].detach()))

    with torch.no_grad():
        batch.logits(model, [keep("mlp.hook_post"), keep("hook_mlp_out")])
    limit = CLAMP * kept["hook_mlp_out"].unflatten(0, (-1, group))[:, 0].norm(dim=-1, keepdim=True)
    delta = torch.zeros(len(limit), kept["hook_mlp_out"].shape[-1], requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=RATE)
    for _ in range(STEPS):
        log_probs = batch.logits(model, batch.add(layer, delta.repeat_interleave(group, 0))).log_softmax(-1)
        losses = -log_probs[rows, targets.repeat_interleave(group)].unflatten(0, (-1, group)).mean(1)
        if bool((losses < ENOUGH).all()):
            break
        done, before = (losses < ENOUGH)[:, None], delta.detach().clone()
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
        with torch.no_grad():
            moved = delta * (limit / delta.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1.0)
            delta.copy_(torch.where(done, before, moved))
    return delta.detach(), kept["mlp.hook_post"].unflatten(0, (-1, group)).mean(1).double()


def measure_layer(model, layer: int, cases: list[tlk.EditCase], corpus: list[str]) -> dict[str, float]:
    """Percentages over cases: the vector's own success, the rewrite's, and what the rewrite leaves alone."""
    draw = random.Random(layer)
    contexts = ["", *(text[:60].rsplit(" ", 1)[0] for text in draw.sample(corpus, CONTEXTS))]
    batch = Batch.of([p for case in cases for p in in_contexts(model, case.fact, contexts)])
    targets = torch.tensor([tlk.Prompt.from_fact(model, case.rewrite).target_token for case in cases])
    delta, keys = optimise_values(model, layer, batch, targets, len(contexts))
    moment = key_moment(model, layer, corpus[:CORPUS_TEXTS])
    moment += 1e-6 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    directions = torch.linalg.solve(moment, keys.T).T
    scores: dict[str, list[bool]] = defaultdict(list)
    others = defaultdict(list)
    for fact in tlk.load_facts("factlm"):
        others[fact.subject].append(fact)
    weights = model.blocks[layer].mlp.W_out
    for case, vector, key, direction, target in zip(cases, delta, keys, directions, targets.tolist(), strict=True):
        prompts = [tlk.Prompt.from_fact(model, f) for f in (case.fact, *case.paraphrases)]
        edited = Batch.of(prompts)
        true = prompts[0].target_token
        with torch.no_grad():
            said = edited.logits(model, edited.add(layer, vector.expand(len(prompts), -1))).argmax(-1) == target
            change = torch.outer(direction, vector.double()) / (key @ direction)
            before = weights.detach().clone()
            weights.add_(change.to(weights.dtype))
            logits = edited.logits(model)
            written, preferred = logits.argmax(-1) == target, logits[:, target] > logits[:, true]
            neighbours = [tlk.Prompt.from_fact(model, f) for f in case.neighbourhood]
            kept = Batch.of(neighbours).logits(model)
            rest = [tlk.Prompt.from_fact(model, f) for f in others[case.fact.subject] if f.relation != case.fact.relation]
            kept_rest = Batch.of(rest).logits(model) if rest else None
            weights.copy_(before)
        scores["vector: says it"] += [bool(said[0])]
        scores["vector: paraphrases say it"] += said[1:].tolist()
        scores["rewrite: says it"] += [bool(written[0])]
        scores["rewrite: paraphrases say it"] += written[1:].tolist()
        scores["ES"] += [bool(preferred[0])]
        scores["PS"] += preferred[1:].tolist()
        scores["NS"] += [bool(row[p.target_token] > row[target]) for row, p in zip(kept, neighbours, strict=True)]
        if kept_rest is not None:
            scores["subject's other facts kept"] += [int(row.argmax()) == p.target_token for row, p in zip(kept_rest, rest, strict=True)]
    return {name: 100 * sum(hits) / len(hits) for name, hits in scores.items()}
