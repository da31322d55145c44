"""``load_context_pararel(variant="wen_bai")`` against Wen and Bai's program.

``context_pararel.json`` was made by ``sub_pararel`` and ``pararel_expanded`` of ``kn.ipynb`` (github.com/SediRockStar/Localization_Model_Knowledge,
commit bf68f39), typed out again, with ``random.seed(2022)`` on the files that the test writes. On ParaRel itself 2,149 of the 2,153 facts have the
program's prompts letter by letter; the other four begin with ".NET", whose full stop the program takes away.
"""

from __future__ import annotations

import json
from pathlib import Path

import tl_knowledge as tlk

GOLDEN = json.loads((Path(__file__).parent / "context_pararel.json").read_text())
PATTERNS = {
    "P19": ["[X] was born in [Y].", "[X] is native to [Y] .", "[X], a native of [Y],", "[Y] is the birthplace of [X]."],
    "P20": ["[X] died in [Y]"],
}


def test_prompts_are_the_programs(tmp_path):
    for relation, patterns in PATTERNS.items():
        tuples = [{"sub_label": f"Person {i}", "obj_label": f"City {i % 7}"} for i in range(20)]
        for folder, rows in (("graphs_json", [{"pattern": pattern} for pattern in patterns]), ("trex_lms_vocab", tuples)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{relation}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    facts = tlk.datasets.load_context_pararel(tmp_path, relations=["P20", "P19"], limit=2, variant="wen_bai")
    shown = [{"relation_id": f.relation, "sentences": [f.rephrase(t).text for t in (f.template, *f.paraphrases)]} for f in facts]
    assert shown == GOLDEN and facts[0].target == " City 0"
