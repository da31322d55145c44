"""Fixtures that every test shares, and which tests each lane runs (see CONTRIBUTING.md, "Tests")."""

from __future__ import annotations

import logging
import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from support import BUILDERS, MASKED_BUILDERS, VOCABULARY, build, tokenizer_of_sixty_words

import tl_knowledge as tlk

logging.getLogger("transformers").setLevel(logging.ERROR)
logging.getLogger("root").setLevel(logging.ERROR)

_moments: dict[str, tlk.KeyMoments] = {}


@pytest.fixture(params=BUILDERS)
def model(request: pytest.FixtureRequest) -> Any:
    """Every architecture in turn."""
    return build(request.param)


@pytest.fixture(params=MASKED_BUILDERS)
def masked_model(request: pytest.FixtureRequest) -> Any:
    """Every masked architecture in turn."""
    return build(request.param)


@pytest.fixture
def gpt2() -> Any:
    """One small random model, where the architecture does not matter."""
    return build("bridge-gpt2")


@pytest.fixture(scope="session")
def factlm() -> Any:
    """The bundled model."""
    return tlk.load_model("factlm")


@pytest.fixture
def prompt() -> tlk.Prompt:
    """Seven random tokens; the subject is the second and third, the answer three tokens."""
    tokens = torch.randint(0, VOCABULARY, (1, 7), generator=torch.Generator().manual_seed(1))
    return tlk.Prompt.from_tokens(tokens, subject=range(1, 3), target=[5, 6, 9])


@pytest.fixture
def speaking(model: Any) -> Any:
    """Every architecture with a tokenizer of sixty words."""
    before = model.tokenizer
    model.tokenizer = tokenizer_of_sixty_words()
    yield model
    model.tokenizer = before


@pytest.fixture
def texts() -> list[str]:
    """Sixty random texts of those words."""
    draw = torch.Generator().manual_seed(0)
    return [" ".join(f"w{int(i)}" for i in torch.randint(0, 58, (int(n),), generator=draw)) for n in torch.randint(4, 20, (60,), generator=draw)]


@pytest.fixture
def moments(speaking: Any, texts: list[str], request: pytest.FixtureRequest) -> tlk.KeyMoments:
    """Their second moments, of every layer; collected once an architecture."""
    name = request.node.callspec.params["model"]
    if name not in _moments:
        _moments[name] = tlk.collect_key_moments(speaking, texts, progress=False)
    return _moments[name]
