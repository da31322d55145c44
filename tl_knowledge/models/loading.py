"""Loading models: the only door to TransformerLens' classes.

`load_model` takes the bundled model, any Hugging Face id or local directory, or a model that the caller already has. What it returns has passed
every check: it is in evaluation mode, its weights have no gradients, and dtype and device are the wanted ones.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import transformer_lens
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, T5ForConditionalGeneration

from tl_knowledge.errors import DataError, TLKnowledgeError, UnsupportedModelError, check_choice
from tl_knowledge.models.bundled import BUNDLED, bundled_tokenizer, is_bundled, load_tokenizer
from tl_knowledge.models.checks import check_model, has_encoder_and_decoder
from tl_knowledge.models.complete import every_tensor_loaded, randomness_kept
from tl_knowledge.models.encoder_decoder import EncoderDecoder, encoder_decoder
from tl_knowledge.models.hooked_directories import check_same_logits, hooked_shape
from tl_knowledge.models.protocol import HookedModel, as_rows
from tl_knowledge.models.quiet import loading_quietly
from tl_knowledge.models.t5 import t5_settings, t5_weights

__all__ = ["AnyModel", "Backend", "as_model", "bridge_of", "hooked_transformer_available", "load_model"]

AnyModel: TypeAlias = HookedModel | str | os.PathLike[str]
"""A model, or its name or directory."""

Backend: TypeAlias = Literal["auto", "hooked_transformer", "bridge"]
"""Which of TransformerLens' classes holds the model."""


def load_model(
    model: AnyModel,
    *,
    backend: Backend = "auto",
    process_weights: bool = False,
    prepend_bos: bool | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    requires_grad: bool = False,
) -> HookedModel:
    """Load a model, or check one the caller already has.

    Args:
        model: ``"factlm"`` or ``"factlm-llama"`` (bundled), a Hugging Face id, a local directory in Hugging Face format, or a
            ``HookedTransformer`` / ``TransformerBridge``. A model object is checked and returned as it is, but an encoder with a decoder
            (T5), which comes back as one row of tokens (`EncoderDecoder`), the same object every time; the other arguments apply to
            names and directories only.
        backend: ``"auto"`` takes ``HookedTransformer`` where the installed TransformerLens has the model, the bridge
            otherwise (TransformerLens 4 has the bridge only).
        process_weights: fold the LayerNorms and centre the writing weights, as TransformerLens does by default. Off
            here, because published constants of tracing and editing belong to the raw weights.
        prepend_bos: whether prompts start with a beginning-of-sequence token; ``None`` keeps the model's default. Every
            result records the choice.
        device: ``None`` takes CUDA when there is one.
        dtype: of the weights.
        requires_grad: leave gradients on for the weights.

    Raises:
        DataError: the name or directory cannot be loaded, or lacks some of the weights.
        InputError: an unknown backend.
        UnsupportedModelError: a backend that the installed TransformerLens does not have, or a model that no method here can work on.

    Example:
        >>> model = load_model("factlm")
        >>> model.cfg.n_layers
        8
    """
    check_choice("backend", backend, Backend)
    if not isinstance(model, str | os.PathLike):
        return _checked(model)
    name = os.fspath(model)
    load = _load_bridge if _resolve_backend(name, backend) == "bridge" else _load_hooked_transformer
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with loading_quietly(), randomness_kept(), every_tensor_loaded(name):
            loaded = load(name, process_weights=process_weights, device=device, dtype=dtype)
    except TLKnowledgeError:
        raise
    except Exception as error:  # of transformers, safetensors and TransformerLens, whatever is wrong with the files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"cannot load model {name!r}: {reason}; "
            "pass 'factlm', 'factlm-llama', a Hugging Face id, or a directory with config.json, weights and tokenizer."
        ) from error
    loaded.eval()
    for parameter in loaded.parameters():
        parameter.requires_grad_(requires_grad)
    if prepend_bos is not None:
        loaded.cfg.default_prepend_bos = prepend_bos
    if is_bundled(name):
        loaded.cfg.model_name = name
    return _checked(loaded)


def _checked(model: Any) -> HookedModel:
    """A model that some method here can work on; an encoder with a decoder as one row of tokens."""
    if has_encoder_and_decoder(model) and not isinstance(model, EncoderDecoder):
        model = encoder_decoder(model)
    return check_model(model, masked=True, encoder_decoder=True)


