"""Loaders of the field's data sets, on files in their own formats; malformed files name file, line and field."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.engine.batches import predicted_tokens
from tl_knowledge.errors import DataError, InputError

KNOWN = [
    {"known_id": 0, "subject": "Vinson Massif", "attribute": "Antarctica", "template": "{} is located in the continent",
     "prediction": " of Antarctica. It is", "prompt": "Vinson Massif is located in the continent of", "relation_id": "P30"},
    {"known_id": 1, "subject": "Beats Music", "attribute": "Apple", "template": "{} is owned by", "prompt": "Beats Music is owned by"},
]  # fmt: skip
COUNTERFACT = {
    "case_id": 7,
    "requested_rewrite": {"prompt": "The mother tongue of {} is", "relation_id": "P103", "subject": "Danielle Darrieux",
                          "target_new": {"str": "English", "id": "Q1860"}, "target_true": {"str": "French", "id": "Q150"}},
    "paraphrase_prompts": ["It rained. Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The mother tongue of Montesquieu is"],
    "attribute_prompts": ["Barack Obama, speaker of"],
    "generation_prompts": ["Danielle Darrieux was born in"],
}  # fmt: skip
EASYEDIT = {
    "case_id": 42, "prompt": "The profession of Arun Nehru is", "target_new": "actor", "subject": "Arun Nehru", "ground_truth": "politician",
    "rephrase_prompt": "Arun Nehru is known for", "locality_prompt": "George Washington's profession is a", "locality_ground_truth": "politician",
}  # fmt: skip
MEND = {
    "subject": "Acme", "src": "What is the product made by Acme?", "pred": "uniform", "rephrase": "What will be the product of Acme?",
    "alt": "unmanned aircraft", "answers": ["uniform"], "loc": "nq question: who sings", "loc_ans": "Walter", "cond": "",
}  # fmt: skip
KNOWEDIT = {
    "subject": "Aster Group", "target_new": "Orion", "prompt": "What constellation is home to Aster Group?", "ground_truth": ["Leo"],
    "rephrase_prompt": "Which constellation holds that group?", "cond": "",
    "locality": {"Relation_Specificity": [{"prompt": "Aster Group is a", "ground_truth": ["cluster"]}]}, "portability": {},
}  # fmt: skip
BLIMP = {
    "sentence_good": "Raymond is selling this sketch.", "sentence_bad": "Raymond is selling this sketches.", "UID": "determiner_noun_agreement_1",
    "one_prefix_prefix": "Raymond is selling this", "one_prefix_word_good": "sketch", "one_prefix_word_bad": "sketches",
    "linguistics_term": "determiner_noun_agreement", "pairID": "0",
}  # fmt: skip
LRE = {
    "name": "country capital city",
    "prompt_templates": ["The capital city of {} is", "The capital of {} is"],
    "samples": [{"subject": "Canada", "object": "Ottawa"}, {"subject": "Mexico", "object": "Mexico City"}],
}


def write(path, value, *, lines=False):
    text = "\n".join(json.dumps(row) for row in value) if lines else json.dumps(value, indent=1)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz"])
def test_known_takes_the_prompt_not_the_template(tmp_path, name):
    facts = tlk.datasets.load_known(write(tmp_path / name, KNOWN, lines="jsonl" in name))
    assert facts[0] == tlk.Fact("Vinson Massif", "{} is located in the continent of", " Antarctica", "P30")
    assert facts[1].relation is None and len(tlk.datasets.load_known(tmp_path / name, limit=1)) == 1


def test_counterfact_in_the_original_form(tmp_path):
    case = tlk.datasets.load_counterfact(write(tmp_path / "c.json", [COUNTERFACT]))[0]
    assert case.fact == tlk.Fact("Danielle Darrieux", "The mother tongue of {} is", " French", "P103")
    assert (case.target_new, case.case_id) == (" English", "7")
    assert case.paraphrases == (tlk.Fact("Danielle Darrieux", "It rained. {}, a native", " French", "P103"),)
    assert case.neighbourhood == (tlk.datasets.Statement("The mother tongue of Montesquieu is", " French"),)
    assert case.attributes == (tlk.datasets.Statement("Barack Obama, speaker of", " English"),)
    assert case.generation == ("Danielle Darrieux was born in",)
    assert case.rewrite.target == " English"


def test_counterfact_in_easyedits_form_has_no_paraphrase(tmp_path):
    case = tlk.datasets.load_counterfact(write(tmp_path / "c.json", [EASYEDIT]))[0]
    assert case.paraphrases == () and case.generation == ("Arun Nehru is known for",)
    assert case.fact.template == "The profession of {} is" and case.neighbourhood[0].target == " politician"


def test_zsre_in_both_forms(tmp_path):
    path = write(tmp_path / "z.json", [MEND, MEND | {"alt": ""}, KNOWEDIT])
    cases = tlk.datasets.load_zsre(path)
    assert [(case.case_id, case.target_new) for case in cases] == [("0", " uniform"), ("1", " uniform"), ("2", " Leo")]
    assert cases[0].fact == cases[0].rewrite == tlk.Fact("Acme", "What is the product made by {}?", " uniform")
    assert cases[0].rewrite.replaces is None  # the right answer takes nobody's place
    assert cases[0].paraphrases[0].template == "What will be the product of {}?"
    assert cases[0].neighbourhood == (tlk.datasets.Statement("nq question: who sings?", " Walter"),)
    assert cases[2].paraphrases == ()  # the rephrasing names the subject in other words
    assert cases[2].neighbourhood == (tlk.datasets.Statement("Aster Group is a", " cluster"),)


def test_zsre_with_the_alternative_answer(tmp_path):
    path = write(tmp_path / "z.json", [MEND, MEND | {"alt": ""}, KNOWEDIT])
    cases = tlk.datasets.load_zsre(path, target="alternative")
    assert [(case.case_id, case.target_new) for case in cases] == [("0", " unmanned aircraft"), ("2", " Orion")]  # one record has none
    assert cases[0].fact.target == cases[0].rewrite.replaces == " uniform"
    assert cases[0].neighbourhood == (tlk.datasets.Statement("nq question: who sings", " Walter"),)
    with pytest.raises(InputError, match="target 'alt' is unknown"):
        tlk.datasets.load_zsre(path, target="alt")


def test_zsres_right_answers_are_compared_with_nothing(factlm):
    fact = tlk.load_facts(limit=1)[0]
    case = tlk.EditCase(fact, fact.target, (), tuple(tlk.load_facts(limit=3)[1:]))
    report = tlk.evaluate(factlm, case, tlk.FineTune(layer=FACTLM_LAYER, steps=1), progress=False)
    row = report.table.iloc[0]
    assert np.isnan(row["ES"]) and np.isnan(row["EM"]) and row["token_reliability"] == 100


def test_blimp(tmp_path):
    other = BLIMP | {"UID": "adjunct_island"}
    path = write(tmp_path / "b.jsonl", [BLIMP, other], lines=True)
    pair = tlk.datasets.load_blimp(path, paradigm="determiner_noun_agreement_1")
    assert len(pair) == 1 and len(tlk.datasets.load_blimp(path)) == 2
    assert (pair[0].prefix, pair[0].word_good, pair[0].word_bad) == ("Raymond is selling this", "sketch", "sketches")
    assert pair[0].phenomenon == "determiner_noun_agreement"


def test_lre_file_and_folder(tmp_path):
    (tmp_path / "factual").mkdir()
    path = write(tmp_path / "factual" / "capital.json", LRE)
    expected = tlk.Fact("Mexico", "The capital city of {} is", " Mexico City", "country capital city", ("The capital of {} is",))
    assert tlk.datasets.load_lre(path)[1] == tlk.datasets.load_lre(tmp_path)[1] == expected
    assert len(tlk.datasets.load_lre(path, limit=1)) == 1


@pytest.fixture
def pararel(tmp_path):
    (tmp_path / "pattern_data" / "graphs_json").mkdir(parents=True)
    (tmp_path / "trex_lms_vocab").mkdir()
    usable = ["[X] was born in [Y].", "[X] is native to [Y] .", "[X] came from [Y]", "[X] hails from [Y]."]
    others = ["[Y] is the birthplace of [X].", "[X], from [Y], was", "[X], from [Y],", "Was [X] born in [Y]?"]
    patterns = {"P19": [*usable, *others], "P20": usable[:2]}
    for relation, templates in patterns.items():
        write(tmp_path / "pattern_data" / "graphs_json" / f"{relation}.jsonl", [{"pattern": t} for t in templates], lines=True)
        pairs = [{"sub_label": f"Person {i}", "obj_label": f"City {i % 7}", "uuid": str(i)} for i in range(150)]
        write(tmp_path / "trex_lms_vocab" / f"{relation}.jsonl", [*pairs, pairs[0]], lines=True)
    return tmp_path


def test_pararel_keeps_templates_with_the_object_at_the_end(pararel):
    facts = tlk.datasets.load_pararel(pararel, limit=2)
    assert len(facts) == 4 and {fact.relation for fact in facts} == {"P19", "P20"}
    assert facts[0] == tlk.Fact("Person 0", "{} was born in", " City 0", "P19", ("{} is native to", "{} came from", "{} hails from"))
    assert len(tlk.datasets.load_pararel(pararel, relations=["P20"])) == 150


def test_context_pararel(pararel):
    facts = tlk.datasets.load_context_pararel(pararel, relations=["P20", "P19"])
    assert [fact.relation for fact in facts] == ["P20"] * 100 + ["P19"] * 100
    assert [fact.subject for fact in facts[100:]] == [f"Person {i}" for i in range(100)]  # the first ones, as they stand
    forms = ("was born in", "is native to", "came from", "hails from", ", from", "?")
    for fact in facts[100:]:
        assert len(fact.paraphrases) == 5
        peoples = []
        for template, own in zip((fact.template, *fact.paraphrases), forms, strict=True):
            *context, question = fact.rephrase(template).text.split("\n")
            assert fact.target.strip() not in "".join(context) and len({line.split("City")[1] for line in context}) == 4 == len(context)
            assert all(line.endswith("?" if own == "?" else ".") and fact.subject + " " not in line for line in context)
            assert question == (f"Was {fact.subject} born in" if own == "?" else f"{fact.subject} {own}".replace(" ,", ","))
            peoples.append([line.split("Person ")[1].split(" ")[0] for line in context])
        assert len(set(map(tuple, peoples))) > 1  # drawn for each prompt
    again = tlk.datasets.load_context_pararel(pararel, relations=["P19"])
    assert again == facts[100:] and tlk.datasets.load_context_pararel(pararel, relations=["P19"], seed=1) != again
    assert tlk.datasets.load_context_pararel(pararel, relations=["P19"], limit=10) == again[:10]


def test_no_context_has_the_answer_not_even_in_a_subject(pararel):
    rows = [{"sub_label": f"{name} Cathedral", "obj_label": name} for name in ("Rome", "Oslo", "Lima", "Bonn", "Cork", "Nice")]
    rows += [{"sub_label": "Rome Tower", "obj_label": "Paris"}, {"sub_label": "Romeo's House", "obj_label": "Verona"}]
    write(pararel / "trex_lms_vocab" / "P20.jsonl", rows, lines=True)
    contexts = []
    for seed in range(30):
        first = tlk.datasets.load_context_pararel(pararel, relations=["P20"], limit=1, seed=seed)[0]
        contexts += [text.rsplit("\n", 1)[0] for text in (first.template, *first.paraphrases)]
    assert first.target == " Rome" and not any("Rome " in text or "Rome." in text for text in contexts)
    assert any("Romeo" in text for text in contexts)  # a word, not letters
    write(pararel / "trex_lms_vocab" / "P20.jsonl", rows[:4], lines=True)
    for variant, message in (("ours", "3 different objects beside that of 'Rome Cathedral', fewer than 4"), ("wen_bai", "too few different objects")):
        with pytest.raises(DataError, match=message):
            tlk.datasets.load_context_pararel(pararel, relations=["P20"], variant=variant)


def test_context_pararel_takes_the_published_relations(pararel):
    assert len(tlk.datasets.CONTEXT_RELATIONS) == 22 == len(set(tlk.datasets.CONTEXT_RELATIONS))
    with pytest.raises(DataError, match="no relation 'P39' with patterns and tuples; it has P19, P20; pass relations= of these"):
        tlk.datasets.load_context_pararel(pararel)
    with pytest.raises(InputError, match="limit=0 takes no fact"):
        tlk.datasets.load_context_pararel(pararel, limit=0)


def test_punctuation_takes_the_first_lines_of_each_mark(tmp_path):
    lines = [f" Sentence {i} ends here{'.,!?;'[i % 5]} " for i in range(40)] + ["no mark", "", "?"]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    sentences = tlk.datasets.load_punctuation(path, limit=3)
    assert [s[-1] for s in sentences] == [mark for mark in ".,!?;" for _ in range(3)]
    assert sentences[:3] == ["Sentence 0 ends here.", "Sentence 5 ends here.", "Sentence 10 ends here."]
    assert len(tlk.datasets.load_punctuation(path)) == 40  # fewer than 200 of each
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert tlk.datasets.load_punctuation(tmp_path / "text.txt.gz", limit=3) == sentences
    with pytest.raises(DataError, match=r"the bundled corpus has no sentence that ends in , ;; pass marks='\.!\?', or another source"):
        tlk.datasets.load_punctuation()
    with pytest.raises(DataError, match="has no sentence that ends in :; pass a text with a sentence a line"):
        tlk.datasets.load_punctuation(path, marks=":")
    with pytest.raises(DataError, match=r"cannot read .*none.txt' as text"):
        tlk.datasets.load_punctuation(tmp_path / "none.txt")
    with pytest.raises(InputError, match="ask for no sentence"):
        tlk.datasets.load_punctuation(path, marks=["..."])


def test_a_hub_data_set_is_read_by_the_datasets_library(tmp_path):
    """A local folder in the hub's layout goes the same way as a hub id: through ``datasets.load_dataset``."""
    import datasets

    hub = tmp_path / "someone" / "counterfact"
    (hub / "data").mkdir(parents=True)
    datasets.Dataset.from_list([COUNTERFACT]).to_parquet(hub / "data" / "train-00000-of-00001.parquet")
    datasets.Dataset.from_list([COUNTERFACT, COUNTERFACT]).to_parquet(hub / "data" / "test-00000-of-00001.parquet")
    local = tlk.datasets.load_counterfact(write(tmp_path / "c.json", [COUNTERFACT]))
    assert tlk.datasets.load_counterfact(str(hub)) == local
    assert len(tlk.datasets.load_counterfact(str(hub), split="test")) == 2
    assert tlk.datasets.load_counterfact(hub / "data" / "train-00000-of-00001.parquet") == local


