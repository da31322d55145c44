"""Frozen prefixes of many rows, each cut at any token: what the restored runs of a trace continue.

A run that is restored at one position equals its corrupted run at all earlier ones, so its rows need not have them: they begin at that position,
and attention reads the corrupted run's keys and values of what comes before. Everything a row passes through, norms and attention too, is then
as short as what can differ in it, on bridges as well, where `tl_knowledge.engine.narrowing.narrow_attention` cannot help.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int

from tl_knowledge.arrays import Hooks, Logits, Tokens
from tl_knowledge.engine.caches import Cache, filled_cache, filling
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.prefix import exact_up_to, prefix_refusal, within_cache
from tl_knowledge.engine.proof import Proof, probe_tokens, same
from tl_knowledge.engine.recording import capture_base, record_beside, stored_bytes
from tl_knowledge.engine.rows import grow_rows
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.models.routed import has_routes

__all__ = ["PrefixBank", "bank_prefixes", "bank_refusal"]

PROBED = 16  # tokens: enough for single precision to show in their sums


@dataclass(frozen=True)
class PrefixBank:
    """Keys and values of some rows' tokens, and what else was asked for of the run that gave them.

    Attributes:
        recorded: activations of these rows, by hook name.
        length: of the rows, in tokens; a prefix has at least one less.
    """

    cache: Cache
    recorded: dict[str, torch.Tensor]
    length: int

    @property
    def bytes(self) -> int:
        """Memory that it takes; what shares a storage counts once."""
        return stored_bytes([*self.recorded.values(), *self.cache.tensors()])

    def arguments(self, start: int, owners: Int[torch.Tensor, " row"]) -> dict[str, Any]:
        """What the model is given besides the tokens from ``start`` on.

        Args:
            owners: which of the bank's rows each row that is run continues.
        """
        return self.cache.arguments(self.length - start, before=start, owners=owners) if start else {}


def bank_refusal(model: HookedModel, length: int = 0) -> str | None:
    """Why rows of so many tokens have to run all of them, or ``None`` where they may begin anywhere.

    That is where the model's cache is not exact, and where hooks are on the model: these may count positions from the start, or from the end, of
    the rows that they see.
    """
    if has_routes(model):
        return "an edit that is on the model sees them whole"
    if not within_cache(model, length, filled=length):
        return f"the model's cache is exact below {exact_up_to(model):.0f} tokens"
    return prefix_refusal(model) or _CUTTING.refusal(model)


def bank_prefixes(
    model: HookedModel, tokens: Tokens, hooks: Hooks, names: Iterable[str] = (), memory_budget: float = float("inf")
) -> tuple[Logits, PrefixBank | None]:
    """Run some rows, and bank their prefixes in the same run: the logits, and the bank, or ``None`` where it takes too much memory.

    Only where `bank_refusal` has no objection.

    Args:
        tokens: ``[row pos]``.
        hooks: in force while the rows run.
        names: of other activations of theirs to record.
        memory_budget: bytes that the prefixes may take, with all that is recorded.
    """
    shown, arguments = filling(model)
    logits, recorded = record_beside(model, tokens, hooks, [*names, *shown], memory_budget, **arguments)
    if recorded is None:
        return logits, None
    bank = PrefixBank(filled_cache(tokens.shape[1], shown, recorded, arguments), recorded, tokens.shape[1])
    return logits, bank if bank.bytes <= memory_budget else None


def _probe(model: HookedModel) -> str:
    """Two prompts, each continued by a row from block 0 on and by one that is born behind it, the other way round; from two tokens on.

    In double precision the logits must agree in it: GPT-J's attention is in single precision, and rounds otherwise where it has fewer queries.
    """
    tokens, base = probe_tokens(model, PROBED), list[torch.Tensor]()
    plain: torch.Tensor = run_model(model, tokens, capture_base(model, base))
    if len(base) != layer_count(model) + 1:
        return "some blocks never show their output"
    logits, bank = bank_prefixes(model, tokens, [])
    if bank is None or not same(logits, plain, strict=True):
        return "a run that fills its cache gives other logits"
    order = torch.tensor([0, 1, 1, 0], device=tokens.device)
    for start in {1, tokens.shape[1] - 1}:
        hooks = grow_rows([stream[:, start:] for stream in base], {-1: order[:2], 0: order[2:]}, alone=True)
        logits = run_model(model, tokens[:1, start:], hooks, **bank.arguments(start, order))
        if not same(logits, plain[order, start:], strict=True):
            return f"rows that begin at token {start} give other logits"
    return ""


_CUTTING = Proof("rows that begin where they differ", _probe, instead="")
