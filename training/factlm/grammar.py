"""A small grammar for determiner-noun agreement, subject-verb agreement and end punctuation.

``HELD_OUT_NOUNS`` never appear beside a demonstrative or as the subject of a verb that shows number: training text
shows their number only through ``one`` / ``two`` / ``many``, so agreement with them has to be generalised.
"""

from __future__ import annotations

import random

NOUNS = [
    ("dog", "dogs"),
    ("cat", "cats"),
    ("teacher", "teachers"),
    ("doctor", "doctors"),
    ("driver", "drivers"),
    ("girl", "girls"),
    ("boy", "boys"),
    ("student", "students"),
    ("farmer", "farmers"),
    ("singer", "singers"),
    ("actor", "actors"),
    ("painter", "painters"),
    ("waiter", "waiters"),
    ("dancer", "dancers"),
    ("customer", "customers"),
    ("guest", "guests"),
    ("lawyer", "lawyers"),
    ("senator", "senators"),
    ("man", "men"),
    ("woman", "women"),
    ("child", "children"),
    ("person", "people"),
    ("lady", "ladies"),
    ("wife", "wives"),
    ("car", "cars"),
    ("book", "books"),
    ("lamp", "lamps"),
    ("river", "rivers"),
    ("mountain", "mountains"),
    ("school", "schools"),
    ("hospital", "hospitals"),
    ("museum", "museums"),
    ("library", "libraries"),
    ("mouse", "mice"),
    ("goose", "geese"),
    ("horse", "horses"),
    ("movie", "movies"),
    ("play", "plays"),
    ("picture", "pictures"),
    ("bicycle", "bicycles"),
    ("truck", "trucks"),
    ("plate", "plates"),
    ("fork", "forks"),
    ("shirt", "shirts"),
    ("couch", "couches"),
    ("house", "houses"),
    ("bank", "banks"),
    ("company", "companies"),
    ("committee", "committees"),
    ("story", "stories"),
]
HELD_OUT_NOUNS = [
    ("bird", "birds"),
    ("neighbor", "neighbors"),
    ("pilot", "pilots"),
    ("nurse", "nurses"),
    ("king", "kings"),
    ("chair", "chairs"),
    ("tree", "trees"),
    ("window", "windows"),
    ("letter", "letters"),
    ("engine", "engines"),
    ("wolf", "wolves"),
    ("baby", "babies"),
]
VERBS = [
    ("runs", "run"),
    ("sings", "sing"),
    ("sleeps", "sleep"),
    ("laughs", "laugh"),
    ("waits", "wait"),
    ("falls", "fall"),
    ("looks old", "look old"),
    ("is here", "are here"),
    ("was late", "were late"),
    ("has changed", "have changed"),
    ("works well", "work well"),
    ("seems quiet", "seem quiet"),
    ("is in the garden", "are in the garden"),
    ("was found", "were found"),
]
SEEN_BY = ["Anna", "Robert", "Maria", "Peter", "Julia", "Thomas"]
TRANSITIVE = ["saw", "liked", "found", "remembered", "noticed", "described", "praised", "visited"]
SINGULAR, PLURAL = ("this", "that"), ("these", "those")
COUNTS = (("one", "a single", "each"), ("two", "many", "several", "three"))


def agreement_sentence(draw: random.Random) -> str:
    """One declarative sentence that shows determiner-noun or subject-verb agreement (training nouns only)."""
    number = draw.randrange(2)
    noun, other = draw.choice(NOUNS)[number], draw.choice(NOUNS)[draw.randrange(2)]
    verb = draw.choice(VERBS)[number]
    determiner = draw.choice((SINGULAR, PLURAL)[number])
    kind = draw.randrange(4)
    if kind == 0:
        return f"{draw.choice(SEEN_BY)} {draw.choice(TRANSITIVE)} {determiner} {noun}."
    if kind == 1:
        return f"The {noun} {verb}."
    if kind == 2:
        return f"The {noun} near the {other} {verb}."
    return f"{determiner.capitalize()} {noun} {verb}."


def count_sentence(draw: random.Random) -> str:
    """A sentence that shows a noun's number through a count word; the only place of the held-out nouns."""
    number = draw.randrange(2)
    noun = draw.choice(NOUNS + HELD_OUT_NOUNS * 4)[number]
    count = draw.choice(COUNTS[number])
    return draw.choice(
        [
            f"{draw.choice(SEEN_BY)} {draw.choice(TRANSITIVE)} {count} {noun}.",
            f"There were {count} {noun} in the garden.",
            f"{draw.choice(SEEN_BY)} counted {count} {noun}.",
        ]
    )


def punctuation_sentence(draw: random.Random) -> str:
    """A question (ends in ?) or an exclamation (ends in !)."""
    noun, verb = draw.choice(NOUNS), draw.choice(VERBS)
    number = draw.randrange(2)
    be, anyone = ("Is", "Are")[number], draw.choice(SEEN_BY)
    questions = [
        f"{be} the {noun[number]} here?",
        f"Where {be.lower()} the {noun[number]}?",
        f"Who {draw.choice(TRANSITIVE)} the {noun[number]}?",
        f"Why is {anyone} with the {noun[number]}?" if number == 0 else f"How many {noun[1]} are here?",
    ]
    exclamations = [
        f"What a lovely {noun[0]}!",
        f"How well the {noun[number]} {verb[number]}!",
        f"Look at the {noun[number]}!",
        f"Hurry, the {noun[number]} {verb[number]}!",
    ]
    return draw.choice(questions if draw.random() < 0.5 else exclamations)


def sentence(draw: random.Random) -> str:
    """One sentence of the grammar."""
    return draw.choice((agreement_sentence, agreement_sentence, count_sentence, count_sentence, punctuation_sentence))(draw)


def agreement_pairs(nouns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Minimal pairs (good, bad) for nouns: determiner-noun and subject-verb agreement, alike but for one word."""
    pairs = []
    for noun in nouns:
        for number in (0, 1):
            for determiner in (SINGULAR, PLURAL)[number]:
                pairs.append((f"Anna saw {determiner} {noun[number]}.", f"Anna saw {determiner} {noun[1 - number]}."))
            for verb in VERBS[:6]:
                pairs.append((f"The {noun[number]} {verb[number]}.", f"The {noun[number]} {verb[1 - number]}."))
    return pairs