def test_a_hub_id_that_cannot_be_had_says_what_to_do():
    with pytest.raises(DataError, match=r"cannot load 'no-such/data-set' \(.*\); pass a local file or folder"):
        tlk.datasets.load_counterfact("no-such/data-set")


@pytest.mark.parametrize(
    ("load", "rows", "message"),
    [
        (tlk.datasets.load_known, [KNOWN[0], {"subject": "x"}], r"bad.jsonl, line 2: field 'attribute' is missing; the record has 'subject'"),
        (tlk.datasets.load_known, [KNOWN[0] | {"subject": 3}], r"line 1: field 'subject' is 3; it must be text"),
        (tlk.datasets.load_known, [KNOWN[0] | {"subject": " "}], r"line 1: field 'subject' is ' '; it must be text that is not blank"),
        (tlk.datasets.load_known, [KNOWN[0] | {"subject": "Mars"}], r"line 1: field 'prompt' is 'Vinson .*', in which subject 'Mars' does not occur"),
        (tlk.datasets.load_known, [[1, 2]], r"line 1: '\[1, 2\]' is no record"),
        (tlk.datasets.load_counterfact, [COUNTERFACT | {"requested_rewrite": 1}], r"line 1: field 'requested_rewrite' is 1; it must be a record"),
        (tlk.datasets.load_counterfact, [COUNTERFACT | {"paraphrase_prompts": [1]}], r"field 'paraphrase_prompts' holds 1; it must be a list"),
        (tlk.datasets.load_zsre, [MEND | {"answers": []}], r"line 1: field 'answers' is ''"),
        (tlk.datasets.load_zsre, [KNOWEDIT | {"locality": {"x": 1}}], r"line 1, 'locality': field 'x' is '1'; it must be a list of records"),
        (tlk.datasets.load_blimp, [{"UID": "x"}], r"field 'sentence_good' is missing"),
    ],
)  # fmt: skip
def test_malformed_records_name_file_line_and_field(tmp_path, load, rows, message):
    path = write(tmp_path / "bad.jsonl", rows, lines=True)
    if isinstance(rows[0], list):
        path.write_text("\n[[1, 2]]")
        message = message.replace("line 1", "line 2")
    with pytest.raises(DataError, match=message):
        load(path)


