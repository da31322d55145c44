"""What the package needs of a model: an interface, and what is read off it.

Nothing here knows TransformerLens' classes (``loading.py`` is the only door to them). A model is anything that fulfils `HookedModel`, as
``HookedTransformer`` and ``TransformerBridge`` both do.
"""

from __future__ import annotations

from collections.abc import Container, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.errors import ComponentError, PromptError
from tl_knowledge.models.hook_names import Component, component_hook

__all__ = [
    "HookedModel",
    "answered_from",
    "as_rows",
    "attention_input",
    "block_is_at",
    "context_length",
    "embedding_matrix",
    "encoder_depth",
    "has_mlps",
    "hook_names_kept",
    "is_encoder_decoder",
    "is_masked",
    "layer_count",
    "mlp_input",
    "model_device",
    "model_name",
    "prepends_bos",
    "present_hooks",
    "site_hook",
]


@runtime_checkable
class HookedModel(Protocol):
    """The part of TransformerLens' model interface that this package uses."""

    cfg: Any
    tokenizer: Any
    blocks: Any

    @property
    def training(self) -> bool: ...

    @property
    def hook_dict(self) -> dict[str, Any]: ...

    def __call__(self, input: Any, /, **kwargs: Any) -> Any: ...

    def run_with_hooks(self, input: Any, /, *, fwd_hooks: Hooks = ..., **kwargs: Any) -> Any: ...

    def run_with_cache(self, input: Any, /, **kwargs: Any) -> Any: ...

    def hooks(self, fwd_hooks: Hooks = ..., **kwargs: Any) -> AbstractContextManager[Any]: ...

    def parameters(self) -> Any: ...

    def named_parameters(self) -> Any: ...

    def modules(self) -> Any: ...

    @classmethod
    def __subclasshook__(cls, subclass: type, /) -> bool:
        """By what the class can do: since Python 3.12 ``isinstance`` does not see what a PyTorch module keeps among its modules, as ``blocks``."""
        return NotImplemented if cls is not HookedModel else all(hasattr(subclass, method) for method in METHODS)


PARTS = ("cfg", "tokenizer", "blocks", "hook_dict")
"""What a model has besides its methods; other hooked modules of TransformerLens have not."""

METHODS = ("run_with_hooks", "run_with_cache", "hooks", "modules", "named_parameters")

_kept_names: ContextVar[tuple[HookedModel, Container[str]] | None] = ContextVar("a model's hooks", default=None)


@contextmanager
def hook_names_kept(model: HookedModel) -> Generator[None]:
    """For the length of a ``with``, look once which hooks a model has: a bridge finds them anew at every look, which takes milliseconds."""
    token = _kept_names.set((model, frozenset(model.hook_dict)))
    try:
        yield
    finally:
        _kept_names.reset(token)


def present_hooks(model: HookedModel) -> Container[str]:
    """The hooks that a model has."""
    kept = _kept_names.get()
    return kept[1] if kept is not None and kept[0] is model else model.hook_dict


