"""Choose FactLM's facts from ParaRel and write them, with their splits, into the package.

Run once, from a checkout of https://github.com/yanaiela/pararel (MIT)::

    python training/factlm/build_facts.py PARAREL/data/trex_lms_vocab

A fact is kept when its subject has exactly one object for the relation, so that every prompt has one answer.
Subjects of two or more relations come first (they make the relation tokens matter); relations with few of them
are filled up to ``FACTS_PER_RELATION`` with single-relation subjects.  Every fact keeps ``HELD_OUT`` of its
relation's templates out of training: its paraphrases.  Facts of the edit split are what editing is evaluated on; their
neighbours come from the neighbour split.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
FACTS_FILE = HERE.parents[1] / "tl_knowledge" / "factlm" / "facts.json"
FACTS_PER_RELATION = 40
HELD_OUT = 2
EDITS_PER_RELATION = 10
SEED = 0


def read_tuples(folder: Path, relations: list[str]) -> dict[str, dict[str, str]]:
    """Read ``{subject: {relation: object}}``, dropping pairs of subject and relation with several objects."""
    objects: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for relation in relations:
        for line in (folder / f"{relation}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            objects[row["sub_label"].strip()][relation].add(row["obj_label"].strip())
    return {
        subject: {relation: next(iter(names)) for relation, names in by_relation.items() if len(names) == 1}
        for subject, by_relation in objects.items()
    }


def choose(tuples: dict[str, dict[str, str]], relations: list[str]) -> list[tuple[str, str, str]]:
    """All facts of subjects with several relations, then fill small relations with single-relation subjects."""
    draw = random.Random(SEED)
    facts = [(s, r, o) for s, by_relation in tuples.items() if len(by_relation) >= 2 for r, o in by_relation.items()]
    count = {relation: sum(r == relation for _, r, _ in facts) for relation in relations}
    single = [(s, r, o) for s, by_relation in tuples.items() if len(by_relation) == 1 for r, o in by_relation.items()]
    draw.shuffle(single)
    for subject, relation, target in single:
        if count[relation] < FACTS_PER_RELATION and subject not in target and target not in subject:
            facts.append((subject, relation, target))
            count[relation] += 1
    return sorted(facts)


def split(facts: list[tuple[str, str, str]]) -> list[str]:
    """``"edit"`` for facts whose relation leaves enough others to be neighbours, evenly over relations."""
    draw = random.Random(SEED)
    by_relation: dict[str, list[int]] = defaultdict(list)
    for index, (_, relation, _) in enumerate(facts):
        by_relation[relation].append(index)
    edited = {i for rows in by_relation.values() for i in draw.sample(rows, min(EDITS_PER_RELATION, len(rows) // 3))}
    return ["edit" if index in edited else "neighbour" for index in range(len(facts))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tuples", type=Path, help="ParaRel's data/trex_lms_vocab")
    templates = json.loads((HERE / "templates.json").read_text())
    facts = choose(read_tuples(parser.parse_args().tuples, list(templates)), list(templates))
    draw = random.Random(SEED)
    rows = [
        {
            "subject": subject,
            "relation": relation,
            "target": " " + target,
            "held_out": sorted(draw.sample(range(len(templates[relation]["templates"])), HELD_OUT)),
            "split": part,
        }
        for (subject, relation, target), part in zip(facts, split(facts), strict=True)
    ]
    FACTS_FILE.write_text(
        '{"relations": '
        + json.dumps(templates, indent=1)
        + ',\n"facts": [\n'
        + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        + "\n]}\n",
        encoding="utf-8",
    )
    print(f"{len(rows)} facts, {len(templates)} relations -> {FACTS_FILE}")


if __name__ == "__main__":
    main()
