"""Words that every room writes: counted things, and relations by their names."""

from __future__ import annotations

import re
from typing import SupportsIndex

__all__ = ["RELATION_NAMES", "counted", "relation_words", "with_relation_names"]

RELATION_NAMES = {
    "P17": "country",
    "P19": "place of birth",
    "P20": "place of death",
    "P27": "country of citizenship",
    "P30": "continent",
    "P31": "instance of",
    "P36": "capital",
    "P37": "official language",
    "P39": "position held",
    "P47": "shares border with",
    "P101": "field of work",
    "P103": "native language",
    "P106": "occupation",
    "P108": "employer",
    "P127": "owner",
    "P131": "located in",
    "P136": "genre",
    "P138": "named after",
    "P140": "religion",
    "P159": "headquarters location",
    "P176": "manufacturer",
    "P178": "developer",
    "P190": "twinned administrative body",
    "P264": "record label",
    "P276": "location",
    "P279": "subclass of",
    "P361": "part of",
    "P364": "original language of film",
    "P407": "language of work",
    "P413": "sport position",
    "P449": "original network",
    "P463": "member of",
    "P495": "country of origin",
    "P527": "has part",
    "P530": "diplomatic relation",
    "P641": "sport",
    "P740": "location of formation",
    "P937": "work location",
    "P1001": "applies to jurisdiction",
    "P1303": "instrument",
    "P1376": "capital of",
    "P1412": "language spoken",
}
"""Wikidata's properties that ParaRel, CounterFact and FactLM have as relations, in FactLM's words where it has the relation."""


def counted(count: SupportsIndex, noun: str, plural: str = "") -> str:
    """A number with what it counts.

    Args:
        plural: where an ``s`` does not make it.

    Example:
        >>> counted(1, "prompt"), counted(0, "noise sample"), counted(2, "Jaccard index", "Jaccard indices")
        ('1 prompt', '0 noise samples', '2 Jaccard indices')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def relation_words(relation: object) -> str:
    """A relation's identifier with its name; one without a known name as it is.

    Example:
        >>> relation_words("P36"), relation_words("P99999"), relation_words("capital")
        ('P36 (capital)', 'P99999', 'capital')
    """
    text = str(relation)
    return f"{text} ({RELATION_NAMES[text]})" if text in RELATION_NAMES else text


def with_relation_names(text: str) -> str:
    """A text with the name beside every identifier of a relation in it.

    Example:
        >>> with_relation_names("relation P36: 20 facts")
        'relation P36 (capital): 20 facts'
    """
    return re.sub(r"\bP\d+\b", lambda found: relation_words(found[0]), text)