def test_malformed_files(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('[\n{"subject": "a"},\n{"subject": }\n]')
    with pytest.raises(DataError, match="line 2: field 'attribute' is missing"):
        tlk.datasets.load_known(broken)
    broken.write_text(json.dumps(KNOWN, indent=1)[:-20])
    with pytest.raises(DataError, match=r"broken.json, line \d+: not JSON"):
        tlk.datasets.load_known(broken)
    lines = tmp_path / "broken.jsonl"
    lines.write_text(json.dumps(KNOWN[0]) + "\n{oops\n")
    with pytest.raises(DataError, match=r"broken.jsonl, line 2: not JSON"):
        tlk.datasets.load_known(lines)
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b"[]")[:-4])
    with pytest.raises(DataError, match=r"cannot read .*cut.json.gz"):
        tlk.datasets.load_known(tmp_path / "cut.json.gz")
    with pytest.raises(DataError, match="there is no file"):
        tlk.datasets.load_known(tmp_path / "nowhere.json")
    (tmp_path / "bad.csv").write_text("subject,prompt\nFrance,The capital of France is\n")
    with pytest.raises(DataError, match=r"bad.csv, row 0: field 'attribute' is missing"):
        tlk.datasets.load_known(tmp_path / "bad.csv")
    with pytest.raises(DataError, match="pass the folder that has them"):
        tlk.datasets.load_pararel(tmp_path)


