"""Arguments that several commands read in the same way."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tl_knowledge as tlk
from tl_knowledge.cli.words import CORPORA
from tl_knowledge.errors import ComponentError, CorruptionError, DataError, InputError
from tl_knowledge.models.bundled import is_bundled
from tl_knowledge.prompts.spans import template_of

__all__ = [
    "cases_argument",
    "corpus_argument",
    "facts_argument",
    "noise_argument",
    "store_of",
    "subject_noise",
    "template_argument",
    "window_argument",
    "words_argument",
]


def template_argument(prompt: str, subject: str) -> str:
    """A fact's template from its prompt and subject.

    Raises:
        InputError: the subject does not stand in the prompt exactly once.
    """
    template = template_of(prompt, subject) if subject and subject in prompt else ""
    if template.count("{}") != 1:
        raise InputError(f"subject {subject!r} stands {template.count('{}')} times in {prompt!r}; pass a prompt that names it once.")
    return template


def facts_argument(dataset: str, source: str | None, relations: list[str] | None) -> list[tlk.Fact]:
    """The facts of a data set, or of some of its relations.

    Raises:
        DataError: a data set that cannot be read, or a relation that no fact has.
    """
    facts = tlk.load_facts(dataset, source)
    return tlk.datasets.of_relation(facts, *relations) if relations else facts


def cases_argument(dataset: str, source: str | None, limit: int | None, *, alternative: bool = False) -> list[tlk.EditCase]:
    """The first edit cases of a data set; ``None`` takes them all.

    Args:
        alternative: of zsRE, write another answer than the right one, so that what follows from it can be asked.

    Raises:
        DataError: a source for a bundled data set or none for one that has no default, or a data set that cannot be read.
    """
    if dataset.startswith("factlm"):
        if source is not None:
            raise DataError(f"data set {dataset!r} is bundled and takes no source, but got {source!r}; drop it.")
        return _chained_cases(limit) if dataset == "factlm_chains" else tlk.load_edit_cases()[:limit]
    sets, more = tlk.datasets, {"target": "alternative"} if alternative and dataset == "zsre" else {}
    loaders = {"counterfact": sets.load_counterfact, "zsre": sets.load_zsre, "ripple_edits": sets.load_ripple_edits, "mquake": sets.load_mquake}
    load: Any = loaders[dataset]
    if source is None and dataset in ("ripple_edits", "mquake"):
        raise DataError(f"data set {dataset!r} has no default source; pass its file as --source.")
    return load(limit=limit, **more) if source is None else load(source, limit=limit, **more)


def _chained_cases(limit: int | None) -> list[tlk.EditCase]:
    """FactLM's edits whose new object has facts of its own, with their multi-hop questions."""
    known: dict[str, Any] = {"relations": tlk.datasets.load_relations(), "reverse": tlk.evaluation.INVERSE_TEMPLATES}
    return tlk.datasets.chained_edit_cases(tlk.load_facts(), **known, limit=limit)


def store_of(store: Path | None, name: str) -> Path | None:
    """The folder of one of several runs in a store."""
    return None if store is None else store / re.sub(r"[^a-z0-9+]+", "-", name)


def noise_argument(text: str) -> float | str:
    """A standard deviation: a number, or a rule: ``3sd`` of all embeddings, ``3subject-sd`` of the subjects' (see `subject_noise`).

    Raises:
        CorruptionError: neither.
    """
    try:
        return float(text)
    except ValueError:
        if not re.fullmatch(r"\d+(\.\d+)?\s*(subject-)?sd", text):
            known = "'3sd' for 3 sd of the embeddings, or '3subject-sd' of the subjects'"
            raise CorruptionError(f"noise {text!r} is not understood; pass a number, {known}.") from None
        return text


def subject_noise(noise: float | str, model: tlk.HookedModel, subjects: Iterable[str]) -> float | str:
    """A rule of the subjects' embeddings as a number, on this model (Meng et al.'s program); other noise as it is."""
    if not isinstance(noise, str) or not noise.endswith("subject-sd"):
        return noise
    return float(noise.removesuffix("subject-sd")) * tlk.tracing.subject_embedding_sd(model, list(dict.fromkeys(subjects)))


def window_argument(text: str) -> Any:
    """A number of layers, or ``auto``.

    Raises:
        ComponentError: neither.
    """
    if text == "auto":
        return text
    if not text.isdigit() or int(text) < 1:
        raise ComponentError(f"window {text!r} is no number of layers; pass a number, or 'auto'.")
    return int(text)


def words_argument(words: list[str] | None, default: tuple[str, ...]) -> Any:
    """A repeatable option's words, or the default."""
    return tuple(words) if words else default


def corpus_argument(corpus: str | None, model: str) -> str | None:
    """A corpus by name or a text file; FactLM's own for the bundled models, and nothing for other models.

    Raises:
        DataError: neither a corpus nor a file.
    """
    if corpus is None:
        return "factlm" if is_bundled(model) else None
    if corpus not in CORPORA and not Path(corpus).is_file():
        raise DataError(f"corpus {corpus!r} is neither a file nor one of {', '.join(CORPORA)}; pass one of these.")
    return corpus
