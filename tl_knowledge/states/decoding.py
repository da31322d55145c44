"""Patchscopes: decode a hidden state by writing it into another prompt, where the model goes on from it (Ghandeharioun et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from tl_knowledge.door import public
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET, budget_rows, rows_engine
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.spans import Span
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.runs.arguments import answer_label, choose_answer, traced_positions
from tl_knowledge.runs.lenses import StateLens
from tl_knowledge.states.decoded import DecodedStates
from tl_knowledge.states.target import Target, clean_run
from tl_knowledge.states.writing import StatesIn, in_chunks

__all__ = ["decode_states"]


@public
def decode_states(
    model: AnyModel,
    prompt: Prompt,
    *,
    layers: int | Iterable[int] | None = None,
    positions: int | Span | Iterable[int] | None = None,
    target: str | int | None = None,
    into: Prompt | str | None = None,
    at: str = "last",
    into_layer: int | None = None,
    through: StateLens | None = None,
    length: int | None = None,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> DecodedStates:
    """Write every state of a prompt into another prompt, and read what the model says there: a Patchscope.

    ``h' = f(h_i^l)`` takes the place of the state after layer ``l*`` at position ``i*`` of the target prompt (Ghandeharioun et al. 2024, section 3).
    By default the target prompt is the identity prompt, ``i*`` its last token, ``l* = l`` and ``f`` the identity, as in their section 4.1. All
    states go through one forward, each a row that is born where it is written; memory permitting.

    Args:
        prompt: whose states are decoded.
        layers: after which blocks; ``-1`` is the embeddings; all when ``None``.
        positions: of which tokens; all when ``None``.
        target: text or token whose probability is read; default the prompt's target, else what the model predicts.
        into: the target prompt, or its text; the identity prompt when ``None``.
        at: a span of the target prompt; the state of its last token is replaced.
        into_layer: after which layer of the target prompt; each state's own when ``None``.
        through: ``f``, which carries states to the layer that it was fitted for (`AffineMaps`, `TunedLens`).
        length: how many tokens to write after the target prompt, each the likeliest; ``None`` reads what comes next only.
        memory_budget: bytes that activations may take.

    Raises:
        PromptError: a prompt that the model cannot read, no span ``at``, or no room for ``length`` tokens.
        ComponentError: layers or positions that are not there, or that ``through`` does not take.
        TargetError: a target that the model cannot say.
        ModelStateError: a lens of another model.
        NumericalError: what follows is not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_text(model, "France is a country", subject="France", target=" Paris")
        >>> into = tlk.Prompt.from_text(model, "The capital of x is", subject="x")
        >>> decoded = tlk.states.decode_states(model, prompt, positions=prompt.subject.last, into=into, at="subject", progress=False)
        >>> decoded.table.query("layer == 4")["says"].item()
        ' Paris'
    """
    model = as_model(model, without_mlps=True)
    check_fits(model, prompt)
    where = Target.resolved(model, into, at, into_layer, through)
    where.room_for(model, length)
    read, places = where.layers(model, layers), traced_positions(prompt, prompt.last, "resid_post", positions)
    answer = choose_answer(model, prompt, target, False)
    states, logits = clean_run(model, prompt.tokens, read)
    sources = [(layer, pos) for layer in read for pos in places]
    placed = [(*where.placed(states[layer][0, [pos]], layer), (layer, pos)) for layer, pos in sources]
    items = sorted(((into_layer, state[0], source) for into_layer, state, source in placed), key=lambda item: item[0])
    own = logits[0].argmax(-1)
    with torch.no_grad():
        bare = run_model(model, where.prompt.tokens)[0, -1].double().softmax(-1)
    runs = _Runs(model, where, int(answer[0]), length, budget_rows(model, len(where.prompt) + (length or 0), 1, memory_budget))
    said = runs.read([(layer, state) for layer, state, _ in items], [int(own[pos]) for _, _, (_, pos) in items], progress)
    rows = [_source(prompt, source) | row for (_, _, source), row in zip(items, said, strict=True)]
    table = pd.DataFrame(rows).sort_values(["layer", "pos"], ignore_index=True)
    settings = where.settings(length)
    provenance = provenance_of(model, has_bos=prompt.has_bos, engine=rows_engine(model), settings=settings, prompt=prompt.text)
    label, without = answer_label(model, prompt, torch.as_tensor(answer)), runs.text([int(bare.argmax())])
    return DecodedStates(table, prompt.labels, label, without, float(bare[int(answer[0])]), settings, provenance)


class _Runs:
    """What follows the target prompt with each of some states in it."""

    def __init__(self, model: HookedModel, where: Target, answer: int, length: int | None, most: int) -> None:
        self.model, self.where, self.answer, self.length, self.most = model, where, answer, length, most

    def read(self, items: Sequence[tuple[int, Float[torch.Tensor, " d_model"]]], own: Sequence[int], progress: bool) -> list[dict[str, Any]]:
        """One row a state, in the order of the layers where they are written.

        Args:
            own: each state's next token in its own prompt.
        """
        rows: list[dict[str, Any]] = []
        with progress_bar(what="decode states", unit="state", total=len(items), progress=progress) as bar:
            for by_layer in in_chunks(items, self.most):
                inside = StatesIn(self.where.prompt, self.where.position, by_layer)
                logits = inside.next_logits(self.model)
                texts = [""] * len(logits)
                if self.length is not None:
                    texts = [self.text(tokens) for tokens in inside.continuations(self.model, self.length)]
                rows += [row | {"text": text} for row, text in zip(self._read(logits, own[len(rows) :][: len(logits)]), texts, strict=True)]
                bar.update(len(logits))
        return rows

    def _read(self, logits: Float[torch.Tensor, "state d_vocab"], own: Sequence[int]) -> list[dict[str, Any]]:
        if not bool(logits.isfinite().all()):
            raise NumericalError("what follows the target prompt is not finite; check the weights for NaN, or the lens that states pass through.")
        log_p = logits.double().log_softmax(-1)
        answer, best = log_p[:, self.answer], log_p.max(-1)
        next_log_p = log_p.gather(1, torch.tensor(own, device=log_p.device)[:, None])[:, 0]
        rank = (log_p > answer[:, None]).sum(1)
        rows: list[dict[str, Any]] = []
        for i, token in enumerate(own):
            row = {"says": self.text([int(best.indices[i])]), "says_probability": float(best.values[i].exp())}
            row |= {"probability": float(answer[i].exp()), "rank": int(rank[i]), "next": self.text([token])}
            rows.append(row | {"surprisal": -float(next_log_p[i]), "agrees": int(best.indices[i]) == token})
        return rows

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text; their numbers where the model has no tokenizer."""
        return str(self.model.tokenizer.decode(tokens)) if self.model.tokenizer else " ".join(map(str, tokens))


def _source(prompt: Prompt, source: tuple[int, int]) -> dict[str, Any]:
    layer, pos = source
    return {"layer": layer, "pos": pos, "token": prompt.labels[pos]}
