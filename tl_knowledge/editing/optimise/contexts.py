"""Context templates: beginnings that the model wrote itself, before which a fact is stated (ROME, section 3.1).

They are drawn once a model and seed, with a generator of our own, so that an edit can be repeated.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel, model_device, prepends_bos

__all__ = ["context_templates"]

TOP_K = 5
STARTS = ("The", "Therefore", "Because", "I", "You")

_drawn: WeakKeyDictionary[object, dict[tuple[str, tuple[tuple[int, int], ...], int], tuple[str, ...]]] = WeakKeyDictionary()


def context_templates(model: HookedModel, lengths: tuple[tuple[int, int], ...], *, seed: int = 0) -> tuple[str, ...]:
    """``"{}"`` and some generated beginnings, each with ``{}`` where the prompt goes.

    Args:
        lengths: pairs of how many tokens and how many templates: ``((5, 10), (10, 10))`` for ROME.
        seed: of the sampling (top-k 5).

    Example:
        >>> import tl_knowledge as tlk
        >>> templates = context_templates(tlk.load_model("factlm"), ((4, 2),))
        >>> templates[0], len(templates), templates[1].endswith(". {}")
        ('{}', 3, True)
    """
    drawn, key = _drawn.setdefault(model, {}), (unedited_fingerprint(model), lengths, seed)
    if key not in drawn:
        generator = torch.Generator().manual_seed(seed)
        texts = [text for length, count in lengths for text in _continuations(model, length, count, generator)]
        drawn[key] = ("{}", *(text.replace("{", "").replace("}", "") + ". {}" for text in texts))
    return drawn[key]


def _continuations(model: HookedModel, length: int, count: int, generator: torch.Generator) -> list[str]:
    """Continuations of the start words in turn, of so many tokens."""
    bos = [model.tokenizer.bos_token_id] if prepends_bos(model) else []
    texts: list[str] = []
    for number in range(count):
        ids = bos + model.tokenizer(STARTS[number % len(STARTS)], add_special_tokens=False)["input_ids"]
        start = len(bos)
        while len(ids) - start < length:
            with torch.no_grad():
                logits: torch.Tensor = model(torch.tensor([ids], device=model_device(model)))
            best = logits[0, -1].float().cpu().topk(TOP_K)
            ids.append(int(best.indices[torch.multinomial(best.values.softmax(-1), 1, generator=generator)]))
        texts.append(model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip())
    return texts
