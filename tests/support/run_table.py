"""What runs where: every hook factory and every editing method, called, in ``generate`` without and with a key-value cache, and in bfloat16.

Each cell is measured on tiny random models of both of TransformerLens' classes against a loop of whole forwards. `support.run_page` writes
``docs/what_runs_where.md`` of it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, get_type_hints

import torch

import tl_knowledge as tlk
from support import BUILDERS, build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import ready
from support.models import HARD_BUILDERS
from tl_knowledge.editing import METHODS, RereadEdit, method_class
from tl_knowledge.errors import TLKnowledgeError

FACT = tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11", paraphrases=("w2 {} w4",)).retarget(" w9 w2")
TEXTS = [" ".join(f"w{(7 * i + 3 * k) % 57}" for i in range(12)) for k in range(40)]
STEPS = 4
GREEDY = {"max_new_tokens": STEPS, "do_sample": False, "stop_at_eos": False, "return_type": "tokens", "verbose": False}
BEFORE_UNEMBEDDING = "ln_final.hook_normalized"
FAR = 6  # how many times as far as the plain model is a run in bfloat16 may be from float64: what is written is rounded too, and passed on
CLOSE = 1e-6  # some models take norms and softmax in float32, whatever their weights are

MODELS = {name: "bridge" if name.startswith("bridge") else "HookedTransformer" for name in ("bridge-gpt2", "bridge-llama", "ht-gpt2", "ht-llama")}
"""The models that stand for each of TransformerLens' classes."""

Outcome = dict[str, str]


def _clean(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.run_with_cache(_tokens(), return_type=None)[1].items())


def _state(model: Any) -> torch.Tensor:
    return torch.linspace(-2, 2, int(model.cfg.d_model), dtype=next(iter(model.parameters())).dtype)