def test_arrays_count_lines_of_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[\n" + ",\n\n".join(json.dumps(row) for row in [*KNOWN, {}]) + "\n]")
    with pytest.raises(DataError, match=r"a.json, line 6: field 'subject' is missing"):
        tlk.datasets.load_known(path)


def test_load_facts_by_name(tmp_path, pararel):
    assert tlk.load_facts("known_1000", write(tmp_path / "k.json", KNOWN))[0].subject == "Vinson Massif"
    assert tlk.load_facts("counterfact", write(tmp_path / "c.json", [COUNTERFACT]))[0].target == " French"
    assert tlk.load_facts("zsre", write(tmp_path / "z.json", [MEND]))[0].target == " uniform"
    for relation in tlk.datasets.CONTEXT_RELATIONS:
        for folder in ("pattern_data/graphs_json", "trex_lms_vocab"):
            (pararel / folder / f"{relation}.jsonl").write_bytes((pararel / folder / "P20.jsonl").read_bytes())
    assert len(tlk.load_facts("context_pararel", pararel)) == 2200
    assert tlk.load_facts("context_pararel", pararel, limit=3) == tlk.load_facts("context_pararel", pararel)[:3]
    with pytest.raises(DataError, match="'pararel' has no default source"):
        tlk.load_facts("pararel")
    with pytest.raises(DataError, match="takes no source"):
        tlk.load_facts("factlm", tmp_path)
    with pytest.raises(DataError, match="data set 'counterfoil' is unknown, did you mean 'counterfact'"):
        tlk.load_facts("counterfoil")


