"""Edits from the relation's side: the cases, the driver, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from support import fingerprint
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.editing.methods import rome
from tl_knowledge.editing.optimise.fact_rows import rows_beside, rows_of
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.errors import DataError, InputError, PromptError
from tl_knowledge.models.weights import output_hook

RELATIONS = tlk.datasets.load_relations()
CASES = tlk.load_edit_cases()[:2]


def test_a_case_asks_for_the_relations_name():
    case = CASES[0]
    (side,) = tlk.datasets.relation_side_cases(case, RELATIONS, templates=("From {} to [object]:", "{} and [object] by"))
    subject, new, old = case.fact.subject, case.target_new.strip(), case.fact.target.strip()
    assert side.fact.text == f"From {subject} to {new}:" and side.fact.target == " None" and side.target_new == " country of origin"
    assert side.paraphrases == (tlk.Fact(subject, f"{{}} and {new} by", " None", case.fact.relation),)
    assert side.fact.removed == tlk.Fact(subject, f"From {{}} to {old}:", "None", case.fact.relation)
    assert side.rewrite.removed == side.fact.removed and side.rewrite.target == " country of origin" and side.rewrite.replaces == " None"
    assert side.neighbourhood == () and side.case_id == case.case_id


def test_cases_that_do_not_fit():
    with pytest.raises(DataError, match=r"the relation 'P495' of .* has no name among those given \(P17\)"):
        tlk.datasets.relation_side_cases(CASES[0], RELATIONS[:1])
    with pytest.raises(PromptError, match="does not name both"):
        tlk.datasets.relation_side_cases(CASES[0], RELATIONS, templates=("The relation of {} is",))
    with pytest.raises(PromptError, match="no wording"):
        tlk.datasets.relation_side_cases(CASES[0], RELATIONS, templates=())


def test_the_value_of_two_facts_at_once_equals_whole_forwards(gpt2, monkeypatch):
    """Rows of two facts with answers of two and three tokens, one change: the loss and its Adam steps by whole forwards, row by row."""
    from support import tokenizer_of_sixty_words

    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    one = rows_of(gpt2, tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11"), ("{}", "w5 w6 {}", "w2 {}"), "subject")
    other = rows_of(gpt2, tlk.Fact("w3 w9", "w2 {} w6", " w1 w2 w5"), ("{}", "w5 w6 {}", "w2 {}"), "subject")
    settings = tlk.editing.ValueSettings(steps=5, learning_rate=0.1, clamp=0.8)
    site = output_hook(gpt2, 1)
    value = optimise_values(gpt2, [rows_beside(one, other, 2)], 1, site, settings)[0]

    def log_p(rows, k, length, delta):
        def change(x, *, hook):
            changed = x.clone()
            changed[0, rows.edited[k]] = changed[0, rows.edited[k]] + delta
            return changed

        return gpt2.run_with_hooks(rows.tokens[k : k + 1, :length], fwd_hooks=[(site, change)])[0].log_softmax(-1)

    delta = torch.zeros_like(value.delta, requires_grad=True)
    optimiser, losses = torch.optim.Adam([delta], lr=0.1), []
    reference = log_p(one, 3, one.essence + 1, delta)[one.essence].detach()
    for step in range(5):
        asked = 0.0
        for rows, k in [(one, 0), (one, 1), (one, 2), (other, 0), (other, 1)]:
            own = log_p(rows, k, int(rows.scored[k, -1]) + 1, delta)
            asked = asked - sum(own[p, t] for p, t in zip(rows.scored[k], rows.answer, strict=True)) / 2 / 5  # 2: the first fact's tokens
        now = log_p(one, 3, one.essence + 1, delta)[one.essence]
        loss = asked + 0.0625 * (now.exp() * (now - reference)).sum() + 0.5 * delta.norm() / value.start.norm() ** 2
        losses.append(float(loss.detach()))
        if step < 4:
            (delta.grad,) = torch.autograd.grad(loss, [delta])
            optimiser.step()
            with torch.no_grad():
                delta.mul_(min(1.0, 0.8 * float(value.start.norm() / delta.norm())))
    assert value.losses == pytest.approx(losses, rel=1e-9)
    torch.testing.assert_close(value.delta, delta.detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", [tlk.ROME(layer=FACTLM_LAYER, variant="wei2024"), tlk.MEMIT(layers=(FACTLM_LAYER,), variant="wei2024")])
def test_a_fact_of_the_entitys_side_is_refused(factlm, factlm_moments, method):
    with pytest.raises(InputError, match="variant 'wei2024' edits facts of the relation's side"):
        tlk.plan_edit(factlm, CASES[0].rewrite, method, moments=factlm_moments)
    side = tlk.datasets.relation_side_cases(CASES[0], RELATIONS)[0].rewrite
    with pytest.raises(InputError, match="is not"):
        tlk.plan_edit(factlm, replace(side, removed=None), method, moments=factlm_moments)


@pytest.mark.slow
def test_both_sides_are_read_after_edits_from_either(factlm, factlm_moments, tmp_path, monkeypatch):
    monkeypatch.setattr(rome, "context_templates", lambda *args, **kwargs: ("{}",))  # one context, for speed
    before = fingerprint(factlm)

    def measured():
        return tlk.localised.measure_relation_side(
            factlm, CASES, relations=RELATIONS, methods=("ft", "rome"), moments=factlm_moments, store=tmp_path / "run", progress=False
        )

    sides = measured()
    assert fingerprint(factlm) == before
    assert list(sides.table.groupby(["method", "edited"], sort=False).size()) == [2] * 5
    assert list(sides.summary()["edited"]) == ["", "entity", "relation", "entity", "relation", "relation's last token (ours)"]
    frame = sides.to_dataframe().set_index(["method", "edited", "case_id"])
    side = tlk.datasets.relation_side_cases(CASES, RELATIONS)[1]
    edit = tlk.plan_edit(factlm, side.rewrite, tlk.FineTune.for_model(factlm, variant="meng2022_code"))
    for hooks, prefix in (([], "base_"), (edit.hooks(), "")):  # by hand: the likelier of two answers, per token
        for case, name in ((side, "relation_ES"), (CASES[1], "entity_ES")):
            new, old = (nll(factlm, case.fact.text, answer, hooks) for answer in (case.target_new, case.fact.target))
            assert frame.loc[("ft", "relation", "1"), prefix + name] == 100 * (new < old)
    pd.testing.assert_frame_equal(measured().table, sides.table)  # from the folder
    again = tlk.localised.RelationSides.load(sides.save(tmp_path / "sides"))
    pd.testing.assert_frame_equal(again.table, sides.table)
    assert again.settings == sides.settings and sides.settings.method_settings["rome, relation"]["variant"] == "wei2024"
    assert "ft, rome from both sides on 2 cases" in repr(sides) and len(sides.plot().data) == 6


def nll(model, text, answer, hooks) -> float:
    prompt = tlk.Prompt.from_text(model, text)
    ids = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
    tokens = torch.cat([prompt.tokens, torch.tensor([ids[:-1]], dtype=torch.long)], dim=1)
    with torch.no_grad():
        log_p = model.run_with_hooks(tokens, fwd_hooks=hooks)[0].double().log_softmax(-1)
    return -sum(float(log_p[len(prompt) - 1 + k, token]) for k, token in enumerate(ids)) / len(ids)


def test_what_the_driver_refuses(factlm):
    with pytest.raises(InputError, match="method 'mend' is unknown"):
        tlk.localised.measure_relation_side(factlm, CASES, relations=RELATIONS, methods="mend", progress=False)
    with pytest.raises(InputError, match="given twice"):
        tlk.localised.measure_relation_side(factlm, [CASES[0], CASES[0]], relations=RELATIONS, methods="ft", progress=False)
    with pytest.raises(InputError, match="needs the second moments"):
        tlk.localised.measure_relation_side(factlm, CASES[:1], relations=RELATIONS, methods="rome", progress=False)
