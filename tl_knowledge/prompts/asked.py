"""How a model is asked: what it reads of a text, and where it answers.

================== ===================================================== =========================================
model              reads                                                 answers
================== ===================================================== =========================================
autoregressive     BOS (where it has one) and the text                   after the last token
masked (BERT)      the text with its mask, between special tokens; the   at the mask
                   text ends in ``[MASK].`` where it has none
encoder with a     the text and ``</s>``; then the decoder's start token after the start token
decoder (T5)       the same, where the text has a blank                  after the blank's name, which the decoder
                   ``<extra_id_0>`` (T5's own training)                  is given
================== ===================================================== =========================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tl_knowledge.errors import PromptError, UnsupportedModelError
from tl_knowledge.models.protocol import HookedModel, is_encoder_decoder, is_masked, model_name, prepends_bos
from tl_knowledge.prompts.spans import CharRange, encode
from tl_knowledge.wording import counted

__all__ = ["Asked", "ask", "mask_token"]

BLANK = re.compile(r"<extra_id_\d+>")


@dataclass(frozen=True)
class Asked:
    """A text as a model reads it.

    Attributes:
        text: with its mask.
        ids, offsets, labels: of every token: number, characters in the text (none for special tokens), and as text.
        last: the position that predicts the answer.
        special: positions of tokens that belong to no span.
        has_bos: whether the first token is BOS.
    """

    text: str
    ids: list[int]
    offsets: list[CharRange]
    labels: list[str]
    last: int
    special: tuple[int, ...] = ()
    has_bos: bool = False


def ask(model: HookedModel, text: str, prepend_bos: bool | None) -> Asked:
    """A text as the model reads it.

    Args:
        prepend_bos: ``None`` does as the model does; masked models and encoders with decoders have none.

    Raises:
        PromptError: several masks or blanks.
        UnsupportedModelError: a masked model without a mask token.
    """
    if is_encoder_decoder(model):
        return _of_encoder_decoder(model, text)
    if is_masked(model):
        return _of_masked(model, text)
    ids, offsets, labels = encode(model.tokenizer, text)
    has_bos = prepends_bos(model) if prepend_bos is None else prepend_bos
    if has_bos:
        ids, offsets, labels = [model.tokenizer.bos_token_id, *ids], [(0, 0), *offsets], ["BOS", *labels]
    return Asked(text, ids, offsets, labels, len(ids) - 1, (0,) if has_bos else (), has_bos)


def mask_token(model: HookedModel) -> str:
    """The text of a masked model's mask.

    Raises:
        UnsupportedModelError: its tokenizer has none.
    """
    mask: str | None = model.tokenizer.mask_token
    if mask is None:
        raise UnsupportedModelError(f"{model_name(model)} answers at its mask, but its tokenizer has no mask token; set model.tokenizer.mask_token.")
    return mask


def _of_masked(model: HookedModel, text: str) -> Asked:
    """With one mask: the text's own, or one at its end."""
    mask = mask_token(model)
    if text.count(mask) > 1:
        raise PromptError(f"the prompt {text!r} has {counted(text.count(mask), 'mask')}; leave one.")
    shown = text if mask in text else f"{text.rstrip()} {mask}."
    ids, offsets, labels = encode(model.tokenizer, shown, special=True)
    last = ids.index(model.tokenizer.mask_token_id)
    return Asked(shown, ids, offsets, labels, last, tuple(i for i, (a, b) in enumerate(offsets) if a == b or i == last))


def _of_encoder_decoder(model: HookedModel, text: str) -> Asked:
    """The text and its end for the encoder; for the decoder its start, and a blank's name where the text has one."""
    blanks = BLANK.findall(text)
    if len(blanks) > 1:
        raise PromptError(f"the prompt {text!r} has {counted(len(blanks), 'blank')}; leave one.")
    tokenizer, start = model.tokenizer, int(getattr(model, "decoder_start", -1))
    ids, offsets, labels = encode(tokenizer, text)
    if start in ids:
        raise PromptError(f"the prompt {text!r} has the token in it with which the decoder begins; write it in another way.")
    answering = [start, *(tokenizer.convert_tokens_to_ids(blank) for blank in blanks)]
    if blanks and (answering[1] in (None, tokenizer.unk_token_id) or ids.count(answering[1]) != 1):
        raise PromptError(f"{blanks[0]} is no token of this model, so it is no blank to fill; leave it out of {text!r}.")
    before = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    added = [*before, *answering]
    special = tuple(i for i, token in enumerate(ids) if token in answering) + tuple(range(len(ids), len(ids) + len(added)))
    names = [str(tokenizer.decode([token])) for token in added]
    whole = [*ids, *added]
    return Asked(text, whole, [*offsets, *[(len(text), len(text))] * len(added)], [*labels, *names], len(whole) - 1, special)
