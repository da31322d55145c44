"""How SERAC is trained: the counterfactual model to answer behind an edit, the encoder to know which prompts are in an edit's scope."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int

from tl_knowledge.arrays import Tokens
from tl_knowledge.editing.scope import ScopeEncoder, similarities
from tl_knowledge.editing.training.outcome import Outcome, Sample
from tl_knowledge.editing.training.samples import TrainingData
from tl_knowledge.editing.training.seen import fact_digest
from tl_knowledge.errors import PromptError
from tl_knowledge.metrics import widened
from tl_knowledge.models.protocol import HookedModel, context_length, model_device, model_name
from tl_knowledge.models.reread import own_start
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.wording import counted

__all__ = ["ScopeData", "answer_losses", "edit_context", "own_tokens", "scope_loss", "serac_outcome"]

TEXT_SHARE = 0.05  # of what is out of scope; more of it leaves fewer of the questions that are hard to tell apart
LEAST = 1e-6  # of ``1 - sim``, whose logarithm is taken


class ScopeData(TrainingData):
    """Training data whose texts are also other questions: a neighbour, or another case's prompt, half of them of the same relation."""

    @cached_property
    def by_relation(self) -> Mapping[str | None, Sequence[EditCase]]:
        """The cases to learn from."""
        found: dict[str | None, list[EditCase]] = {}
        for case in self.cases:
            found.setdefault(case.fact.relation, []).append(case)
        return found

    def apart_from(self, case: EditCase, draw: random.Random) -> Tokens:
        """A text out of a case's scope."""
        if draw.random() < TEXT_SHARE:
            return super().apart_from(case, draw)
        near = [each.text for each in case.neighbourhood]
        same = [other for other in self.by_relation.get(case.fact.relation, []) if other.fact.subject != case.fact.subject]
        others = same if same and draw.random() < 0.5 else [other for other in self.cases if fact_digest(other.fact) != fact_digest(case.fact)]
        if near and (not others or draw.random() < 0.5):
            return Prompt.from_text(self.model, draw.choice(near)).tokens
        if not others:
            return super().apart_from(case, draw)
        other = draw.choice(others).fact
        return Prompt.from_text(self.model, draw.choice([other, *(other.rephrase(template) for template in other.paraphrases)]).text).tokens


def serac_outcome(model: HookedModel, encoder: ScopeEncoder, other: HookedModel, samples: Sequence[Sample], separator: str, least: float) -> Outcome:
    """What SERAC's edits do: they succeed where the question is in scope, and the counterfactual model says the target.

    Args:
        other: the counterfactual model.
        least: similarity of a question that is in scope.
    """
    losses, said = answer_losses(model, other, samples, separator)
    kl, inside = scope_loss(model, encoder, samples, least)
    return Outcome(losses.mean(), kl, float((said & inside).double().mean()), len(samples))


def answer_losses(
    model: HookedModel, other: HookedModel, samples: Sequence[Sample], separator: str
) -> tuple[Float[torch.Tensor, " sample"], Bool[torch.Tensor, " sample"]]:
    """Mean negative log-likelihoods of the targets' tokens behind edit and question, and whether each of them is the likeliest.

    Rows are filled up behind their ends, which nothing reads.

    Raises:
        PromptError: an edit and a question that the counterfactual model's context has no room for.
    """
    rows = list[torch.Tensor]()
    for sample in samples:
        asked, start = sample.asked.tokens[0], own_start(model, sample.asked.tokens[0])
        context = edit_context(model, sample.edit, separator)
        rows.append(torch.cat([asked[:start], context, asked[start:], asked.new_tensor(sample.asked.answer[:-1])]))
    longest = max(map(len, rows))
    if longest > context_length(other):
        raise PromptError(
            f"an edit, a question about it and its answer have {counted(longest, 'token')}, and the context of "
            f"{model_name(other)} is {context_length(other)}; "
            "leave such cases out."
        )
    logits: torch.Tensor = other(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
    losses, said = list[torch.Tensor](), list[torch.Tensor]()
    for i, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        answer = row.new_tensor(sample.asked.answer)
        scored = widened(logits[i, len(row) - len(answer) : len(row)]).log_softmax(-1)
        losses.append(-scored.gather(-1, answer[:, None]).mean())
        said.append((scored.argmax(-1) == answer).all())
    return torch.stack(losses), torch.stack(said)


def scope_loss(
    model: HookedModel, encoder: ScopeEncoder, samples: Sequence[Sample], least: float
) -> tuple[Float[torch.Tensor, ""], Bool[torch.Tensor, " sample"]]:
    """Cross-entropy of the similarities, those that should be 1 and those that should be 0 each in their mean; and which questions are in scope."""
    rows = [own_tokens(model, row[0]) for each in samples for row in (each.edit.tokens, each.asked.tokens, each.text)]
    vectors = encoder(rows)
    edits, inside, outside = vectors[0::3], vectors[1::3], vectors[2::3]
    near = ((edits - inside) ** 2).sum(-1)  # minus the logarithm of the similarity
    apart = 1 - similarities(edits, outside).diagonal()
    return near.mean() - apart.clamp_min(LEAST).log().mean(), (-near).exp() > least


def edit_context(model: HookedModel, edit: Prompt, separator: str) -> Int[torch.Tensor, " pos"]:
    """An edit as the counterfactual model reads it: prompt, target, separator."""
    row = edit.tokens[0]
    after = [*edit.answer, *model.tokenizer(separator, add_special_tokens=False)["input_ids"]]
    return torch.cat([row[own_start(model, row) :], torch.tensor(after, dtype=row.dtype, device=model_device(model))])


def own_tokens(model: HookedModel, row: Int[torch.Tensor, " pos"]) -> Int[torch.Tensor, " _"]:
    """A row without its BOS token."""
    return row[own_start(model, row) :]
