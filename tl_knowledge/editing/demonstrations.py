"""Demonstrations of how a new fact is to be used: edit cases, and which of them are nearest to a fact (Zheng et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from more_itertools import always_iterable

from tl_knowledge.editing.training.seen import fact_digest
from tl_knowledge.engine.recording import record
from tl_knowledge.errors import InputError, check_given
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel, context_length, layer_count
from tl_knowledge.models.reread import as_it_is
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.digest import digest
from tl_knowledge.wording import counted

__all__ = ["Demonstrations", "check_embedding", "fact_text", "nearest"]

_embedded: WeakKeyDictionary[object, dict[tuple[str, str, str], torch.Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Demonstrations:
    """Edit cases to learn from; in settings they stand for by their number and digest.

    Example:
        >>> import tl_knowledge as tlk
        >>> pool = Demonstrations.from_cases(tlk.load_edit_cases()[100:])
        >>> len(pool), pool.count
        (220, 220)
    """

    count: int
    content: str
    _cases: tuple[EditCase, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def from_cases(cls, cases: EditCase | Iterable[EditCase]) -> Demonstrations:
        """A pool of edit cases, none of which may be evaluated with it.

        Raises:
            DataError: no case.
        """
        given = check_given(always_iterable(cases, EditCase), "case", "pass edit cases that are not evaluated, for example load_edit_cases()[200:]")
        return cls(len(given), digest([asdict(case) for case in given]), given)

    def __len__(self) -> int:
        return self.count

    @property
    def cases(self) -> tuple[EditCase, ...]:
        """The cases themselves.

        Raises:
            InputError: they were read from a file, which has only their digest.
        """
        if len(self._cases) != self.count:
            raise InputError(f"the {counted(self.count, 'case')} of these demonstrations are not kept in files; make them anew with from_cases().")
        return self._cases

    def check_apart(self, fact: Fact) -> None:
        """Refuse a fact that is among the demonstrations.

        Raises:
            InputError: it is.
        """
        if fact_digest(fact) in {fact_digest(case.fact) for case in self.cases}:
            raise InputError(
                f"the demonstrations hold the edited fact {fact.text!r} itself; leave it out: [case for case in cases if case.fact != fact]."
            )


def fact_text(fact: Fact) -> str:
    """A fact with its object."""
    return fact.text + fact.target


def check_embedding(name: str) -> None:
    """Refuse an embedding whose library is not there.

    Raises:
        InputError: no sentence-transformers.
    """
    if name != "model" and find_spec("sentence_transformers") is None:
        raise InputError(f"embedding={name!r} is a model of sentence-transformers, which is not installed; install it, or pass embedding='model'.")


def nearest(model: HookedModel, fact: Fact, pool: Demonstrations, k: int, embedding: str) -> list[tuple[EditCase, float]]:
    """The cases whose new facts are most like a fact, with the cosine; the most similar first.

    Args:
        embedding: ``"model"`` for the mean of the model's own states after its last layer, or a sentence-transformers model's name.
    """
    pool.check_apart(fact)
    key = (weight_fingerprint(model), pool.content, embedding)
    kept = _embedded.setdefault(model, {})
    if key not in kept:
        kept[key] = _embed(model, [fact_text(case.rewrite) for case in pool.cases], embedding)
    cosines = kept[key] @ _embed(model, [fact_text(fact)], embedding)[0]
    best = cosines.sort(descending=True, stable=True).indices[:k].tolist()
    return [(pool.cases[i], float(cosines[i])) for i in best]


def _embed(model: HookedModel, texts: Sequence[str], embedding: str) -> Float[torch.Tensor, "text size"]:
    """Vectors of length 1."""
    if embedding == "model":
        found = torch.stack([_mean_state(model, text) for text in texts])
    else:
        encoder: Any = import_module("sentence_transformers").SentenceTransformer(embedding)
        found = encoder.encode(list(texts), convert_to_tensor=True).double().cpu()
    return found / found.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _mean_state(model: HookedModel, text: str) -> Float[torch.Tensor, " d_model"]:
    """The mean over a text's tokens of the residual stream after the last layer; of a long text's beginning."""
    prompt, last = Prompt.from_text(model, text), block_output(layer_count(model) - 1)
    with as_it_is(model):
        states = record(model, prompt.tokens[:, : context_length(model)], [], [last])[last]
    return states[0, int(prompt.has_bos) :].double().mean(0).cpu()
