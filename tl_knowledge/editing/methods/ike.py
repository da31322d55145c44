"""IKE: the new fact, and demonstrations of how such facts are used, stand before the prompt (Zheng et al. 2023)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Int
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.editing.demonstrations import Demonstrations, check_embedding, fact_text, nearest
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.reread import RereadEdit
from tl_knowledge.errors import InputError, PromptError
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel, context_length, model_device
from tl_knowledge.models.reread import Read, own_start
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.digest import digest
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.runs.key_moments import KeyMoments
from tl_knowledge.wording import counted

__all__ = ["IKE", "ContextEdit"]

KINDS = ("copy", "update", "update", "update", "retain", "retain", "retain", "retain")
"""One to three to four (Zheng et al. 2023)."""


@dataclass(frozen=True, eq=False)
class ContextEdit(RereadEdit):
    """A text that stands before every prompt, behind its BOS token.

    Attributes:
        context: its tokens.
        spaced: whether the prompt's first word is read with a space before it.
        statements: of what the text is made: ``kind text tokens similarity``, the new fact last.
    """

    ranked_by: ClassVar[str] = "tokens"
    context: Int[torch.Tensor, " context"]
    spaced: bool
    statements: tuple[dict[str, Any], ...]
    method: str
    settings: dict[str, Any]
    fingerprint: str
    notes: tuple[dict[str, Any], ...]
    provenance: Provenance
    _key: object = field(default_factory=object, init=False, repr=False)

    @override
    def reads(self, model: HookedModel, tokens: Int[torch.Tensor, " pos"]) -> Read:
        """The model itself, behind the context."""
        start = own_start(model, tokens)
        own = int(tokens[start]) if self.spaced and len(tokens) > start else None
        return Read(model, self.context, None if own is None else _with_space(model, own))

    @override
    def digest(self) -> str:
        return digest([self.context.tolist(), self.spaced])

    @override
    def headline(self) -> str:
        subjects, demonstrations = ", ".join(str(note["subject"]) for note in self.notes), len(self.statements) - 1
        before = f"{counted(len(self.context), 'token')} before the prompt, {counted(demonstrations, 'demonstration')}"
        return f"{self.method}, {before}; {subjects}; {self.provenance.model}"

    def to_dataframe(self) -> pd.DataFrame:
        """One row a statement: ``kind text tokens similarity``."""
        return pd.DataFrame(list(self.statements), columns=["kind", "text", "tokens", "similarity"])

    def plot(self) -> go.Figure:
        """Bars: how long each statement is."""
        frame = self.to_dataframe()
        labels = [f"{i}: {kind}" for i, kind in enumerate(frame["kind"], start=1)]
        return bar_chart(
            labels, frame["tokens"].astype(float).tolist(), title="What stands before the prompt", subtitle=self.headline(), value_axis="tokens"
        )


@public
@dataclass(frozen=True)
class IKE(EditMethod):
    """Settings of IKE: no weight changes; the prompt is read behind ``k`` demonstrations and the new fact (Zheng et al. 2023, section 3).

    Every demonstration is another edit, "New Fact: ... Prompt: ...", whose prompt is the new fact again (copy), a paraphrase of it (update) or a
    neighbour with its true object (retain), one to three to four. The most similar one stands last, next to the new fact. Which model learns
    from a context is a question of its training: FactLM hardly does.

    Attributes:
        k: how many demonstrations; 0 gives the new fact alone.
        pool: where they are drawn from, ``Demonstrations.from_cases(cases)``; never the edited fact itself.
        embedding: what says which are most similar: ``"model"``, the mean of the model's own states after its last layer, or the name of a
            sentence-transformers model (as in the paper).
        fact_words, prompt_words: what stands before each fact and each prompt.
        seed: of the order of the kinds, and of which paraphrase and neighbour is taken.

    Raises:
        InputError: demonstrations without a pool, or more than it has.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, cases = tlk.load_model("factlm"), tlk.load_edit_cases()
        >>> pool = tlk.editing.Demonstrations.from_cases(cases[100:])
        >>> edit = tlk.plan_edit(model, cases[0].rewrite, tlk.editing.IKE(k=1, pool=pool))
        >>> prompt = tlk.Prompt.from_text(model, "A Very Private Affair comes from")
        >>> print(edit.text_read(model, prompt).splitlines()[-2:])
        ['New Fact: A Very Private Affair was created in the country of Germany', 'Prompt: A Very Private Affair comes from']
        >>> with edit.applied(model):
        ...     tuple(model(prompt.tokens).shape) == (1, len(prompt), 3000)
        True
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"factlm": {"k": 0}, "factlm-llama": {"k": 0}}
    k: int = 16
    pool: Demonstrations | None = None
    embedding: str = "model"
    fact_words: str = "New Fact: "
    prompt_words: str = "Prompt: "
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 0 or (self.k and (self.pool is None or len(self.pool) < self.k)):
            there = "none was" if self.pool is None else f"{len(self.pool)} were"
            raise InputError(
                f"IKE(k={self.k}) needs as many demonstrations, and {there} given; pass pool=Demonstrations.from_cases(cases) with cases that "
                "are not evaluated, or k=0 for the new fact alone."
            )
        check_embedding(self.embedding)

    @classmethod
    @override
    def small(cls) -> IKE:
        return cls(k=0)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> ContextEdit:
        """The edit of one fact; moments are not needed.

        Raises:
            InputError: several facts, or the fact is among the demonstrations.
            PromptError: the context leaves no room for the fact's prompt and target.
        """
        if len(facts) != 1:
            raise InputError(f"IKE edits one fact at a time, not {len(facts)}; pass batch_size=1, or one fact.")
        fact = facts[0]
        statements = [] if self.pool is None or not self.k else self._demonstrations(model, fact, self.pool)
        statements.append(("new fact", f"{self.fact_words}{fact_text(fact)}\n{self.prompt_words}", 1.0))
        spaced, texts = self.prompt_words.endswith(" "), [text for _, text, _ in statements]
        texts[-1] = texts[-1].removesuffix(" ")
        context = _tokens(model, "".join(texts))
        prompt = Prompt.from_fact(model, fact)
        length = len(context) + len(prompt) + len(prompt.answer) - 1
        if length > context_length(model):
            raise PromptError(
                f"IKE(k={self.k}) reads {counted(len(context), 'token')} before the prompt {fact.text!r}, {length} "
                f"with it and its target; the model's context "
                f"is {context_length(model)}: pass a smaller k."
            )
        table = tuple(
            {"kind": kind, "text": text, "tokens": len(_tokens(model, text)), "similarity": similarity}
            for (kind, _, similarity), text in zip(statements, texts, strict=True)
        )
        provenance = provenance_of(model, engine="context", seed=self.seed, settings=self, method=type(self).__name__)
        notes = ({"subject": fact.subject, "target": fact.target},)
        return ContextEdit(
            context.to(model_device(model)), spaced, table, type(self).__name__, plain(self), unedited_fingerprint(model), notes, provenance
        )

    def _demonstrations(self, model: HookedModel, fact: Fact, pool: Demonstrations) -> list[tuple[str, str, float]]:
        """Kind, text and similarity of every demonstration, the most similar last."""
        draw = random.Random(f"{self.seed}/{fact.subject}/{fact.relation}")
        kinds = [KINDS[i % len(KINDS)] for i in range(self.k)]
        draw.shuffle(kinds)
        found = zip(nearest(model, fact, pool, self.k, self.embedding), kinds, strict=True)
        return [(*self._demonstration(case, kind, fact, draw), similarity) for (case, similarity), kind in found][::-1]

    def _demonstration(self, case: EditCase, kind: str, fact: Fact, draw: random.Random) -> tuple[str, str]:
        """One demonstration, of its kind or, where the case has no such prompt, a copy."""
        of_kind = {"copy": (), "update": case.paraphrases, "retain": case.neighbourhood}[kind]
        prompts = [prompt for prompt in of_kind if kind == "update" or getattr(prompt, "subject", None) != fact.subject]
        asked = draw.choice(prompts) if prompts else case.rewrite
        answer = asked.target if kind == "retain" and prompts else case.target_new
        text = f"{self.fact_words}{fact_text(case.rewrite)}\n{self.prompt_words}{asked.text}{answer}\n\n"
        return kind if prompts else "copy", text


def _tokens(model: HookedModel, text: str) -> Int[torch.Tensor, " pos"]:
    return torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


def _with_space(model: HookedModel, token: int) -> int | None:
    """The token of the same word inside a text, where there is one."""
    word = str(model.tokenizer.decode([token]))
    spaced = model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] if word[:1].isalnum() else []
    return int(spaced[0]) if len(spaced) == 1 else None
