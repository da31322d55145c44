"""A relation's facts as prompts in one template, after examples; and what the model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int

from tl_knowledge.datasets import in_context
from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import DataError, InputError, check_given
from tl_knowledge.models.final_norm import unembed
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.wording import counted

__all__ = ["SubjectStates", "ask", "decode", "example_prompts", "of_one_relation", "read_states", "top_tokens"]

STATES_AT_ONCE = 256


def of_one_relation(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """Facts of one relation, all in the first one's template.

    Raises:
        DataError: no fact, or one subject twice.
        InputError: facts of several relations.
    """
    given = check_given(facts, "fact")
    relations = sorted({str(fact.relation) for fact in given})
    if len(relations) > 1:
        raise InputError(
            f"facts of {counted(len(relations), 'relation')} were given ({', '.join(relations[:3])} ...); a map is of one: see of_relation()."
        )
    seen: set[str] = set()
    for fact in given:
        if fact.subject in seen:
            raise DataError(f"subject {fact.subject!r} is given twice; pass each subject's fact once.")
        seen.add(fact.subject)
    return tuple(replace(fact.rephrase(given[0].template), paraphrases=()) for fact in given)


def ask(model: HookedModel, fact: Fact, examples: Sequence[Fact], separator: str) -> Prompt:
    """A fact's prompt after the examples of other subjects.

    Raises:
        PromptError: longer than the model's context.
    """
    pairs = [(example.subject, example.target) for example in examples if example.subject != fact.subject]
    return Prompt.from_fact(model, in_context(fact, pairs, separator=separator))


def example_prompts(model: HookedModel, facts: Sequence[Fact], separator: str) -> list[Prompt]:
    """Each fact after all the others."""
    return [ask(model, fact, facts, separator) for fact in facts]


@dataclass(frozen=True, eq=False)
class SubjectStates:
    """What the model makes of some prompts.

    Attributes:
        subject: what left each block at the subject's last token.
        object: what left the last block at the token that predicts the answer.
        says: the most probable token there.
    """

    subject: Float[torch.Tensor, "prompt layer d_model"]
    object: Float[torch.Tensor, "prompt d_model"]
    says: Int[torch.Tensor, " prompt"]


def read_states(model: HookedModel, prompts: Sequence[Prompt], layers: Sequence[int]) -> SubjectStates:
    """Run some prompts, those of one length together."""
    last_layer = layer_count(model) - 1
    subject: dict[int, torch.Tensor] = {}
    final: dict[int, torch.Tensor] = {}
    for group in equal_groups([len(prompt) for prompt in prompts]):
        tokens = torch.cat([prompts[i].tokens for i in group])
        recorded = record(model, tokens, [], {block_output(layer) for layer in (*layers, last_layer)})
        for row, i in enumerate(group):
            at, answered = prompts[i].subject.last, prompts[i].last.last
            subject[i] = torch.stack([recorded[block_output(layer)][row, at] for layer in layers])
            final[i] = recorded[block_output(last_layer)][row, answered]
    objects = torch.stack([final[i] for i in range(len(prompts))])
    return SubjectStates(torch.stack([subject[i] for i in range(len(prompts))]), objects, top_tokens(model, objects))


def decode(model: HookedModel, states: Float[torch.Tensor, "*row d_model"]) -> Float[torch.Tensor, "*row d_vocab"]:
    """Log-probabilities that the final norm and the unembedding give some states, as if they had left the last block; at least in float32.

    The states enter in the model's precision: bridges' norms and unembeddings refuse any other.
    """
    flat, wide = states.flatten(0, -2).to(next(model.parameters()).dtype), torch.promote_types(states.dtype, torch.float32)
    rows = [unembed(model, some).to(wide).log_softmax(-1) for some in flat.split(STATES_AT_ONCE)]
    return torch.cat(rows).unflatten(0, states.shape[:-1])


def top_tokens(model: HookedModel, states: Float[torch.Tensor, "*row d_model"]) -> Int[torch.Tensor, "*row"]:
    """The most probable token of each."""
    flat = states.flatten(0, -2)
    return torch.cat([unembed(model, some).argmax(-1) for some in flat.split(STATES_AT_ONCE)]).unflatten(0, states.shape[:-1])
