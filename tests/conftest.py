"""Fixtures that every test shares, and which tests each lane runs.

``make unit`` runs every test once, in four lanes: ``typed`` (docstrings' examples, and one architecture) with the types and shapes of every
call checked (`typed_calls`), without them ``plain`` (units) and ``laws`` (all others), and ``browser``. ``make newest`` runs those marked
``touches_model`` with the newest TransformerLens, each on two of its architectures (``--architectures 2``), which a checksum of its name
chooses. Both marks are given here, by the fixtures that a test uses; a file whose tests reach a model in another way says
``pytestmark = pytest.mark.touches_model``.

Nothing heavy is imported before a test needs it, since xdist's controller reads this file too.
"""

from __future__ import annotations

import gc
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

if TYPE_CHECKING:
    import tl_knowledge as tlk

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests hold models against tensors of their own, on the CPU; for devices there is `make gpu`
logging.getLogger("transformers").setLevel(logging.ERROR)
logging.getLogger("root").setLevel(logging.ERROR)

TYPED = {"model": "bridge-gpt2", "masked_model": "bridge-bert"}
MODEL_FIXTURES = {"model", "masked_model", "gpt2", "factlm", "speaking", "moments", "factlm_moments"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many architectures a test runs on."""
    parser.addoption("--architectures", type=int, metavar="N", help="run each test on N of its architectures: which, a checksum of its name says")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything of the package is imported: how its functions are checked in the typed lane."""
    if config.getoption("jaxtyping_packages"):
        import typed_calls

        typed_calls.install()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``model`` and ``masked_model`` are every architecture in turn."""
    from support.models import BUILDERS, MASKED_BUILDERS

    for fixture, builders in (("model", BUILDERS), ("masked_model", MASKED_BUILDERS)):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, list(builders), indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test the marks of the lanes it belongs to, and leave out the architectures that are not asked for."""
    for item in items:
        if _is_typed(item, _parameters(item)):
            item.add_marker("typed")
        if MODEL_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("touches_model")
    count = config.getoption("architectures")
    if count is not None:
        kept = set(_on_some_architectures(items, count))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def _on_some_architectures(items: list[pytest.Item], count: int) -> Iterator[pytest.Item]:
    """Of each test that every architecture runs, `count`, evenly apart in their order; every other test."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        architecture = _parameters(item).get("model", "")
        tests[item.nodeid.replace(architecture, "*", 1) if architecture else item.nodeid].append(item)
    for name, same in tests.items():
        first, used = crc32(name.encode()) % len(same), min(count, len(same))
        yield from (same[(first + position * len(same) // used) % len(same)] for position in range(used))


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return getattr(getattr(item, "callspec", None), "params", {})


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not walk through torch's million objects again and again."""
    gc.collect()
    gc.freeze()


def _is_typed(item: pytest.Item, parameters: dict[str, Any]) -> bool:
    """Examples in docstrings, and tests on one small architecture; the bundled model's long runs would only take twice as long."""
    if any(item.get_closest_marker(name) for name in ("slow", "browser")):
        return False
    fixtures = set(getattr(item, "fixturenames", ()))
    small = "gpt2" in fixtures or any(parameters.get(name) == architecture for name, architecture in TYPED.items())
    return small or isinstance(item, pytest.DoctestItem)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Any:
    """Every architecture in turn."""
    from support import build

    return build(request.param)


@pytest.fixture
def masked_model(request: pytest.FixtureRequest) -> Any:
    """Every masked architecture in turn."""
    from support import build

    return build(request.param)


@pytest.fixture
def gpt2() -> Any:
    """One small random model, where the architecture does not matter."""
    from support import build

    return build("bridge-gpt2")


@pytest.fixture(scope="session")
def factlm() -> Any:
    """The bundled model."""
    import tl_knowledge as tlk

    return tlk.load_model("factlm")


@pytest.fixture(scope="session")
def factlm_moments(factlm: Any) -> tlk.KeyMoments:
    """The second moments of its layers up to the one after its look-up, which editors of several layers edit as well."""
    from support.places import FACTLM_LAYER

    import tl_knowledge as tlk

    return tlk.collect_key_moments(factlm, tlk.load_corpus(), layers=range(FACTLM_LAYER + 2), progress=False)


@pytest.fixture
def prompt() -> tlk.Prompt:
    """Seven random tokens; the subject is the second and third, the answer three tokens."""
    import torch
    from support import VOCABULARY

    import tl_knowledge as tlk

    tokens = torch.randint(0, VOCABULARY, (1, 7), generator=torch.Generator().manual_seed(1))
    return tlk.Prompt.from_tokens(tokens, subject=range(1, 3), target=[5, 6, 9])


@pytest.fixture
def speaking(model: Any) -> Iterator[Any]:
    """Every architecture with a tokenizer of sixty words."""
    from support import tokenizer_of_sixty_words

    before = model.tokenizer
    model.tokenizer = tokenizer_of_sixty_words()
    yield model
    model.tokenizer = before


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Sixty random texts of those words."""
    import torch

    draw = torch.Generator().manual_seed(0)
    return [" ".join(f"w{int(i)}" for i in torch.randint(0, 58, (int(n),), generator=draw)) for n in torch.randint(4, 20, (60,), generator=draw)]


_moments: dict[str, Any] = {}


@pytest.fixture
def moments(speaking: Any, texts: list[str], request: pytest.FixtureRequest) -> tlk.KeyMoments:
    """Their second moments, of every layer; collected once an architecture."""
    import tl_knowledge as tlk

    name = request.node.callspec.params["model"]
    if name not in _moments:
        _moments[name] = tlk.collect_key_moments(speaking, texts, progress=False)
    return _moments[name]


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """As users run: the test suite's type checker would refuse a wrong word before we do."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
