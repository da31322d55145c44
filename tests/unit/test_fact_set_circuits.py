"""One circuit for a fact set: equal to plain forwards one by one, resumable to the same bytes, of any prompt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from support import fingerprint, hooks_left, tokenizer_of_sixty_words
from support.models import BUILDERS
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError
from tl_knowledge.runs.roles import ROLES, roles_of_side

FACTS = [tlk.Fact(f"w{k} w9 w{k + 1}", "w1 {} w4 w8 w2", f" w{k + 9}", relation="r") for k in range(3, 6)]
FACTS.append(tlk.Fact("w20", "w6 {} w3", " w30"))
CALL = {"samples": 2, "known_only": False, "progress": False, "limit": 10}
EXACT = 1e-9


class Slow:
    """One fact of a set, one plain forward a run, all hooks written out here."""

    def __init__(self, model, fact, corrupt, samples) -> None:
        self.model, self.prompt, self.n = model, tlk.Prompt.from_fact(model, fact), samples
        self.span = list(self.prompt.span(corrupt).positions)
        noise = tlk.GaussianNoise(1.0, seed=tlk.tracing.fact_seed(fact))
        self.noising = tlk.hooks.corrupt(tuple(self.span), noise)
        self.rows = self.prompt.tokens.expand(samples, -1)
        self.length, self.target = len(self.prompt), self.prompt.target_token
        self.runs = {"clean": self.record([]), "corrupted": self.record(self.noising)}
        self.clean, self.corrupted = (self.runs[run][1] for run in ("clean", "corrupted"))
        self.total = float((self.clean - self.corrupted).mean())

    def record(self, hooks):
        kept = {}

        def keep(name):
            def hook_fn(activation, *, hook):
                kept[name] = activation.clone()

            return name, hook_fn

        names = ["blocks.0.hook_resid_pre"] + [f"blocks.{layer}.hook_{part}" for layer in range(4) for part in ("attn_out", "mlp_out")]
        return kept, self.probability(hooks + [keep(name) for name in names])

    def probability(self, hooks):
        with torch.no_grad():
            return self.model.run_with_hooks(self.rows, fwd_hooks=hooks)[:, -1].softmax(-1)[:, self.target]

    def held(self, sites):
        """The clean run with some sites (component, layer, position) held at their corrupted values."""

        def hold(name, positions):
            def hook_fn(activation, *, hook):
                changed = activation.clone()
                changed[:, positions] = self.runs["corrupted"][0][name][:, positions]
                return changed

            return name, hook_fn

        places = {}
        for part, layer, pos in sites:
            places.setdefault(f"blocks.{layer}.hook_{part}", []).append(pos)
        return float(self.probability([hold(name, positions) for name, positions in places.items()]).mean())

    def need(self, site):
        return (float(self.clean.mean()) - self.held([site])) / self.total

    def roles(self, corrupt):
        subject, relation = list(self.prompt.subject.positions), list(self.prompt.relation.positions)
        after = [pos for pos in range(self.length) if pos > subject[-1]]
        if corrupt == "subject":
            groups = (subject[:1], subject[1:-1], subject[-1:], after[:1], after[1:-1], [self.length - 1])
        else:
            groups = (subject, relation[:1], relation[1:-1], relation[-1:])
        return dict(zip(roles_of_side(corrupt), groups, strict=True))


@pytest.mark.parametrize("corrupt", ["subject", "relation"])
def test_a_fact_sets_circuit_equals_plain_forwards(speaking, corrupt):
    """Needs, ranking, faithfulness and completeness, on every architecture."""
    before = fingerprint(speaking)
    circuit = tlk.circuits.from_facts(speaking, FACTS, 1.0, corrupt=corrupt, **CALL)
    slow = [Slow(speaking, fact, corrupt, 2) for fact in FACTS]
    assert len(circuit.facts) == len(FACTS) and circuit.growth["nodes"].unique().tolist() == [1, 2, 5, 10]
    needs = {}
    for part in ("mlp_out", "attn_out"):
        for layer in range(4):
            for role in roles_of_side(corrupt):
                values = [sum(one.need((part, layer, pos)) for pos in one.roles(corrupt)[role]) for one in slow]
                own = circuit.need[:, circuit.settings.components.index(part), layer, ROLES.index(role)]
                np.testing.assert_allclose(own, values, rtol=1e-7, atol=EXACT)
                needs[part, layer, role] = np.mean(values)
    ranked = [(node.component, node.layer, node.role) for node in circuit.nodes]
    assert [needs[node] for node in ranked] == pytest.approx(sorted(needs.values(), reverse=True)[:10], rel=1e-7, abs=EXACT)
    for i, one in enumerate(slow):
        own = circuit.growth[circuit.growth["index"] == i].set_index("nodes")
        for count in (2, 10):
            inside = {(part, layer, pos) for part, layer, role in ranked[:count] for pos in one.roles(corrupt)[role]}
            assert own.loc[count, "sites"] == len(inside)
            first = min(one.span)
            every = {(part, layer, pos) for part in ("mlp_out", "attn_out") for layer in range(4) for pos in range(first, one.length)}
            low = float(one.corrupted.mean())
            kept = (one.held(every - inside) - low) / one.total
            lost = 1 - (one.held(inside) - low) / one.total if inside else 0.0
            assert own.loc[count, "faithfulness"] == pytest.approx(kept, rel=1e-7, abs=EXACT)
            assert own.loc[count, "completeness"] == pytest.approx(lost, rel=1e-7, abs=EXACT)
    assert fingerprint(speaking) == before and not hooks_left(speaking)


@pytest.fixture(scope="module")
def tiny():
    model = BUILDERS["bridge-gpt2"]()
    model.tokenizer = tokenizer_of_sixty_words()
    return model


@pytest.mark.parametrize("killed_after", [1, 5])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tiny, tmp_path, killed_after):
    """Killed among the needs (part 2 of 4), and among the shares; half of the next part was written."""
    program = textwrap.dedent(
        f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from tl_knowledge.results import storage
        real, written = storage.pq.write_table, []
        def write(table, where, **kwargs):
            real(table, where, **kwargs)
            if isinstance(where, storage.Path):
                written.append(where)
                if len(written) == {killed_after + 1}:
                    where.write_bytes(where.read_bytes()[:200])
                    os.kill(os.getpid(), 9)
        storage.pq.write_table = write
        from support.models import BUILDERS, tokenizer_of_sixty_words
        import tl_knowledge as tlk
        model = BUILDERS["bridge-gpt2"]()
        model.tokenizer = tokenizer_of_sixty_words()
        facts = [tlk.Fact(f"w{{k}} w9 w{{k + 1}}", "w1 {{}} w4 w8 w2", f" w{{k + 9}}", relation="r") for k in range(3, 6)]
        facts.append(tlk.Fact("w20", "w6 {{}} w3", " w30"))
        tlk.circuits.from_facts(model, facts, 1.0, facts_per_part=1, store={str(tmp_path / "run")!r}, **{CALL!r})
        """
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "run").glob("part-*.parquet"))) == killed_after
    resumed = tlk.circuits.from_facts(tiny, FACTS, 1.0, facts_per_part=1, store=tmp_path / "run", **CALL)
    whole = tlk.circuits.from_facts(tiny, FACTS, 1.0, facts_per_part=1, store=tmp_path / "whole", **CALL)
    parts = sorted(path.name for path in (tmp_path / "whole").glob("part-*.parquet"))
    assert len(parts) == 8
    for name in parts:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert resumed.save(tmp_path / "one").read_bytes() == whole.save(tmp_path / "other").read_bytes()


