"""Ordinary text as rows of tokens, and what a model's hooks show of every token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.engine.fused import fused_activations
from tl_knowledge.engine.narrowing import may_narrow, narrow_attention, narrow_mlp
from tl_knowledge.engine.recording import run_until
from tl_knowledge.engine.rows import pad_right
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.models.protocol import HookedModel, context_length, layer_count, model_device, prepends_bos

__all__ = ["activations_of", "numbered_rows", "text_rows", "token_rows"]


def numbered_rows(model: HookedModel, corpus: Iterable[str], longest: int) -> Iterator[tuple[int, Tokens]]:
    """Texts as token rows ``[1 pos]`` with their numbers in the corpus.

    With BOS where the model has it; longer ones are cut, those without a token of their own left out.

    Raises:
        InputError: the model has no tokenizer.
    """
    bos = [model.tokenizer.bos_token_id] if prepends_bos(model) else []
    for number, text in enumerate(corpus):
        if model.tokenizer is None:
            raise InputError("this model has no tokenizer, so it reads no text; pass a model with one.")
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids:
            yield number, torch.tensor([(bos + ids)[: min(context_length(model), longest)]], device=model_device(model))


def text_rows(model: HookedModel, corpus: Iterable[str], longest: int) -> Iterator[Tokens]:
    """The rows of `numbered_rows` alone."""
    for _, row in numbered_rows(model, corpus, longest):
        yield row


def token_rows(model: HookedModel, corpus: Iterable[str], wanted: int) -> list[Tokens]:
    """Texts as token rows ``[1 pos]`` until enough tokens are read.

    Raises:
        DataError: there is none.
        InputError: the model has no tokenizer.
    """
    rows: list[Tokens] = []
    count = 0
    for row in text_rows(model, corpus, wanted):
        rows.append(row[:, : wanted - count])
        count += rows[-1].shape[1]
        if count >= wanted:
            break
    if not rows:
        raise DataError("the corpus has no text with a token; pass texts, for example load_corpus().")
    return rows


def activations_of(model: HookedModel, rows: Sequence[torch.Tensor], names: Sequence[str], last: str) -> dict[str, Float[torch.Tensor, "token d"]]:
    """Activations of every token of some texts, without those of the padding; at least in single precision.

    Args:
        rows: of tokens, ``[1 pos]`` each.
        names: of hooks.
        last: the one that the model runs last, where it stops.
    """
    lengths = torch.tensor([row.shape[1] for row in rows], device=rows[0].device)
    inside = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    read: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Hooks:
        def catch(activation: torch.Tensor, *, hook: object) -> None:
            packed = bool(without_padding) and activation.shape[:2] == (1, int(inside.sum()))  # inside a module that is run without the padding
            read[name] = (activation[0] if packed else activation[inside]).to(torch.promote_types(activation.dtype, torch.float32))

        return [(name, catch)]

    without_padding = _without_padding(model, inside)
    with fused_activations(model):
        run_until(model, pad_right(rows), without_padding + [pair for name in names for pair in keep(name)], last)
    return read


def _without_padding(model: HookedModel, inside: Bool[torch.Tensor, "row pos"]) -> Hooks:
    """MLPs, and attention's projections where they can, leave the padding out; what they write there is read nowhere."""
    if bool(inside.all()) or not may_narrow(model):
        return []
    own = torch.arange(len(inside), device=inside.device)
    layers = range(layer_count(model))
    return [pair for layer in layers for pair in narrow_mlp(model, layer, inside, own) + narrow_attention(model, layer, inside, inside, own)]