def as_model(model: AnyModel, *, masked: bool = False, without_mlps: bool = False, encoder_decoder: bool = False) -> HookedModel:
    """A model that the methods can work on, from a model, a name or a directory; the last model that was loaded by name is kept.

    Args:
        masked, without_mlps, encoder_decoder: whether a masked model, one of attention alone, or an encoder with a decoder will do.

    Raises:
        DataError, ModelError: as `load_model`.

    Example:
        >>> as_model("factlm") is as_model("factlm")
        True
    """
    loaded = _loaded(os.fspath(model)) if isinstance(model, str | os.PathLike) else model
    return check_model(loaded, masked=masked, without_mlps=without_mlps, encoder_decoder=encoder_decoder)


@lru_cache(maxsize=1)
def _loaded(name: str) -> HookedModel:
    return load_model(name)


def bridge_of(module: torch.nn.Module, architecture: str, tokenizer: Any, dtype: torch.dtype) -> HookedModel:
    """A bridge around a Hugging Face module that the caller made; the module is held, not copied.

    Raises:
        ModelError: as `load_model`.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    held: Any = module
    held.set_attn_implementation("eager")  # as TransformerLens loads them
    with loading_quietly(), randomness_kept():
        bridge: Any = build_bridge_from_module(module, architecture, hf_config=held.config, tokenizer=tokenizer, dtype=dtype)
    return _checked(bridge.eval())


def hooked_transformer_available() -> bool:
    """Whether the installed TransformerLens still has ``HookedTransformer``."""
    return _hooked_transformer_class() is not None


def _hooked_transformer_class() -> Any | None:
    """The class, or ``None`` in TransformerLens 4 (where even ``hasattr`` raises ImportError)."""
    try:
        return transformer_lens.HookedTransformer
    except (ImportError, AttributeError):
        return None


def _resolve_backend(name: str, backend: Backend) -> Literal["hooked_transformer", "bridge"]:
    """The backend that loads this model in the installed TransformerLens."""
    if backend == "bridge":
        return "bridge"
    available = hooked_transformer_available()
    if backend == "hooked_transformer":
        if not available:
            raise UnsupportedModelError(
                "the installed TransformerLens has no HookedTransformer (4.0 removed it); pass backend='bridge' or install transformer-lens<4."
            )
        return "hooked_transformer"
    return "hooked_transformer" if available and _known_to_hooked_transformer(name) else "bridge"


def _local_directory(name: str) -> Path | None:
    path = BUNDLED.get(name, Path(name))
    try:
        return path if (path / "config.json").is_file() else None
    except (OSError, ValueError):  # no path at all: too long, or with a null character
        return None


def _own_tokenizer(name: str) -> Any | None:
    """The bundled models' tokenizer for the one that has none beside it; ``None`` for a model that brings its own."""
    return bundled_tokenizer() if is_bundled(name) and not (BUNDLED[name] / "tokenizer.json").is_file() else None


def _known_to_hooked_transformer(name: str) -> bool:
    """Whether one of TransformerLens' own classes takes it: ``HookedTransformer``, BERT's, or T5's."""
    directory = _local_directory(name)
    if is_bundled(name):
        return True
    if directory is not None:
        return AutoConfig.from_pretrained(directory).model_type in ("gpt2", "t5")
    return _official_name(name) is not None or _t5_source(name) is not None


