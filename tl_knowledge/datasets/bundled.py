"""What FactLM ships: the facts it was trained on, edit cases with held-out paraphrases and neighbours, and a corpus."""

from __future__ import annotations

import json
import random
from functools import cache
from importlib.resources import files
from typing import Any

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, check_choice
from tl_knowledge.prompts.facts import EditCase, Fact, Relation

__all__ = ["bundled_corpus", "bundled_edit_cases", "bundled_facts", "load_relations"]

NEIGHBOURS = 5
SPLIT_SEED = 0


def bundled_facts() -> list[Fact]:
    """FactLM's facts; each has the templates held out of training as its ``paraphrases``."""
    return [_fact(row) for row in _data()["facts"]]


@public
def load_relations(name: str = "factlm", *, limit: int | None = None) -> list[Relation]:
    """The relations of a data set, with all their templates.

    Args:
        name: ``"factlm"``.
        limit: how many to take, from the first.

    Raises:
        DataError: another name.
    """
    check_choice("data set", name, ("factlm",), DataError)
    return [Relation(id, entry["label"], tuple(entry["templates"])) for id, entry in _data()["relations"].items()][:limit]


def bundled_edit_cases() -> list[EditCase]:
    """FactLM's counterfactual edits: facts of the edit split, each with a new object of the same relation.

    Neighbours are facts of the neighbour split with the same relation and object, as in CounterFact; where fewer than
    five exist, other facts of the relation (with neither object) fill up. Deterministic.
    """
    rows = _data()["facts"]
    by_relation: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_relation.setdefault(row["relation"], []).append(row)
    return [_edit_case(row, by_relation[row["relation"]]) for row in rows if row["split"] == "edit"]


def bundled_corpus() -> list[str]:
    """FactLM's corpus: paragraphs of the kind of text it was trained on."""
    return (files("tl_knowledge") / "factlm" / "corpus.txt").read_text(encoding="utf-8").splitlines()


def _edit_case(row: dict[str, Any], relation: list[dict[str, Any]]) -> EditCase:
    draw = random.Random(f"{SPLIT_SEED}/{row['subject']}/{row['relation']}")
    target_new = draw.choice(sorted({other["target"] for other in relation} - {row["target"]}))
    free = [other for other in relation if other["split"] == "neighbour" and other["subject"] != row["subject"]]
    same = [other for other in free if other["target"] == row["target"]]
    rest = [other for other in free if other["target"] not in (row["target"], target_new)]
    neighbours = draw.sample(same, min(NEIGHBOURS, len(same)))
    neighbours += draw.sample(rest, min(NEIGHBOURS - len(neighbours), len(rest)))
    fact = _fact(row)
    return EditCase(fact, target_new, tuple(fact.rephrase(t) for t in fact.paraphrases), tuple(map(_fact, neighbours)))


def _fact(row: dict[str, Any]) -> Fact:
    """A fact in its first template that training showed."""
    templates: list[str] = _data()["relations"][row["relation"]]["templates"]
    held_out: list[int] = row["held_out"]
    shown = next(template for i, template in enumerate(templates) if i not in held_out)
    return Fact(row["subject"], shown, row["target"], row["relation"], tuple(templates[i] for i in held_out))


@cache
def _data() -> dict[str, Any]:
    return json.loads((files("tl_knowledge") / "factlm" / "facts.json").read_text(encoding="utf-8"))
