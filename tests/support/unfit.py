"""Models and prompts that no function may work on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

import tl_knowledge as tlk
from support.models import build


def dropout_model() -> Any:
    """In training mode; the test sets it back."""
    model = build("bridge-gpt2")
    model.train()
    return model


def experts_model() -> Any:
    """A block whose MLP has one W_out an expert."""
    real = build("bridge-gpt2")

    class MixtureOfExperts:
        cfg, tokenizer, training = SimpleNamespace(model_name="moe", n_layers=1), None, False
        hook_dict = real.hook_dict
        blocks = (SimpleNamespace(mlp=SimpleNamespace(W_out=torch.zeros(2, 24, 16))),)
        run_with_hooks = run_with_cache = hooks = parameters = modules = named_parameters = __call__ = lambda *a, **k: None

    return MixtureOfExperts()


def bidirectional_model() -> Any:
    """Attends in both directions."""
    model = experts_model()
    model.cfg = SimpleNamespace(model_name="bert", attention_dir="bidirectional")
    return model


def long_prompt() -> tlk.Prompt:
    """One token more than the context has."""
    return tlk.Prompt.from_tokens(torch.zeros(1, 33, dtype=torch.long), subject=range(1, 3), target=5)


def foreign_prompt() -> tlk.Prompt:
    """A token outside the vocabulary."""
    return tlk.Prompt.from_tokens(torch.tensor([[1, 2, 600]]), subject=[1], target=5)
