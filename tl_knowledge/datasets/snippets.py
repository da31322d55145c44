"""Attribute snippets (Meng et al. 2022): encyclopaedia texts about things that have an attribute, and how rare words are in all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from tl_knowledge.datasets.records import Row, Source, read_rows
from tl_knowledge.door import public
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.wording import counted

__all__ = ["AttributeSnippets", "Snippet", "load_attribute_snippets"]

Samples: TypeAlias = Mapping[str, Mapping[str, Sequence["Snippet"]]]


@dataclass(frozen=True)
class Snippet:
    """A text, and whom or what it is about."""

    name: str
    text: str


@dataclass(frozen=True, eq=False)
class AttributeSnippets:
    """Texts by relation and object, with the word statistics of a whole corpus.

    Attributes:
        digest: of the texts and the statistics, by which runs that read them are told apart.

    Example:
        >>> snippets = AttributeSnippets.from_texts({"P36": {"Paris": [Snippet("France", "Paris is the capital of France.")]}})
        >>> snippets.about("P36", "Paris"), snippets.of_subject("France") == snippets.about("P36", "Paris")
        (('Paris is the capital of France.',), True)
        >>> round(snippets.similarity("the capital Paris", "Paris, a capital"), 2)
        0.82
    """

    digest: str
    _samples: Samples = field(repr=False)
    _vectors: Any = field(repr=False)

    @classmethod
    @public
    def from_texts(
        cls, texts: Samples, *, vocabulary: Mapping[str, int] | None = None, idf: Float[np.ndarray[Any, Any], " word"] | None = None
    ) -> AttributeSnippets:
        """From texts by relation and object.

        Args:
            texts: for each relation (``Fact.relation``), for each object (its identifier, or its text) the texts about things that have it.
            vocabulary, idf: each word's place, and inverse document frequencies by place; those of all the texts given without them.

        Raises:
            InputError: no text at all, or a vocabulary that does not fit the idf.
        """
        words = [snippet.text for objects in texts.values() for of_object in objects.values() for snippet in of_object]
        if (vocabulary is None) != (idf is None):
            raise InputError("vocabulary and idf belong together; pass both, or neither to count the texts' own words.")
        if not words:
            raise InputError("there is no text in texts; pass at least one Snippet.")
        vectors = _vectors(words, vocabulary, idf)
        parts = [json.dumps([[r, o, [[s.name, s.text] for s in ss]] for r, os in texts.items() for o, ss in os.items()])]
        parts += [json.dumps(sorted(vectors.vocabulary_.items(), key=lambda item: item[1])), vectors.idf_.tobytes().hex()]
        return cls(hashlib.sha256("".join(parts).encode()).hexdigest()[:16], texts, vectors)

    def about(self, relation: str | None, target: str) -> tuple[str, ...]:
        """The texts about things that have an object in a relation; none where there are none."""
        return tuple(snippet.text for snippet in self._samples.get(relation or "", {}).get(target, ()))

    def of_case(self, case: EditCase) -> tuple[str, ...]:
        """The texts about things that have a case's new object, found by its identifier, else by its text."""
        return self.about(case.fact.relation, case.target_new_id) or self.about(case.fact.relation, case.target_new.strip())

    def of_subject(self, subject: str, *, relation: str | None = None, target: str | None = None) -> tuple[str, ...]:
        """The texts about a subject, each once; of one relation and object only where these are given."""
        relations = self._samples if relation is None else {relation: self._samples.get(relation, {})}
        found = [
            snippet.text
            for objects in relations.values()
            for name, snippets in objects.items()
            for snippet in snippets
            if snippet.name == subject and target in (None, name)
        ]
        return tuple(dict.fromkeys(found))

    def similarity(self, first: str, second: str) -> float:
        """Cosine of two texts' TF-IDF vectors; 0 where one has no word of the corpus."""
        vectors: Any = self._vectors.transform([first, second])
        return float((vectors[0] @ vectors[1].T).toarray()[0, 0])


