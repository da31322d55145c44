"""One network held twice, by us and by Hugging Face's class, and what every program is asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from trace_engines import SHAPES
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import tl_knowledge as tlk
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.models.bundled import FACTLM_DIRECTORY

CASE, EDITS = 6, range(20)  # "Albert Camus took up work in": seven tokens
SPREAD = 0.05  # of random weights: answers are then less alike than with Hugging Face's 0.02


@dataclass(frozen=True, eq=False)
class Work:
    """What all programs are given.

    Attributes:
        model: ours, from the same files as
        network: Hugging Face's module, without gradients for its weights, with PyTorch's fused attention.
        tokenizer: the network's; it puts no BOS before a text, and no program here does.
        fact: what is traced, attributed and edited by ROME; `facts` what MEMIT edits.
        layers: those whose restorations the loops run; ours always traces all of them.
        noise: the standard deviation, on the subject's embeddings.
    """

    model: Any
    network: GPT2LMHeadModel
    tokenizer: Any
    fact: tlk.Fact
    facts: tuple[tlk.Fact, ...]
    rome: tlk.ROME
    memit: tlk.MEMIT
    moments: tlk.KeyMoments
    layers: range
    noise: float
    samples: int = 10
    steps: int = 20

    @property
    def prompt(self) -> tlk.Prompt:
        return tlk.Prompt.from_fact(self.model, self.fact)

    @property
    def tokens(self) -> torch.Tensor:
        """The prompt's, ``[1 pos]``, by the network's own tokenizer."""
        return self.tokenizer(self.fact.text, return_tensors="pt").input_ids

    @property
    def subject(self) -> list[int]:
        """Positions of the subject's tokens, counted as the published programs do: as many as the text up to its end has."""
        before, _, _ = self.fact.template.partition("{}")
        start, end = (len(self.tokenizer(text).input_ids) for text in (before.rstrip(), before + self.fact.subject))
        return list(range(start, end))

    @property
    def answer(self) -> int:
        return int(self.tokenizer(self.fact.target).input_ids[0])

    def drawn_noise(self) -> torch.Tensor:
        """Of every sample, ``[sample token d_model]``: the stream of Meng et al.'s program, which ours draws under that variant."""
        shape = torch.zeros(self.samples, len(self.subject), self.network.config.n_embd, dtype=self.network.dtype)
        return tlk.GaussianNoise(self.noise, seed=0, variant="meng2022_code").corrupted(shape, tuple(range(len(self.subject))))

    def contexts(self, method: tlk.ROME | tlk.MEMIT) -> Sequence[str]:
        """The texts that our model wrote for a method, so that all programs state the facts after the same ones."""
        beginning = "end of text" if isinstance(method, tlk.ROME) else "words"
        return context_templates(self.model, method.contexts, seed=method.seed, beginning=beginning)

    def brief(self) -> Work:
        """As large, but shorter: two layers of the loops, two steps of the optimisations. The peak of memory is the same."""
        rome, memit = (replace(method, value=replace(method.value, steps=2)) for method in (self.rome, self.memit))
        return replace(self, layers=self.layers[:2], rome=rome, memit=memit)


def write_network(folder: Path, shape: str, layers: int) -> Path:
    """A directory in Hugging Face's format: the bundled model's own, or random weights with its tokenizer."""
    if shape == "factlm":
        return FACTLM_DIRECTORY
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(FACTLM_DIRECTORY)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {**SHAPES.get(shape, TINY), "n_layer": layers}
    GPT2LMHeadModel(GPT2Config(**sizes, **special, initializer_range=SPREAD)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TINY = {"n_head": 2, "n_embd": 16, "vocab_size": 3000, "n_positions": 128}


def load_work(folder: Path, *, steps: tuple[int, int] = (20, 25), dtype: torch.dtype = torch.float32) -> Work:
    """Both models from a directory, and the settings: ROME's layer is in the middle, MEMIT's are the five that end there.

    Args:
        steps: at most so many of ROME's and of MEMIT's optimisations.
    """
    network = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    model = tlk.load_model(folder, prepend_bos=False, dtype=dtype)
    middle = network.config.n_layer // 2
    edited = range(max(0, middle - 4), middle + 1)
    value = tlk.editing.ValueSettings
    rome = tlk.ROME(layer=middle, variant="meng2022_code", value=value(steps=steps[0]))
    memit = tlk.MEMIT(layers=tuple(edited), value=value(steps=steps[1], clamp=0.75))
    cases = tlk.load_edit_cases()
    return Work(
        model=model,
        network=network,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        fact=cases[CASE].rewrite,
        facts=tuple(cases[number].rewrite for number in EDITS),
        rome=rome,
        memit=memit,
        moments=tlk.collect_key_moments(model, tlk.load_corpus(), layers=edited, progress=False),
        layers=range(network.config.n_layer),
        noise=3 * float(network.transformer.wte.weight.std()),
    )
