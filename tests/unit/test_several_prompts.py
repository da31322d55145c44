"""A list of prompts gives a list: of each what it gives by itself."""

from __future__ import annotations

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.errors import DataError, InputError, PromptError

FACTS = tlk.load_facts("factlm")[:2]


def test_traces_of_several_prompts_are_those_of_each(gpt2, prompt):
    other = tlk.Prompt.from_tokens(prompt.tokens.flip(1), subject=range(2, 4), target=[7])
    for several in ([prompt, other], (prompt, other)):
        traces = tlk.trace(gpt2, several, 0.7, samples=2, component="attn_out")
        assert type(traces) is list
        for one, each in zip(traces, several, strict=True):
            alone = tlk.trace(gpt2, each, 0.7, samples=2, component="attn_out")
            assert one.settings == alone.settings and one.labels == alone.labels
            torch.testing.assert_close(one.indirect_effect, alone.indirect_effect, rtol=0, atol=0)
    assert isinstance(tlk.trace(gpt2, prompt, 0.7, samples=2), tlk.CausalTrace)


def test_facts_and_a_models_name_will_do():
    traces = tlk.trace("factlm", FACTS, samples=1, layers=[0], progress=False)
    assert [trace.target for trace in traces] == [fact.target for fact in FACTS]
    analyses = tlk.analyse_attention("factlm", FACTS, samples=1, progress=False)
    assert [analysis.target for analysis in analyses] == [fact.target for fact in FACTS]
    alone = tlk.analyse_attention("factlm", tlk.Prompt.from_fact("factlm", FACTS[1]), samples=1, progress=False)
    assert analyses[1].table.equals(alone.table)


def test_what_is_wrong_is_said_as_for_one(gpt2, prompt, without_type_checks):
    with pytest.raises(DataError, match="no prompt was given; pass at least one"):
        tlk.trace(gpt2, [])
    with pytest.raises(InputError, match=r"trace\(prompt=...\): 3 is an int"):
        tlk.trace(gpt2, [prompt, 3], 0.7, samples=1)
    with pytest.raises(PromptError, match="has no span 'verb'"):
        tlk.trace(gpt2, [prompt], corrupt="verb")
    with pytest.raises(tlk.errors.UnsupportedModelError, match="NoneType is not a TransformerLens model"):
        tlk.trace(None, [prompt])
