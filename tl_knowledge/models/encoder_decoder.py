"""An encoder with a decoder (T5) as one row of tokens, so that everything that asks a model at a position can ask it, too.

A row is the text that the encoder reads, then what the decoder reads, which begins with its start token (T5's is the padding token)::

    position     0     1         2    3     4       5         6
    token        The   capital   of   ...   </s>    <pad>     Par
                 '----- the encoder reads ----'     '- the decoder reads -'
    logits       none                               of "Par"  of "is"

Blocks are counted as `HookedEncoderDecoder.W_out` stacks them: the encoder's first, then the decoder's. A hook sees ``[batch pos ...]`` with the
row's positions. A block has no activations on the other side's positions: zeros are shown there, and what a hook writes there goes nowhere.
Logits before the decoder begins are NaN.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
from jaxtyping import Float

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.errors import ComponentError, ModelStateError, PromptError, TLKnowledgeError, UnsupportedModelError
from tl_knowledge.models.hook_names import UNEMBED_IN
from tl_knowledge.models.protocol import answered_from, as_rows
from tl_knowledge.models.t5 import CONTEXT

__all__ = ["EncoderDecoder", "encoder_decoder"]

SHOWN = ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "mlp.hook_pre", "mlp.hook_post", "mlp.out.hook_out")
"""Hooks of a block whose activations are ``[batch pos d]``."""

UNEMBED_OUT = "unembed.hook_out"

_faces: WeakValueDictionary[int, EncoderDecoder] = WeakValueDictionary()  # one a model, whose edits are kept by it


def encoder_decoder(held: Any) -> EncoderDecoder:
    """TransformerLens' encoder with a decoder as one row of tokens; the same object for the same model.

    Args:
        held: a ``HookedEncoderDecoder``, or a ``TransformerBridge`` around a T5.

    Raises:
        UnsupportedModelError: another kind of encoder with a decoder, or a model that TransformerLens cannot run.
    """
    face = _faces.get(id(held))
    if face is None:
        face = EncoderDecoder(held)
        face.check_runs()
        _faces[id(held)] = face
    return face


@dataclass
class _Run:
    """The forward that is under way.

    Attributes:
        encoder, decoder: how many tokens each reads.
        kept: whether a hook has kept only some positions of the unembedding's input, which its logits are of then.
    """

    encoder: int
    decoder: int
    kept: bool = False


@dataclass(eq=False, repr=False)  # TransformerLens' own would print every module
class EncoderDecoder:
    """A T5 of TransformerLens as one row of tokens; what `load_model` gives for one.

    Attributes:
        held: the ``HookedEncoderDecoder`` or ``TransformerBridge`` itself, with all of its hooks.
        decoder_start: the token that the decoder's part of a row begins with.
        cfg: the model's settings, with all blocks counted.
        blocks: the encoder's blocks, then the decoder's.
        encoder_depth: how many are the encoder's.
    """

    held: Any
    decoder_start: int = field(init=False)
    cfg: Any = field(init=False)
    blocks: list[Any] = field(init=False)
    encoder_depth: int = field(init=False)

    def __post_init__(self) -> None:
        self._encoder, self._decoder = ("encoder_blocks", "decoder_blocks") if hasattr(self.held, "encoder_blocks") else ("encoder", "decoder")
        config = getattr(getattr(self.held, "original_model", None), "config", None) or self.held.cfg
        kind, start = getattr(config, "model_type", "t5"), getattr(config, "decoder_start_token_id", None)
        if kind != "t5" or not hasattr(self.held, self._decoder):
            raise UnsupportedModelError(f"{kind!r} is an encoder with a decoder that is not known here; pass a T5 (also T5 1.1, or Flan-T5).")
        if start is None:
            raise UnsupportedModelError("the model's config names no decoder_start_token_id; set it, which is the padding token's for T5.")
        self.decoder_start = int(start)
        self.blocks = [*getattr(self.held, self._encoder), *getattr(self.held, self._decoder)]
        self.encoder_depth = len(getattr(self.held, self._encoder))
        self._runs: list[_Run] = []
        self.cfg = copy.copy(self.held.cfg)
        self.cfg.n_layers, self.cfg.d_mlp = len(self.blocks), int(self.blocks[0].mlp.W_out.shape[0])
        self.cfg.n_ctx = getattr(config, "n_positions", None) or CONTEXT

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        return self.held.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.held.tokenizer = tokenizer

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return bool(self.held.training)

    @property
    def W_E(self) -> Float[torch.Tensor, "d_vocab d_model"]:  # noqa: N802  # as TransformerLens has it
        """The embedding that encoder and decoder share."""
        return self.held.W_E

    @property
    def unembed(self) -> Any:
        """The decoder's unembedding."""
        return self.held.unembed

    @property
    def hook_dict(self) -> dict[str, Any]:
        """The model's hook points by the names that they have here."""
        there = self.held.hook_dict
        names = [f"blocks.{layer}.{part}" for layer in range(len(self.blocks)) for part in SHOWN] + [UNEMBED_IN, UNEMBED_OUT]
        return {name: there[inner] for name in names if (inner := self._inner(name)) in there}

    def parameters(self) -> Any:
        """The model's own."""
        return self.held.parameters()

    def named_parameters(self) -> Any:
        """The model's own."""
        return self.held.named_parameters()

    def modules(self) -> Any:
        """The model's own."""
        return self.held.modules()

    def eval(self) -> EncoderDecoder:
        """Switch dropout off."""
        self.held.eval()
        return self

    def check_runs(self) -> None:
        """Refuse a model that TransformerLens cannot run, whatever it is that fails.

        Raises:
            UnsupportedModelError: its forward fails.
        """
        tokens = torch.arange(3, device=next(iter(self.parameters())).device)[None]
        try:
            with torch.no_grad():
                self(as_rows(self, tokens))
        except TLKnowledgeError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else "no message"
            raise UnsupportedModelError(
                f"TransformerLens' {type(self.held).__name__} cannot run this encoder with a decoder ({type(error).__name__}: {reason}); "
                "load it by name without backend='bridge', or with TransformerLens 4."
            ) from error

    def __call__(self, input: Any, /, **kwargs: Any) -> Float[torch.Tensor, "batch _ d_vocab"]:
        """Logits of some rows: NaN before the decoder begins; of the kept positions alone where a hook keeps some.

        Raises:
            PromptError: no start token, or in other places in other rows.
            ComponentError: options of TransformerLens' own forward.
        """
        if kwargs:
            raise ComponentError(f"an encoder with a decoder takes no {', '.join(kwargs)} here; run model.held, which is TransformerLens' own.")
        if not isinstance(input, torch.Tensor):  # TransformerLens' other classes take text, too
            raise PromptError("an encoder with a decoder runs on tokens here; pass Prompt.from_text(model, ...).tokens.")
        cut = answered_from(self, input)
        run = _Run(cut, input.shape[1] - cut)
        self._runs.append(run)
        try:
            logits = self._forward(input[:, :cut], input[:, cut:])
        finally:
            self._runs.pop()
        return logits if run.kept else _before(logits, cut, float("nan"))

    def run_with_hooks(self, input: Any, /, *, fwd_hooks: Hooks | None = None, **kwargs: Any) -> Float[torch.Tensor, "batch _ d_vocab"]:
        """The same under some hooks."""
        with self.hooks(fwd_hooks or []):
            return self(input, **kwargs)

    def run_with_cache(self, input: Any, /, *, names_filter: str | Iterable[str] | Callable[[str], bool] | None = None, **kwargs: Any) -> Any:
        """Logits, and activations by hook name: all of `hook_dict`, or those that are asked for."""
        if names_filter is None or callable(names_filter):
            names = [name for name in self.hook_dict if names_filter is None or names_filter(name)]
        else:
            names = [names_filter] if isinstance(names_filter, str) else list(names_filter)
        cache: dict[str, torch.Tensor] = {}

        def keep(name: str) -> HookFn:
            return lambda activation, *, hook: cache.__setitem__(name, activation)

        logits = self.run_with_hooks(input, fwd_hooks=[(name, keep(name)) for name in names], **kwargs)
        return logits, cache

    @contextmanager
    def hooks(self, fwd_hooks: Hooks | None = None, **kwargs: Any) -> Generator[EncoderDecoder]:
        """Some hooks for the length of a ``with``, on runs of this object.

        Raises:
            ComponentError: a hook that is not shown here, or options of TransformerLens' own ``hooks``.
        """
        if kwargs:
            raise ComponentError(f"an encoder with a decoder takes no {', '.join(kwargs)} here; use model.held.hooks(), with its own names.")
        known, given = self.hook_dict, list(fwd_hooks or [])
        for name, _ in given:
            if name not in known:
                raise ComponentError(
                    f"an encoder with a decoder has no hook {name!r} here; it has {', '.join(SHOWN)} of blocks.0 to blocks.{len(self.blocks) - 1}, "
                    f"{UNEMBED_IN} and {UNEMBED_OUT}. All of TransformerLens' own are on model.held, under its names."
                )
        with self.held.hooks(fwd_hooks=[(self._inner(name), self._placed(name, fn)) for name, fn in given]):
            yield self

    def _forward(self, encoder: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
        """The decoder's logits; texts that several rows share are read once, unless a hook could tell these rows apart."""
        texts, rows = encoder.unique(dim=0, return_inverse=True)
        if len(texts) == len(encoder) or self._encoder_is_hooked():
            return self._run_held(encoder, decoder)
        end = "encoder_final_ln.hook_normalized" if self._encoder == "encoder" else "encoder_ln_final.hook_out"
        with self.held.hooks(fwd_hooks=[(end, lambda states, *, hook: states[rows])]):
            return self._run_held(texts, decoder)

    def _encoder_is_hooked(self) -> bool:
        """Whether anything is hooked before the encoder's end."""
        before = ("encoder", "embed.", "hook_embed", "pos_embed.", "hook_pos_embed")
        return any(point.fwd_hooks or point.bwd_hooks for name, point in self.held.hook_dict.items() if name.startswith(before))

    def _run_held(self, encoder: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
        if self._encoder == "encoder":
            # One row for all, in the model's own type: without a mask TransformerLens warns at every run; one of whole numbers is NaN in float64.
            everything = torch.ones_like(encoder[:1], dtype=self.held.cfg.dtype)
            return self.held(encoder, decoder, one_zero_attention_mask=everything)
        return self.held(encoder, decoder_input=decoder)

    def _inner(self, name: str) -> str:
        """A hook's name in the model itself."""
        room, layer, *rest = name.split(".", 2)
        if room != "blocks":
            return name
        of_encoder = int(layer) < self.encoder_depth
        side, number = (self._encoder, int(layer)) if of_encoder else (self._decoder, int(layer) - self.encoder_depth)
        return ".".join([side, str(number), *rest])

    def _placed(self, name: str, fn: HookFn) -> HookFn:
        """A hook that is shown the whole row's positions, and whose values go where the model has them."""
        of_encoder, of_logits = self._inner(name).startswith(self._encoder), name == UNEMBED_OUT

        def placed(activation: torch.Tensor, *, hook: Any) -> torch.Tensor | None:
            if not self._runs:
                raise ModelStateError(f"hook {name} was set through the row of tokens, but model.held was run; run the model itself.")
            run = self._runs[-1]
            if name in (UNEMBED_IN, UNEMBED_OUT) and run.kept:
                return fn(activation, hook=hook)
            shown = _after(activation, run.decoder) if of_encoder else _before(activation, run.encoder, float("nan") if of_logits else 0.0)
            changed = fn(shown, hook=hook)
            if changed is None:
                return None
            if name == UNEMBED_IN and changed.shape[1] != shown.shape[1]:
                run.kept = True
                return changed
            return (changed[:, : run.encoder] if of_encoder else changed[:, run.encoder :]).contiguous()  # as its own modules make them

        return placed


def _before(activation: torch.Tensor, positions: int, value: float) -> torch.Tensor:
    """The activation with so many positions before it."""
    return torch.nn.functional.pad(activation, (0, 0, positions, 0), value=value)


def _after(activation: torch.Tensor, positions: int) -> torch.Tensor:
    """The activation with so many positions of zeros after it."""
    return torch.nn.functional.pad(activation, (0, 0, 0, positions))