def mlp_input(model: HookedModel, layer: int) -> str | None:
    """The hook of what a block's MLP reads, ``[batch pos d_model]``; ``None`` where the model has none."""
    there = present_hooks(model)
    return next((name for name in (f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.ln2.hook_normalized") if name in there), None)


def site_hook(model: HookedModel, component: Component, layer: int) -> str:
    """The hook of a component in a layer of this model.

    Raises:
        ComponentError: what an MLP reads, on a model that shows it nowhere.
    """
    name = mlp_input(model, layer) if component == "mlp_in" else component_hook(component, layer)
    if name is None:
        raise ComponentError(f"{model_name(model)} shows nowhere what its MLPs read; pass another component, such as 'resid_pre' or 'mlp_out'.")
    return name


def attention_input(model: HookedModel, layer: int) -> str | None:
    """The hook of what a block's attention reads, where queries, keys and values are projected position by position.

    ``None`` on bridges (Hugging Face's attention reshapes by the input's shape) and under TransformerLens' split inputs.
    """
    name = f"blocks.{layer}.ln1.hook_normalized"
    split = any(getattr(model.cfg, flag, False) for flag in ("use_split_qkv_input", "use_attn_in", "use_attn_result"))
    there = present_hooks(model)
    return name if name in there and f"blocks.{layer}.attn.hook_in" not in there and not split else None


def has_mlps(model: HookedModel) -> bool:
    """Whether any block is more than attention."""
    return not all(getattr(block, "mlp", None) is None and hasattr(block, "attn") for block in model.blocks)


def layer_count(model: HookedModel) -> int:
    """Number of blocks."""
    return int(model.cfg.n_layers)


def context_length(model: HookedModel) -> int:
    """Longest prompt, in tokens."""
    return int(model.cfg.n_ctx)


def model_device(model: HookedModel) -> torch.device:
    """Where the model's first parameter is."""
    return next(iter(model.parameters())).device


def prepends_bos(model: HookedModel) -> bool:
    """Whether prompts start with a beginning-of-sequence token unless a caller says no."""
    has_bos = getattr(model.tokenizer, "bos_token_id", None) is not None
    return has_bos and bool(getattr(model.cfg, "default_prepend_bos", True))


def embedding_matrix(model: HookedModel) -> Float[torch.Tensor, "d_vocab d_model"]:
    """The token embeddings, one row a vocabulary entry, as the weights hold them."""
    weights: torch.Tensor = model.W_E  # pyright: ignore  # a property of both classes
    return weights.detach()


def is_masked(model: HookedModel) -> bool:
    """Whether the model reads in both directions and fills masks (BERT)."""
    if is_encoder_decoder(model):  # its decoder answers, from left to right
        return False
    # Bridges call BERT's attention causal, so the architecture's name counts too.
    names = [str(getattr(model.cfg, name, "")) for name in ("architecture", "original_architecture")]
    return getattr(model.cfg, "attention_dir", "causal") != "causal" or any(name.endswith("MaskedLM") for name in names)


def is_encoder_decoder(model: HookedModel) -> bool:
    """Whether one part of the model reads a text and another answers it (T5); see `tl_knowledge.models.encoder_decoder`."""
    return _decoder_start(model) is not None


def answered_from(model: HookedModel, tokens: Tokens) -> int:
    """The first position whose logits say something: 0, and where the decoder begins in an encoder with a decoder.

    Args:
        tokens: ``[batch pos]``.

    Raises:
        PromptError: nothing for the encoder to read, no decoder's start token, or in other places in other rows.
    """
    start = _decoder_start(model)
    if start is None:
        return 0
    begins = tokens == start
    places = begins.int().argmax(1)
    if not bool(begins.any(1).all()) or not bool((places == places[0]).all()) or int(places[0]) == 0:
        raise PromptError(
            f"the rows of an encoder with a decoder are a text, then token {start}, with which the decoder begins, in the same place in every row; "
            "make prompts with Prompt.from_fact(model, ...) or Prompt.from_text(model, ...)."
        )
    return int(places[0])


def encoder_depth(model: HookedModel) -> int:
    """How many of the blocks are an encoder's, which come first; none where the model has no decoder beside it."""
    return int(getattr(model, "encoder_depth", 0))


def block_is_at(model: HookedModel, layer: int, position: int, first: int) -> bool:
    """Whether a block has activations at a position: in an encoder with a decoder, each side on its own.

    Args:
        first: where the decoder begins (`answered_from`).
    """
    return not is_encoder_decoder(model) or (layer < encoder_depth(model)) == (position < first)


def as_rows(model: HookedModel, tokens: Tokens) -> Int[torch.Tensor, "batch _"]:
    """Any tokens as rows that the model can be run on: themselves; for an encoder with a decoder, which reads them twice, with its start between."""
    start = _decoder_start(model)
    if start is None:
        return tokens
    read = torch.where(tokens == start, (start + 1) % int(model.cfg.d_vocab), tokens)
    return torch.cat([read, torch.full_like(tokens[:, :1], start), read], dim=1)


def _decoder_start(model: HookedModel) -> int | None:
    start: int | None = getattr(model, "decoder_start", None)
    return start


def model_name(model: HookedModel) -> str:
    """The model's name, or its class's where it has none."""
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)
