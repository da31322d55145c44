"""One sweep for several components, sides and severings: each of its traces is the one that `trace` gives, and the loop's."""

from __future__ import annotations

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.engine import recording
from tl_knowledge.engine import rows as engine_rows
from tl_knowledge.engine.forward import run_model
from tl_knowledge.runs import experiment

EXACT = 1e-12
PARTS = ("resid_post", "mlp_out", "attn_out")
SEVERED = ("mlp_out", ("attn_out", "mlp_out"))


def assert_is(one: tlk.CausalTrace, other: tlk.CausalTrace) -> None:
    assert one.settings == other.settings and one.labels == other.labels and one.known == other.known
    assert one.provenance.settings == other.provenance.settings
    assert one.clean_probability == pytest.approx(other.clean_probability, abs=EXACT)
    torch.testing.assert_close(one.indirect_effect, other.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)
    torch.testing.assert_close(one.total_effect, other.total_effect, rtol=0, atol=EXACT)


def test_each_is_the_loops(model, prompt):
    together = tlk.tracing.trace_together(model, prompt, 0.7, components=PARTS, sever=SEVERED, samples=2, progress=False)
    wanted = [(part, ()) for part in PARTS] + [("resid_post", module) for module in SEVERED]
    order = [(part, severed, side) for part, severed in wanted for side in ("subject", "relation")]
    assert len(together) == len(order)
    for one, (part, severed, side) in zip(together, order, strict=True):
        assert one.provenance.engine.startswith("rows")
        assert_is(one, tlk.trace(model, prompt, 0.7, corrupt=side, component=part, sever=severed, engine="loop", samples=2, progress=False))
        assert float(one.indirect_effect.nan_to_num().abs().max()) > 1e-6


def test_chunks_change_nothing(gpt2, prompt):
    asked = {"components": PARTS, "sever": SEVERED, "samples": 2, "progress": False}
    whole, pieces = (tlk.tracing.trace_together(gpt2, prompt, 0.7, memory_budget=budget, **asked) for budget in (2.0**28, 2.0**16))
    for one, other in zip(whole, pieces, strict=True):
        assert_is(one, other)


def test_parts_inside_a_block_go_with_the_others(model, prompt):
    """Heads and neurons, which keep their part whole, in the same call as states, which do not."""
    parts, few = ("head", "mlp_out", "neuron"), {"samples": 2, "layers": [1, 3], "units": [0, 2]}
    together = tlk.tracing.trace_together(model, prompt, 0.7, corrupt="subject", components=parts, sever="z", **few)
    for one, part in zip(together, parts, strict=False):
        units = {} if part == "mlp_out" else {"units": [0, 2]}
        assert_is(one, tlk.trace(model, prompt, 0.7, component=part, engine="loop", samples=2, layers=[1, 3], **units))
    assert_is(together[-1], tlk.trace(model, prompt, 0.7, sever="z", engine="loop", samples=2, layers=[1, 3]))


def test_base_runs_and_prefixes_are_computed_once(gpt2, prompt, monkeypatch):
    tlk.tracing.trace_together(gpt2, prompt, 0.7, samples=1)  # what the model can do is known from here on
    rows: list[int] = []

    def watched(model, tokens, hooks=(), **arguments):
        rows.append(len(tokens))
        return run_model(model, tokens, hooks, **arguments)

    for user in (recording, experiment, engine_rows):
        monkeypatch.setattr(user, "run_model", watched)
    tlk.tracing.trace_together(gpt2, prompt, 0.7, components=PARTS, sever=SEVERED, samples=2)
    assert [number for number in rows if number > 1] == [5]  # clean, and two corrupted runs of two samples
    assert len(rows) - 1 <= 3 * len(prompt)  # each forward of restored runs begins with one row


def test_a_swap_a_span_and_positions(gpt2, prompt):
    swap = tlk.PromptSwap(tlk.Prompt.from_tokens(prompt.tokens.flip(1), subject=[1, 2]))
    span = tlk.Span("verb", (3, 4))
    together = tlk.tracing.trace_together(gpt2, prompt, swap, corrupt=[span, "subject"], components="mlp_out", positions=[2, 4], target=7)
    for one, side in zip(together, (span, "subject"), strict=True):
        assert_is(one, tlk.trace(gpt2, prompt, swap, corrupt=side, component="mlp_out", positions=[2, 4], target=7, engine="loop"))


def test_several_prompts_and_repeated_words(gpt2, prompt):
    lists = tlk.tracing.trace_together(gpt2, [prompt, prompt], 0.7, corrupt="subject", components=["attn_out", "attn_out"], samples=1)
    assert [len(each) for each in lists] == [1, 1]