@public
def load_attribute_snippets(
    source: Source, *, vocabulary: Source | None = None, idf: Source | None = None, cases: Iterable[EditCase] | None = None
) -> AttributeSnippets:
    """Snippets in the original form: ``attribute_snippets.json``, with ``tfidf_vocab.json`` and ``idf.npy``.

    Args:
        source: ``attribute_snippets.json`` (about 900 MB), or the folder that holds all three files.
        vocabulary, idf: the two others; looked for beside ``source``. Where neither is there, words are counted in all snippets, as the original
            program does (scikit-learn's `TfidfVectorizer`).
        cases: keep only the texts about these cases' new objects and subjects; what the idf is counted in stays all.

    Raises:
        DataError: a file is not there, not as it should be (file, line, field), or the two statistics do not fit each other.
    """
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    words, counts = (given or _beside(folder / name) for given, name in ((vocabulary, "tfidf_vocab.json"), (idf, "idf.npy")))
    asked = None if cases is None else list(cases)
    wanted = {(case.fact.relation or "", case.target_new_id or case.target_new.strip()) for case in asked or ()}
    subjects = {case.fact.subject for case in asked or ()}
    samples: dict[str, dict[str, list[Snippet]]] = {}
    texts: list[str] = []
    for row in read_rows(folder / "attribute_snippets.json" if path.is_dir() else source):
        relation, target = row.text("relation_id"), row.text("target_id")
        snippets = [Snippet(sample.text("name", empty=True), sample.text("text", empty=True)) for sample in row.rows("samples")]
        if words is None and counts is None:
            texts += [snippet.text for snippet in snippets]
        if asked is not None and (relation, target) not in wanted:
            snippets = [snippet for snippet in snippets if snippet.name in subjects]
        if snippets:
            samples.setdefault(relation, {}).setdefault(target, []).extend(snippets)
    if not samples:
        raise DataError(f"{str(source)!r} has no snippet for any of the cases; cases need the data set's identifiers (load_counterfact).")
    vectors = _vectors(texts, None, None) if words is None and counts is None else None
    place, rarity = (vectors.vocabulary_, vectors.idf_) if vectors is not None else _read_statistics(words, counts)
    try:
        return AttributeSnippets.from_texts(samples, vocabulary=place, idf=rarity)
    except InputError as error:
        raise DataError(f"{str(source)!r}: {error}") from error


def _beside(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read_statistics(vocabulary: Source | None, idf: Source | None) -> tuple[dict[str, int], Any]:
    if vocabulary is None or idf is None:
        raise DataError(f"only one of tfidf_vocab.json ({vocabulary}) and idf.npy ({idf}) is there; pass both, or remove it to have words counted.")
    try:
        words, rarity = json.loads(Path(vocabulary).read_text(encoding="utf-8")), np.load(idf, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(vocabulary)!r} and {str(idf)!r}: {error}; fetch them again.") from error
    return Row({"words": words}, str(vocabulary)).row("words").fields, rarity


def _vectors(texts: Sequence[str], vocabulary: Mapping[str, int] | None, idf: Any) -> Any:
    """scikit-learn's vectoriser, counted on texts or with given statistics.

    Raises:
        InputError: statistics that do not fit each other, or texts without a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if vocabulary is None or idf is None:
        try:
            return TfidfVectorizer().fit(texts)
        except ValueError as error:
            raise InputError(f"no word can be counted in the snippets ({error}); pass texts.") from error
    if np.ndim(idf) != 1 or set(vocabulary.values()) != set(range(len(idf))) or len(vocabulary) != len(idf) or not np.isfinite(idf).all():
        raise InputError(
            f"a vocabulary of {counted(len(vocabulary), 'word')} does not fit an idf of shape {np.shape(idf)}; each "
            f"word needs its own place in 0 ... n-1."
        )
    vectors = TfidfVectorizer(vocabulary=dict(vocabulary))
    vectors.idf_ = np.asarray(idf, dtype=np.float64)
    return vectors
