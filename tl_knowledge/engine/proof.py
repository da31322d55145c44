"""Each fast engine proves itself on a model before it is believed.

A probe runs a few tokens of two prompts through the engine and through one plain forward, and compares the last states and the logits. It is
asked once a model and kept with it, until a setting of the model changes. Where the probe differs or fails, the caller runs what is exact but
slower, provenance names the reason, and a warning says so once::

    engine                        proved by                                        instead
    rows that begin in a prompt   `tl_knowledge.engine.prefix_bank.bank_refusal`   whole rows, with the base rows beside them
    frozen prefix                 `tl_knowledge.engine.prefix.prefix_refusal`      growing rows of full sequences
    growing rows                  `tl_knowledge.engine.rows.growing_rows_refusal`  every row a full sequence from the first block on

Rows that begin in a prompt only save time, so they fall back without a warning; provenance says it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int

from tl_knowledge.errors import SlowEngineWarning, TLKnowledgeError
from tl_knowledge.models.protocol import HookedModel, context_length, model_device, model_name
from tl_knowledge.models.routed import users_hook

__all__ = ["Proof", "probe_tokens", "run_settings", "same"]

PROBE_LENGTH = 6

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference that is rounding, relative to the largest value (some models take norms and softmax in float32 whatever their weights are).
What an engine gets wrong differs by percents."""
STRICT = 1e-12


class Proof:
    """One engine's probe, with what every model has shown.

    Args:
        engine: its name, for the warning.
        probe: gives why the model cannot run it, and nothing where it can; any error counts as a reason.
        instead: what runs then, for the warning; none is given where this is empty.
    """

    def __init__(self, engine: str, probe: Callable[[HookedModel], str], instead: str) -> None:
        self.engine, self.probe, self.instead = engine, probe, instead
        self.shown: WeakKeyDictionary[HookedModel, dict[Hashable, str]] = WeakKeyDictionary()

    def refusal(self, model: HookedModel) -> str | None:
        """Why this model cannot run the engine, or ``None`` where it can.

        What it cannot run under somebody's hooks is asked again, since without them it may.
        """
        shown = self.shown.setdefault(model, {})
        state = run_settings(model)
        if state in shown:
            return shown[state] or None
        reason = self._ask(model)
        if not reason or users_hook(model) is None:
            shown[state] = reason
        if reason and self.instead:
            warnings.warn(
                f"{model_name(model)}: {self.engine} would not be exact ({reason}); {self.instead}: exact, but slower.",
                SlowEngineWarning,
                stacklevel=2,
            )
        return reason or None

    def _ask(self, model: HookedModel) -> str:
        try:
            with torch.no_grad():
                return self.probe(model)
        except TLKnowledgeError:
            raise
        except Exception as error:  # any error of any architecture means the same: it cannot run this
            return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else f"the model raises {type(error).__name__}"


def probe_tokens(model: HookedModel, most: int = PROBE_LENGTH) -> Int[torch.Tensor, "prompt pos"]:
    """Two prompts of different tokens, as long as the context allows, up to six tokens or as many as are asked for."""
    length = min(most, context_length(model))
    numbers = torch.arange(2 * length, device=model_device(model)) * 7 + 3
    return (numbers % int(model.cfg.d_vocab)).view(2, length)


def same(fast: torch.Tensor, plain: torch.Tensor, *, strict: bool = False) -> bool:
    """Whether two tensors are equal up to rounding.

    Args:
        strict: of their own dtype in double precision: what a model computes in single precision besides rounds otherwise in other shapes.
    """
    if fast.shape != plain.shape:
        return False
    tolerance = STRICT if strict and plain.dtype == torch.float64 else TOLERANCE.get(plain.dtype, 1e-3)
    return bool(((fast - plain).abs().max() <= tolerance * plain.abs().max()).item())  # NaN is never equal


def run_settings(model: HookedModel) -> Hashable:
    """What of a model may change how it runs: its plain settings, its attention's implementation, dtype, device, and a tokenizer.

    ``HookedTransformer.generate`` makes masks by the tokenizer, and counts positions twice behind its cache without one.
    """
    parameter = next(iter(model.parameters()))
    plain = tuple((name, value) for name, value in sorted(vars(model.cfg).items()) if isinstance(value, bool | int | float | str))
    config = getattr(getattr(model, "original_model", None), "config", None)
    return plain, getattr(config, "_attn_implementation", None), parameter.dtype, parameter.device, model.tokenizer is None