def test_load_edit_cases_by_name(tmp_path):
    path = write(tmp_path / "c.json", [COUNTERFACT, COUNTERFACT])
    assert tlk.load_edit_cases("counterfact", path) == tlk.datasets.load_counterfact(path)
    assert len(tlk.load_edit_cases("counterfact", path, limit=1)) == 1 == len(tlk.load_edit_cases(limit=1))
    assert tlk.load_edit_cases("zsre", write(tmp_path / "z.json", [MEND]))[0].target_new == " uniform"
    with pytest.raises(DataError, match="data set 'zsrc' is unknown, did you mean 'zsre'"):
        tlk.load_edit_cases("zsrc")


def test_filters(factlm):
    facts = tlk.load_facts()[::100]
    wrong = [facts[0].retarget(" Oslo"), tlk.Fact("x", "{}" + " very" * 200, " y")]
    assert tlk.known_facts(factlm, [*facts, *wrong]) == [
        f for f in facts if int(factlm(tlk.Prompt.from_fact(factlm, f).tokens)[0, -1].argmax()) == tlk.Prompt.from_fact(factlm, f).target_token
    ]
    assert tlk.datasets.of_relation(facts, facts[0].relation) == [f for f in facts if f.relation == facts[0].relation]
    long = tlk.Fact("France", "The capital of {} is", " Paris and then some")
    assert tlk.datasets.single_token_facts(factlm, [long, tlk.Fact("France", "The capital of {} is", " Paris")]) == [long.retarget(" Paris")]
    assert predicted_tokens(factlm, []) == []
    sample = tlk.sample_facts(facts, 5, seed=2)
    assert sample == tlk.sample_facts(facts, 5, seed=2) != tlk.sample_facts(facts, 5, seed=3) and len(set(sample)) == 5
