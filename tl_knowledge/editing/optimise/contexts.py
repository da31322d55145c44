"""Context templates: beginnings that the model wrote itself, before which a fact is stated (ROME, section 3.1).

They are drawn once a model and seed, with a generator of our own, so that an edit can be repeated.
"""

from __future__ import annotations

import unicodedata
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch

from tl_knowledge.errors import InputError
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel, model_device, model_name, prepends_bos

__all__ = ["Beginning", "context_templates"]

Beginning: TypeAlias = Literal["words", "end of text"]
"""What a context begins with: one of MEMIT's five words in turn, or the end-of-text token, which ROME's program counts among its tokens."""

TOP_K = 5
STARTS = ("The", "Therefore", "Because", "I", "You")

_Key: TypeAlias = tuple[str, tuple[tuple[int, int], ...], int, str]

_drawn: WeakKeyDictionary[object, dict[_Key, tuple[str, ...]]] = WeakKeyDictionary()


def context_templates(model: HookedModel, lengths: tuple[tuple[int, int], ...], *, seed: int = 0, beginning: Beginning = "words") -> tuple[str, ...]:
    """``"{}"`` and some generated beginnings, each with ``{}`` where the prompt goes.

    Args:
        lengths: pairs of how many tokens and how many templates: ``((5, 10), (10, 10))`` for ROME.
        seed: of the sampling (top-k 5).
        beginning: what each begins with.

    Raises:
        InputError: the model's tokenizer has no end-of-text token to begin with.

    Example:
        >>> import tl_knowledge as tlk
        >>> templates = context_templates(tlk.load_model("factlm"), ((4, 2),))
        >>> templates[0], len(templates), templates[1].endswith(". {}")
        ('{}', 3, True)
    """
    drawn, settings = _drawn.setdefault(model, {}), (lengths, seed, beginning)
    key = (unedited_fingerprint(model), *settings)
    if key not in drawn:
        key = (weight_fingerprint(model), *settings)  # what an edited model writes is not kept as the model's own
    if key not in drawn:
        generator = torch.Generator().manual_seed(seed)
        write = _continuations if beginning == "words" else _from_end_of_text
        texts = [text for length, count in lengths for text in write(model, length, count, generator)]
        drawn[key] = ("{}", *(text.replace("{", "").replace("}", "") + ". {}" for text in texts))
    return drawn[key]


def _continuations(model: HookedModel, length: int, count: int, generator: torch.Generator) -> list[str]:
    """Continuations of the start words in turn, of so many tokens."""
    bos = [model.tokenizer.bos_token_id] if prepends_bos(model) else []
    texts: list[str] = []
    for number in range(count):
        ids = bos + model.tokenizer(STARTS[number % len(STARTS)], add_special_tokens=False)["input_ids"]
        texts.append(_written(model, ids, len(bos) + length, generator, len(bos)).strip())
    return texts


def _from_end_of_text(model: HookedModel, length: int, count: int, generator: torch.Generator) -> list[str]:
    """What the model writes after its end-of-text token, of so many tokens with it; tidied as in Meng et al.'s program."""
    end: int | None = model.tokenizer.eos_token_id
    if end is None:
        raise InputError(f"the tokenizer of {model_name(model)} has no end-of-text token for contexts to begin with; use variant='ours'.")
    texts = [_written(model, [end], length, generator, 1) for _ in range(count)]
    return [unicodedata.normalize("NFKD", text).replace("\n\n", " ") for text in texts]


def _written(model: HookedModel, ids: list[int], until: int, generator: torch.Generator, start: int) -> str:
    """The text of a continuation that is so many tokens long, from a token on."""
    while len(ids) < until:
        with torch.no_grad():
            logits: torch.Tensor = model(torch.tensor([ids], device=model_device(model)))
        best = logits[0, -1].float().cpu().topk(TOP_K)
        ids.append(int(best.indices[torch.multinomial(best.values.softmax(-1), 1, generator=generator)]))
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True)