def _official_name(name: str) -> str | None:
    """The hub's name of a model that ``HookedTransformer`` knows, also by a short name of TransformerLens' own."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return get_official_model_name(name)
    except ValueError:
        return None


def _t5_source(name: str) -> str | None:
    """Where a T5's weights are: a directory or a hub's name; ``None`` for another model."""
    source, official = _local_directory(name), _official_name(name)
    if source is None and official is not None:
        return official if "/t5-" in official else None
    try:
        return str(source or name) if AutoConfig.from_pretrained(source or name).model_type == "t5" else None
    except (OSError, ValueError):  # no such model, which loading it will say
        return None


def _load_bridge(name: str, *, process_weights: bool, device: str | torch.device, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    directory = _local_directory(name)
    bridge: Any = TransformerBridge.boot_transformers(str(directory or name), device=device, dtype=dtype, tokenizer=_own_tokenizer(name))
    if process_weights:
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


def _load_hooked_transformer(name: str, *, process_weights: bool, device: str | torch.device, dtype: torch.dtype) -> Any:
    hooked_transformer = _hooked_transformer_class()
    assert hooked_transformer is not None
    directory, t5 = _local_directory(name), _t5_source(name)
    if t5 is not None:
        return _hooked_encoder_decoder(t5, device, dtype)
    if directory is not None:
        if not is_bundled(name) and AutoConfig.from_pretrained(directory).model_type != "gpt2":
            raise UnsupportedModelError(f"{str(directory)!r} is no GPT-2 model; local directories of other families need backend='bridge'.")
        tokenizer = _own_tokenizer(name) or load_tokenizer(directory)
        return _hooked_from_directory(hooked_transformer, directory, tokenizer, process_weights, device, dtype)
    if "/bert-" in (_official_name(name) or ""):  # TransformerLens' own short names, which no hub knows, are resolved here too
        return transformer_lens.HookedEncoder.from_pretrained(name, device=str(device), dtype=dtype)
    load = hooked_transformer.from_pretrained if process_weights else hooked_transformer.from_pretrained_no_processing
    return load(name, device=device, dtype=dtype)


def _hooked_from_directory(
    hooked_transformer: Any, directory: Path, tokenizer: Any, process_weights: bool, device: str | torch.device, dtype: torch.dtype
) -> Any:
    """A ``HookedTransformer`` of a GPT-2, or of the LLaMA in the package, without any hub.

    Raises:
        UnsupportedModelError: the LLaMA has other logits than Hugging Face's.
    """
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
    from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights

    source: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    llama = source.config.model_type == "llama"
    named: dict[str, Any] = {"model_name": directory.name, "tokenizer_name": str(tokenizer.name_or_path), "device": str(device), "dtype": dtype}
    norm = ("RMS" if llama else "LN") + ("Pre" if process_weights else "")
    settings = HookedTransformerConfig(**hooked_shape(source.config), **named, normalization_type=norm)
    model = hooked_transformer(settings, tokenizer=tokenizer)
    model.load_and_process_state_dict(
        (convert_llama_weights if llama else convert_gpt2_weights)(source, settings),
        fold_ln=process_weights,
        center_writing_weights=process_weights and not llama,  # RMSNorm does not take the mean away
        center_unembed=process_weights,
        fold_value_biases=process_weights,
    )
    if llama:
        check_same_logits(model, source, str(directory))
    return model


def _hooked_encoder_decoder(source: str, device: str | torch.device, dtype: torch.dtype) -> Any:
    """A ``HookedEncoderDecoder`` of any T5, whose logits are held against Hugging Face's.

    Raises:
        UnsupportedModelError: they differ.
    """
    from transformer_lens import HookedEncoderDecoder, HookedTransformerConfig

    module: Any = T5ForConditionalGeneration.from_pretrained(source, dtype=dtype).eval()
    named: dict[str, Any] = {"model_name": source.rstrip("/").split("/")[-1], "tokenizer_name": source, "device": "cpu", "dtype": dtype}
    settings = HookedTransformerConfig(**t5_settings(module.config), **named)
    model: Any = HookedEncoderDecoder(settings, tokenizer=AutoTokenizer.from_pretrained(source), move_to_device=False)
    biases = {name: torch.zeros_like(held) for name, held in model.named_parameters() if name.split(".")[-1].startswith("b_")}
    model.load_state_dict({**dict(model.named_buffers()), **biases, **t5_weights(module)}, strict=True)
    row = encoder_decoder(model)
    tokens = as_rows(row, torch.arange(12)[None] * 7 % settings.d_vocab)
    with torch.no_grad():
        ours, theirs = row(tokens)[:, 12:], module(input_ids=tokens[:, :12], decoder_input_ids=tokens[:, 12:]).logits
    rounding = max(torch.finfo(dtype).eps ** 0.5, 1e-5)  # Hugging Face takes T5's norms in float32 whatever the weights are
    if not torch.allclose(ours, theirs, rtol=0, atol=rounding * float(theirs.abs().max())):
        raise UnsupportedModelError(f"HookedEncoderDecoder gives other logits than Hugging Face's {source!r}; pass backend='bridge'.")
    row.cfg.device = model.cfg.device = str(device)  # both run on the processor until here
    return model.to(device)