def _patched(model: Any, position: int) -> Any:
    basis = torch.linalg.qr(torch.randn(int(model.cfg.d_model), 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    return tlk.hooks.patch_subspace(basis.to(_state(model)), _state(model), component="resid_post", layer=1, positions=position)


NEURONS = [(layer, neuron) for layer in range(3) for neuron in range(16)]
FACTORIES: dict[str, Callable[[Any], Any]] = {
    "`corrupt`": lambda model: tlk.corrupt([1, 2], tlk.GaussianNoise(1.0, seed=0)),
    "`restore`": lambda model: tlk.restore(_other(model), "resid_post", layers=1, positions=2),
    "`sever`": lambda model: tlk.sever(_other(model), ("mlp_out", "attn_out"), layers=range(3), positions=2),
    "`knock_out_attention`": lambda model: tlk.knock_out_attention(4, [1, 2], layers=range(4)),
    "`scale_neurons`, everywhere": lambda model: tlk.scale_neurons(NEURONS, 0.0),
    "`scale_neurons`, at a position of the prompt": lambda model: tlk.scale_neurons(NEURONS, 3.0, positions=2),
    "`scale_neurons`, at the last position": lambda model: tlk.scale_neurons(NEURONS, 3.0, positions=-1),
    "`ablate`, everywhere": lambda model: tlk.ablate(modules=[(1, "mlp_out"), (2, "attn_out")]),
    "`ablate` by the mean, everywhere": lambda model: tlk.ablate(modules=(1, "mlp_out"), by="mean", recorded=_clean(model)),
    "`ablate`, at a position of the prompt": lambda model: tlk.ablate(modules=[(1, "mlp_out"), (2, "attn_out")], positions=2),
    "`ablate`, at the last position": lambda model: tlk.ablate(modules=[(1, "mlp_out"), (2, "attn_out")], positions=-1),
    "`states.write_states`, at a position of the prompt": lambda model: tlk.states.write_states(_state(model), layer=1, positions=2),
    "`states.write_states`, at the last position": lambda model: tlk.states.write_states(_state(model), layer=1, positions=-1),
    "`relations.add_vector`, at a position of the prompt": lambda model: tlk.relations.add_vector(_state(model), layer=1, positions=2),
    "`relations.add_vector`, at the last position": lambda model: tlk.relations.add_vector(_state(model), layer=1, positions=-1),
    "`patch_subspace`, at a position of the prompt": lambda model: _patched(model, 2),
    "`patch_subspace`, at the last position": lambda model: _patched(model, -1),
}
"""By what the page calls it: plain hooks for a prompt of five tokens."""

FORWARD, GENERATE, CACHED, HALF = "a forward", "`generate`, no cache", "`generate`, cache", "bfloat16"
RUNS = (FORWARD, GENERATE, CACHED, HALF)


def _tokens() -> torch.Tensor:
    """The fact's prompt, and seven rows of the same length."""
    draw = torch.randint(0, 57, (7, 5), generator=torch.Generator().manual_seed(2))
    return torch.cat([torch.tensor([[1, 3, 9, 4, 8]]), draw])


def _other(model: Any) -> dict[str, torch.Tensor]:
    """Activations of other tokens, which are what a restored or severed state is taken from here."""
    return dict(model.run_with_cache(_tokens().flip(1), return_type=None)[1].items())


def _loop(model: Any, hooks: Callable[[int], list[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens by whole forwards, and what was unembedded for each of them; hooks may depend on how many tokens there are."""
    tokens, states = _tokens(), list[torch.Tensor]()
    for _ in range(STEPS):
        with torch.no_grad():
            seen: list[torch.Tensor] = []
            logits = model.run_with_hooks(
                tokens, fwd_hooks=[*hooks(tokens.shape[1]), (BEFORE_UNEMBEDDING, lambda x, *, hook, seen=seen: seen.append(x[:, -1].clone()))]
            )
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        states.append(seen[-1])
    return tokens, torch.stack(states)


def _generated(model: Any, hooks: list[Any], cache: bool) -> tuple[torch.Tensor, torch.Tensor]:
    states: list[torch.Tensor] = []
    watch = (BEFORE_UNEMBEDDING, lambda x, *, hook: states.append(x[:, -1].clone()))
    with torch.no_grad(), model.hooks(fwd_hooks=[*hooks, watch]):
        tokens = model.generate(_tokens(), use_past_kv_cache=cache, **GREEDY)
    return tokens, torch.stack(states[-STEPS:])


def _same(ours: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    gap, size = float((ours[1] - expected[1]).abs().max()), float(expected[1].abs().max())
    if not gap <= CLOSE * size:
        raise AssertionError(f"states differ by {gap / size:.1%}")
    if not torch.equal(ours[0], expected[0]):
        raise AssertionError("other tokens")


def _acts(changed: torch.Tensor, plain: torch.Tensor, least: float) -> None:
    """A run in which nothing happens would agree with everything."""
    if not float((changed - plain).abs().max()) > least:
        raise AssertionError("nothing happens, so nothing is compared")


def _called(model: Any, hooks: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return model.run_with_hooks(_tokens(), fwd_hooks=hooks).double()


def _half(model: Any) -> Any:
    """The same model in bfloat16."""
    half = torch.nn.Module.to(copy.deepcopy(model), torch.bfloat16)  # HookedTransformer's own to() prints
    half.cfg.dtype = torch.bfloat16
    return half


def factory_outcomes(model: Any, row: str) -> Outcome:
    """What hooks do in each kind of run: ``yes``, ``refused: error class``, or what is wrong."""
    make = FACTORIES[row]

    def forward() -> None:
        plain, hooked = _called(model, []), _called(model, make(model))
        with torch.no_grad(), model.hooks(fwd_hooks=make(model)):
            inside = model(_tokens()).double()
        _acts(hooked, plain, 1e-3)
        if not torch.equal(hooked, inside) or not torch.equal(_called(model, []), plain):
            raise AssertionError("model.hooks() differs, or something is left behind")

    def generate(cached: bool) -> None:
        _same(_generated(model, make(model), cached), _loop(model, lambda _: make(model)))

    def half() -> None:
        small = _half(model)
        rounding = float((_called(small, []) - _called(model, [])).abs().max())
        hooked, exact = _called(small, make(small)), _called(model, make(model))
        _acts(exact, _called(model, []), 2 * FAR * rounding)
        if not float((hooked - exact).abs().max()) <= FAR * rounding:
            raise AssertionError("further from float64 than rounding")

    return _outcomes(forward, generate, half)


def _continued(edit: Any, model: Any, row: torch.Tensor) -> torch.Tensor:
    """A row with what follows it, by whole forwards of what the edit reads in its place; the prompt decides who answers."""
    read = edit.reads(model, row)
    own = row.tolist() if read.first is None else [read.first, *row[1:].tolist()]
    tokens = torch.tensor([read.context.tolist() + own])
    for _ in range(STEPS):
        with torch.no_grad():
            tokens = torch.cat([tokens, read.model(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return torch.cat([row, tokens[0, -STEPS:]])


def _is_read(name: str) -> bool:
    return issubclass(get_type_hints(method_class(name).plan)["return"], RereadEdit)


def _planned(model: Any, name: str) -> Any:
    method = method_class(name).small()
    moments = tlk.collect_key_moments(model, TEXTS, progress=False) if method.needs_moments else None
    return tlk.plan_edit(model, FACT, ready(method, model), moments=moments)


def _applied(model: Any, edit: Any) -> torch.Tensor:
    with torch.no_grad(), edit.applied(model):
        return model(_tokens()).double()


def _edited(model: Any, name: str) -> None:
    """An edit acts, is the same as hooks and as weights, and leaves nothing behind."""
    before = fingerprint(model), hooks_left(model)  # some bridges carry hooks of TransformerLens' own
    plain, edit = _called(model, []), _planned(model, name)
    applied = _applied(model, edit)
    _acts(applied, plain, 1e-6)
    if not _is_read(name):
        torch.testing.assert_close(_called(model, edit.hooks()), applied, rtol=CLOSE, atol=CLOSE)
    if (fingerprint(model), hooks_left(model)) != before:
        raise AssertionError("something is left behind")


def method_outcomes(model: Any, name: str) -> Outcome:
    """What an edit by a method does in each kind of run: as hooks against written weights, where it has hooks; then the loop."""
    read = _is_read(name)
    planned = cache(partial(_planned, name=name))

    def generate(cached: bool) -> None:
        edit = planned(model)
        if read:  # whatever looks inside is refused, so that tokens alone are compared
            expected = torch.stack([_continued(edit, model, row) for row in _tokens()])
            with edit.applied(model):
                if not torch.equal(model.generate(_tokens(), use_past_kv_cache=cached, **GREEDY), expected):
                    raise AssertionError("other tokens")
            return
        with edit.applied(model):
            expected = _loop(model, lambda _: [])
            _same(_generated(model, [], cached), expected)
        _same(_generated(model, edit.hooks(), cached), expected)

    def half() -> None:
        small = _half(model)
        rounding = float((_called(small, []) - _called(model, [])).abs().max())
        edit, plain = planned(small), _called(small, [])
        applied = _applied(small, edit)
        if not bool(applied.isfinite().all()):
            raise AssertionError("not finite")
        _acts(applied, plain, 0.0)
        if not read and not float((_called(small, edit.hooks()) - applied).abs().max()) <= FAR * rounding:
            raise AssertionError("hooks are further from written weights than rounding")
        if not torch.equal(_called(small, []), plain):
            raise AssertionError("something is left behind")

    return _outcomes(partial(_edited, model, name), generate, half)


def _outcomes(forward: Callable[[], None], generate: Callable[[bool], None], half: Callable[[], None]) -> Outcome:
    runs = {FORWARD: forward, GENERATE: lambda: generate(False), CACHED: lambda: generate(True), HALF: half}
    return {run: _outcome(check) for run, check in runs.items()}


def _outcome(check: Callable[[], None]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
            return "yes"
    except TLKnowledgeError as error:
        return f"refused: {type(error).__name__}"
    except AssertionError as error:
        return f"WRONG: {str(error).splitlines()[0]}"
    except Exception as error:
        return f"CRASH: {type(error).__name__}: {str(error)[:80]}"


def outcomes(row: str, name: str) -> Outcome:
    """All runs of a row of the page on one model."""
    if name not in BUILDERS:
        return dict.fromkeys(RUNS, "absent")
    with _speaking(name) as model:
        return factory_outcomes(model, row) if row in FACTORIES else method_outcomes(model, row)


def edits_on(name: str) -> Outcome:
    """By method: whether an edit can be planned and applied on a model, and is the same as hooks and as weights."""
    if name not in BUILDERS | HARD_BUILDERS:
        return dict.fromkeys(METHODS, "absent")
    with _speaking(name) as model:
        return {method: _outcome(partial(_edited, model, method)) for method in METHODS}


@contextmanager
def _speaking(name: str) -> Iterator[Any]:
    """A model with a tokenizer, and afterwards as it was."""
    model = build(name)
    before, model.tokenizer = model.tokenizer, tokenizer_of_sixty_words()
    yield model
    model.tokenizer = before