def test_a_store_of_another_run_or_a_part_of_another_place_is_refused(tiny, tmp_path):
    tlk.circuits.from_facts(tiny, FACTS, 1.0, facts_per_part=1, store=tmp_path, **CALL)
    with pytest.raises(DataError, match="other samples"):
        tlk.circuits.from_facts(tiny, FACTS, 1.0, facts_per_part=1, store=tmp_path, **{**CALL, "samples": 3})
    (tmp_path / "part-00001.parquet").write_bytes((tmp_path / "part-00000.parquet").read_bytes())
    with pytest.raises(DataError, match="other facts, nodes or settings"):
        tlk.circuits.from_facts(tiny, FACTS, 1.0, facts_per_part=1, store=tmp_path, **CALL)


def test_what_cannot_be_asked_is_left_out_with_the_reason(factlm):
    known = tlk.load_facts("factlm")[:3]
    facts = [known[0].retarget(" violin"), *known, tlk.Fact("Paris", "{}", " piano")]
    circuit = tlk.circuits.from_facts(factlm, facts, samples=1, limit=5, progress=False)
    assert circuit.given == 5 and set(circuit.skipped) == {0, 4} and circuit.skipped[0].startswith("not known")
    assert circuit.facts["index"].tolist() == [1, 2, 3]
    with pytest.raises(DataError, match=r"none of the 1 fact could be measured \(the first: not known"):
        tlk.circuits.from_facts(factlm, facts[0], samples=1, progress=False)
    with pytest.raises(ComponentError, match="fact by fact"):
        tlk.circuits.from_facts(factlm, known, components="head", progress=False)
    with pytest.raises(ComponentError, match="cannot be nodes"):
        tlk.circuits.from_facts(factlm, known, components=("resid_post", "mlp_out"), progress=False)


def test_sides_against_each_other_and_figures(factlm):
    facts = tlk.load_facts("factlm")[:3]
    subject, relation = (
        tlk.circuits.from_facts(factlm, facts, corrupt=side, samples=2, limit=12, rank="either", progress=False) for side in ("subject", "relation")
    )
    prompt = tlk.Prompt.from_fact(factlm, facts[0])
    assert tlk.circuits.Node("mlp_out", FACTLM_LAYER, prompt.subject.last) in subject.of(prompt)
    both = subject.compare(relation)
    table, shared = both.to_dataframe(), both.overlap()
    np.testing.assert_allclose(table["difference"], table["relation"] - table["subject"], rtol=0, atol=1e-12)
    sites = [set(circuit.of(prompt)) for circuit in (subject, relation)]
    assert shared["overlap"][0] == len(sites[0] & sites[1]) / len(sites[0] | sites[1]) and 0 < shared["overlap"][0] < 1
    last = table[(table["role"] == "last subject token") & (table["layer"] == FACTLM_LAYER) & (table["component"] == "mlp_out")].iloc[0]
    assert last["in subject"] == 1 and last["subject"] > 0.3
    with pytest.raises(ComponentError, match="both circuits are called"):
        subject.compare(subject)
    drawn = sum(len(trace.x) for trace in subject.plot().data if trace.text is not None)
    assert drawn == len(subject.nodes)
    summary = subject.summary()
    assert summary["nodes"].tolist() == [1, 2, 5, 10, 12]
    assert (summary["faithfulness_smallest"] <= summary["faithfulness"] + 1e-12).all()
    line = next(trace for trace in subject.plot_growth().data if trace.name == "kept alone (faithfulness)")
    assert list(line.y) == summary["faithfulness"].tolist()


def test_states_make_a_circuit_of_their_own(factlm):
    circuit = tlk.circuits.from_facts(factlm, tlk.load_facts("factlm")[:2], components="resid_post", samples=1, limit=10, progress=False)
    assert {node.component for node in circuit.nodes} == {"resid_post"} and circuit.completeness > 0.5
