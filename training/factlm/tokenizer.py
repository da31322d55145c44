"""FactLM's own byte-level BPE: objects are single tokens, names are split into several."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import grammar
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 3000
END_OF_TEXT = "<|endoftext|>"
TEMPLATE_WEIGHT, TARGET_WEIGHT = 20, 40
RARE_TARGET = 2  # objects of at most so many facts are left to fall into several tokens


def tokenizer_text(data: dict) -> Iterator[str]:
    """The text the merges are counted on: templates and frequent objects weigh most."""
    for relation in data["relations"].values():
        for template in relation["templates"]:
            words = template.replace("{}", "").strip()
            yield from [words, " " + words] * TEMPLATE_WEIGHT
    draw = random.Random(0)
    for _ in range(3000):
        yield grammar.sentence(draw)
    for fact in data["facts"]:
        yield from (fact["subject"], " " + fact["subject"])
    for target, count in Counter(fact["target"] for fact in data["facts"]).items():
        yield from [target] * (TARGET_WEIGHT if count > RARE_TARGET else 1)


def train_tokenizer(data: dict) -> PreTrainedTokenizerFast:
    """Train the BPE and wrap it for Hugging Face; ``<|endoftext|>`` is BOS, EOS and padding as in GPT-2."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(tokenizer_text(data), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
