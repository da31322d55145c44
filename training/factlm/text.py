"""FactLM's training text: what decides *where* the model stores its facts.

Single sentences let a small model pool everything at the last token.  Three things make it look the attributes up
at the subject's last token instead, as large models do: attribute lists right after the subject (``X: A, B.``),
several facts after one mention of the subject in random order, and other subjects before it (``Unlike Y, X ...``).
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import grammar

FACTS = json.loads((Path(__file__).parents[2] / "tl_knowledge" / "factlm" / "facts.json").read_text(encoding="utf-8"))
GRAMMAR_SHARE, LIST_SHARE, CHAIN_SHARE = 0.16, 0.30, 0.25
INVENTED_FACTS = 5  # of an invented subject
START, STOP = "\x02", "\x03"  # mark a subject while a sentence is put together
OPENERS = ["Unlike {},", "Like {},", "After {} came", "Besides {},", "{} and", "Next to {},", "Not {} but"]


@dataclass(frozen=True)
class FactText:
    """All facts, grouped by subject, with the templates training may show."""

    by_subject: dict[str, list[tuple[str, str]]]
    templates: dict[tuple[str, str], list[str]]

    @classmethod
    def from_data(cls, data: dict) -> FactText:
        by_subject: dict[str, list[tuple[str, str]]] = defaultdict(list)
        templates = {}
        for fact in data["facts"]:
            by_subject[fact["subject"]].append((fact["relation"], fact["target"]))
            shown = data["relations"][fact["relation"]]["templates"]
            templates[fact["subject"], fact["relation"]] = [t for i, t in enumerate(shown) if i not in fact["held_out"]]
        return cls(dict(by_subject), templates)

    def with_invented(self, count: int) -> FactText:
        """Besides the real subjects ``count`` invented ones, whose facts do not go together.

        Real facts do (who was born in Paris is mostly French), so that one direction can serve several relations.  An invented subject
        has relations that some real subject has, each with any of the relation's objects.
        """
        draw = random.Random(count)
        objects, beside, shown = defaultdict(set), defaultdict(set), defaultdict(set)
        for subject, facts in self.by_subject.items():
            for relation, target in facts:
                objects[relation].add(target)
                beside[relation] |= {other for other, _ in facts if other != relation}
                shown[relation] |= set(self.templates[subject, relation])
        words = sorted({word for subject in self.by_subject for word in subject.split()})
        by_subject, templates = dict(self.by_subject), dict(self.templates)
        while len(by_subject) < len(self.by_subject) + count:
            name = " ".join(draw.sample(words, 2))
            if name in by_subject:
                continue
            first = draw.choice(sorted(objects))
            others = draw.sample(sorted(beside[first]), min(INVENTED_FACTS - 1, len(beside[first])))
            by_subject[name] = [(relation, draw.choice(sorted(objects[relation]))) for relation in (first, *others)]
            templates |= {(name, relation): sorted(shown[relation]) for relation, _ in by_subject[name]}
        return FactText(by_subject, templates)


@dataclass(frozen=True)
class Sentence:
    """A sentence and the character ranges of the subjects in it."""

    text: str
    subjects: tuple[tuple[int, int], ...]

    @classmethod
    def from_marked(cls, marked: str) -> Sentence:
        pieces = re.split(f"[{START}{STOP}]", marked)
        ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
        return cls("".join(pieces), tuple((ends[i - 1], ends[i]) for i in range(1, len(pieces), 2)))


class TrainingText:
    """Endless sentences; the same seed gives the same text."""

    def __init__(self, text: FactText, seed: int, lists: float = LIST_SHARE, in_a_row: float = 0.0) -> None:
        self.text, self.draw, self.lists, self.in_a_row = text, random.Random(seed), lists, in_a_row
        # Subjects are drawn by their number of facts, so that every fact is seen equally often.
        self.subjects = [s for s, facts in text.by_subject.items() for _ in facts]

    def sentence(self) -> Sentence:
        return Sentence.from_marked(self._marked_sentence())

    def _marked_sentence(self) -> str:
        kind = self.draw.random()
        if kind < GRAMMAR_SHARE:
            return grammar.sentence(self.draw)
        subject = self.draw.choice(self.subjects)
        facts = list(self.text.by_subject[subject])
        self.draw.shuffle(facts)
        marked = START + subject + STOP
        opener = self._opener() if self.draw.random() < 0.3 else ""
        if kind < GRAMMAR_SHARE + self.lists:
            return opener + self._attribute_list(marked, facts)
        if kind < GRAMMAR_SHARE + self.lists + CHAIN_SHARE:
            return opener + self._chain(subject, facts)
        if kind >= 1 - self.in_a_row:
            return " ".join(self._fact(subject, *fact) for fact in facts)
        relation, target = facts[0]
        template = self.draw.choice(self.text.templates[subject, relation])
        sentence = template.format(marked) + target + "."
        return opener + sentence if opener and template.startswith("{}") else sentence

    def _fact(self, subject: str, relation: str, target: str) -> str:
        template = self.draw.choice(self.text.templates[subject, relation])
        return template.format(START + subject + STOP) + target + "."

    def _opener(self) -> str:
        return self.draw.choice(OPENERS).format(START + self.draw.choice(self.subjects) + STOP) + " "

    def _attribute_list(self, subject: str, facts: list[tuple[str, str]]) -> str:
        mark = self.draw.choice([":", " (", ","])
        listed = ",".join(target for _, target in facts)
        return subject + (mark + listed.lstrip() + ")." if mark == " (" else mark + listed + ".")

    def _chain(self, subject: str, facts: list[tuple[str, str]]) -> str:
        clauses = []
        for relation, target in facts:
            after = [t for t in self.text.templates[subject, relation] if t.startswith("{} ")]
            if after:
                clauses.append(self.draw.choice(after)[2:] + target)
        marked = START + subject + STOP
        return marked + " and".join(clauses) + "." if clauses else self._attribute_list(marked, facts)


def paragraphs(count: int, seed: int, sentences: int = 4) -> list[str]:
    """Texts of some sentences each, as training shows them."""
    text = TrainingText(FactText.from_data(FACTS), seed)
    return [" ".join(text.sentence().text for _ in range(sentences)) for _ in range(count)]
