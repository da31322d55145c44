"""Logits of some positions, on a model as it stands: under an edit that changes what is read, too."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.errors import ModelStateError
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.reread import check_readable, has_readers, read_rows

__all__ = ["logits_at", "logits_of_texts"]


def logits_at(
    model: HookedModel, tokens: Int[torch.Tensor, "batch pos"], positions: range, hooks: Hooks
) -> Float[torch.Tensor, "batch kept d_vocab"]:
    """Logits of neighbouring positions, the first of them the prompt's last: an edit that changes what is read decides by the prompt alone.

    Raises:
        ModelStateError: hooks under such an edit.
    """

    def run(reader: HookedModel, rows: torch.Tensor, context: int) -> torch.Tensor:
        kept = torch.arange(positions.start + context, positions.stop + context, device=rows.device)
        return run_model(reader, rows, [*hooks, *keep_positions(kept[None].expand(len(rows), -1))])

    with torch.no_grad():
        if not has_readers(model):
            return run(model, tokens, 0)
        _refuse_hooks(model, hooks)
        return read_rows(model, tokens, positions.start + 1, run)


def logits_of_texts(model: HookedModel, tokens: Int[torch.Tensor, "batch pos"], hooks: Hooks) -> Float[torch.Tensor, "batch pos d_vocab"]:
    """Logits of all positions of whole texts, each of which is the prompt by which an edit decides.

    Raises:
        ModelStateError: hooks under an edit that changes what is read.
    """
    with torch.no_grad():
        if not has_readers(model):
            return run_model(model, tokens, hooks)
        _refuse_hooks(model, hooks)
        return read_rows(model, tokens, tokens.shape[1], lambda reader, rows, context: run_model(reader, rows)[:, context:])


def _refuse_hooks(model: HookedModel, hooks: Hooks) -> None:
    """Hooks of the caller, or of somebody else, would see other tokens than they were made for."""
    check_readable(model)
    if hooks:
        raise ModelStateError(
            f"a hook at {hooks[0][0]!r} was given while an edit that changes what is read is on the model: its positions would be other tokens. "
            "Leave the hooks out, or revert(model) first."
        )
