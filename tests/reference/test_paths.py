"""Path interventions equal the obvious runs one by one, on every architecture, and a planted circuit is found exactly."""

from __future__ import annotations

import pytest
import torch
from support import fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge.circuits.edges import Edge
from tl_knowledge.circuits.paths import answer_node, find_edges, find_needs, measure_needs, measure_shares, measure_wired
from tl_knowledge.engine import rows
from tl_knowledge.metrics import answer_log_probability, answer_probability
from tl_knowledge.models.loading import hooked_transformer_available
from tl_knowledge.runs.contrast import edit_contrast, node_hooks, noise_contrast
from tl_knowledge.runs.interventions import measure_nodes
from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.nodes import Node, hook_of

EXACT = 1e-11
BUDGET = 2.0**30
NOISE = tlk.GaussianNoise(0.7, seed=3)
SETS = {
    "modules": [
        Node("mlp_out", 0, 2),
        Node("attn_out", 1, 4),
        Node("mlp_out", 1, 4),
        Node("attn_out", 2, 6),
        Node("mlp_out", 3, 6),
        Node("mlp_out", 2, 3),
    ],
    "heads and neurons": [
        Node("neuron", 0, 2, (1, 5, 20)),
        Node("head", 1, 6, (2,)),
        Node("head", 1, 6, (0,)),
        Node("attn_out", 2, 4),
        Node("neuron", 2, 6, (0, 7)),
        Node("head", 3, 6, (1,)),
    ],
    "states": [Node("resid_post", 0, 2), Node("resid_post", 1, 4), Node("resid_post", 2, 4), Node("resid_post", 2, 6), Node("resid_post", 3, 6)],
}


def noisy(model, prompt, metric="probability", answer=(5,)):
    tokens = torch.tensor(answer)
    hooks = node_hooks(model, ["head", "neuron"])
    return noise_contrast(model, prompt, tokens, prompt.subject.positions, NOISE, 2, hooks, Metric(metric))


class Slow:
    """One plain forward a run, from hooks written out here."""

    def __init__(self, contrast) -> None:
        self.contrast, self.model = contrast, contrast.model
        self.rows = contrast.tokens.expand(contrast.samples, -1)

    def value(self, node, run):
        recorded = getattr(self.contrast, run)[hook_of(node)]
        at = recorded[:, node.pos].expand(self.contrast.samples, *recorded.shape[2:])
        return at[:, list(node.units)] if node.units else at

    def run(self, writes, reads=()):
        """Score ``[sample]``, and the natural value of some nodes."""
        readings = {}

        def act(node):
            def hook_fn(activation, *, hook):
                where = (slice(None), node.pos, list(node.units)) if node.units else (slice(None), node.pos)
                if node in reads:
                    readings[node] = activation[where].clone()
                if node not in writes:
                    return None
                changed = activation.clone()
                changed[where] = writes[node]
                return changed

            return (hook_of(node), hook_fn)

        hooks = self.contrast.corrupting + [act(node) for node in dict.fromkeys([*reads, *writes])]
        with torch.no_grad():
            logits = self.model.run_with_hooks(self.rows, fwd_hooks=hooks)[:, list(self.contrast.answer_positions)]
        score = {"probability": answer_probability, "log_probability": answer_log_probability}[self.contrast.metric.name]
        return score(logits, self.contrast.answer[None]), readings

    def edges(self, nodes):
        contrast = self.contrast
        weights = {}
        for sender in (*contrast.sources, *nodes):
            others = [node for node in nodes if node != sender]
            held = {node: self.value(node, "corrupted") for node in others}
            score, read = self.run({**held, sender: self.value(sender, "clean")}, reads=others)
            weights[sender, answer_node(contrast)] = (score - contrast.corrupted_score).mean()
            for node in others:
                moved, _ = self.run({node: read[node]})
                weights[sender, node] = (moved - contrast.corrupted_score).mean()
        return weights

    def needs(self, nodes):
        """What the circuit, kept alone, loses without each edge."""
        contrast = self.contrast
        alone = {source: self.value(source, "clean") for source in contrast.sources}
        alone |= {node: self.value(node, "corrupted") for node in everything_else(contrast, nodes)}
        kept, values = self.run(alone, reads=nodes)
        needs = {}
        for sender in (*contrast.sources, *nodes):
            later = [node for node in nodes if node != sender]
            score, read = self.run({**alone, **values, sender: self.value(sender, "corrupted")}, reads=later)
            needs[sender, answer_node(contrast)] = (kept - score).mean()
            for node in later:
                needs[sender, node] = (kept - self.run({**alone, node: read[node]})[0]).mean()
        return needs


@pytest.mark.parametrize("metric", ["probability", "log_probability"])
@pytest.mark.parametrize("nodes", SETS.values(), ids=SETS)
def test_edges_equal_one_forward_each(model, prompt, nodes, metric):
    contrast = noisy(model, prompt, metric)
    before = fingerprint(model)
    edges, used = find_edges(contrast, nodes, BUDGET)
    assert used == "rows"
    weights = {(edge.source, edge.target): edge.weight for edge in edges}
    expected = Slow(contrast).edges(nodes)
    assert sum(abs(float(value)) > 1e-6 for value in expected.values()) > 8  # there is something to agree about
    for pair, value in expected.items():
        assert weights.get(pair, 0.0) == pytest.approx(float(value), abs=EXACT), pair
    assert set(weights) <= set(expected)
    assert fingerprint(model) == before and not hooks_left(model)


@pytest.mark.parametrize("nodes", SETS.values(), ids=SETS)
def test_effects_needs_and_shares_equal_one_forward_each(model, prompt, nodes):
    contrast = noisy(model, prompt)
    slow = Slow(contrast)
    clean = {source: slow.value(source, "clean") for source in contrast.sources}
    total = contrast.total_effect.mean()
    for i, node in enumerate(nodes):
        effect = slow.run({node: slow.value(node, "clean")})[0] - contrast.corrupted_score
        need = contrast.clean_score - slow.run({**clean, node: slow.value(node, "corrupted")})[0]
        torch.testing.assert_close(measure_nodes(contrast, nodes, BUDGET)[i], effect, rtol=0, atol=EXACT)
        torch.testing.assert_close(measure_needs(contrast, nodes, BUDGET)[i], need, rtol=0, atol=EXACT)
    (shares,) = measure_shares(contrast, [nodes], BUDGET)
    restored = slow.run({node: slow.value(node, "clean") for node in nodes})[0]
    held = slow.run({**clean, **{node: slow.value(node, "corrupted") for node in nodes}})[0]
    torch.testing.assert_close(shares.restored, (restored - contrast.corrupted_score) / total, rtol=0, atol=EXACT / float(total.abs()))
    torch.testing.assert_close(shares.completeness, 1 - (held - contrast.corrupted_score) / total, rtol=0, atol=EXACT / float(total.abs()))
    kept = slow.run(clean | {node: slow.value(node, "corrupted") for node in everything_else(contrast, nodes)})[0]
    torch.testing.assert_close(shares.faithfulness, (kept - contrast.corrupted_score) / total, rtol=0, atol=EXACT / float(total.abs()))


@pytest.mark.parametrize("nodes", SETS.values(), ids=SETS)
def test_needs_of_edges_equal_one_forward_each(model, prompt, nodes):
    contrast = noisy(model, prompt, "log_probability")
    needs, expected = find_needs(contrast, nodes, BUDGET), Slow(contrast).needs(nodes)
    assert sum(abs(float(value)) > 1e-7 for value in expected.values()) > 6
    for pair, value in expected.items():
        assert needs.get(pair, 0.0) == pytest.approx(float(value), abs=EXACT), pair
    assert set(needs) <= set(expected)


@pytest.mark.parametrize("nodes", SETS.values(), ids=SETS)
def test_wires_and_what_cutting_one_costs(model, prompt, nodes):
    """All wires are the whole circuit, none is nothing; cutting one costs its need."""
    contrast = noisy(model, prompt)
    total = contrast.total_effect.mean()
    needs = find_needs(contrast, nodes, BUDGET)
    wires = [Edge(source, target, 0.0) for source, target in needs]
    (shares,) = measure_shares(contrast, [nodes], BUDGET)
    loose = EXACT / float(total.abs())
    torch.testing.assert_close(measure_wired(contrast, nodes, wires, BUDGET), shares.faithfulness, rtol=0, atol=loose)
    torch.testing.assert_close(measure_wired(contrast, nodes, [], BUDGET), torch.zeros_like(shares.faithfulness), rtol=0, atol=loose)
    strongest = sorted(wires, key=lambda wire: -abs(needs[wire.source, wire.target]))[:6]
    for wire in strongest:
        left = measure_wired(contrast, nodes, [other for other in wires if other != wire], BUDGET)
        cost = (shares.faithfulness - left).mean() * total
        assert float(cost) == pytest.approx(needs[wire.source, wire.target], abs=EXACT)


def everything_else(contrast, nodes):
    """Single heads, single neurons, whole modules or states at every place that no node covers."""
    length, taken = contrast.tokens.shape[1], {(n.component, n.layer, n.pos): set(n.units) for n in nodes}
    for node in nodes:
        taken[node.component, node.layer, node.pos] |= set(node.units)
    for layer in range(4):
        for pos in range(length):
            if nodes[0].component == "resid_post":
                if ("resid_post", layer, pos) not in taken:
                    yield Node("resid_post", layer, pos)
                continue
            for whole, part, count in (("attn_out", "head", 4), ("mlp_out", "neuron", 24)):
                if (whole, layer, pos) in taken:
                    continue
                if (part, layer, pos) in taken:
                    yield from (Node(part, layer, pos, (unit,)) for unit in range(count) if unit not in taken[part, layer, pos])
                else:
                    yield Node(whole, layer, pos)


def test_an_effect_is_the_trace_s(model, prompt):
    """The same site restored by `trace`."""
    traced = tlk.trace(model, prompt, NOISE, component="mlp_out", window=1, samples=2)
    contrast = noisy(model, prompt)
    nodes = [Node("mlp_out", layer, pos) for layer in range(4) for pos in range(1, 7)]
    effects = measure_nodes(contrast, nodes, BUDGET)
    for node, effect in zip(nodes, effects, strict=True):
        torch.testing.assert_close(effect, traced.indirect_effect[:, node.layer, node.pos], rtol=0, atol=EXACT)


def test_answers_of_several_tokens(model, prompt):
    contrast = noisy(model, prompt, "log_probability", answer=(5, 6, 9))
    nodes = [Node("mlp_out", 0, 2), Node("attn_out", 2, 6), Node("attn_out", 3, 7), Node("mlp_out", 3, 8)]
    weights = {(edge.source, edge.target): edge.weight for edge in find_edges(contrast, nodes, BUDGET)[0]}
    for pair, value in Slow(contrast).edges(nodes).items():
        assert weights.get(pair, 0.0) == pytest.approx(float(value), abs=EXACT), pair


def test_chunks_and_the_loop_change_nothing(model, prompt, monkeypatch):
    contrast, nodes = noisy(model, prompt), SETS["heads and neurons"]
    whole = {(e.source, e.target): e.weight for e in find_edges(contrast, nodes, BUDGET)[0]}
    pieces = {(e.source, e.target): e.weight for e in find_edges(contrast, nodes, 1.0)[0]}
    monkeypatch.setattr(rows._GROWING, "refusal", lambda model: "RuntimeError: shapes")
    looped, used = find_edges(contrast, nodes, BUDGET)
    assert used == "loop (growing rows refused: RuntimeError: shapes)"
    assert pieces == pytest.approx(whole, abs=EXACT)
    assert {(e.source, e.target): e.weight for e in looped} == pytest.approx(whole, abs=EXACT)


def test_an_edit_s_paths_equal_runs_with_and_without_it(speaking, moments):
    model = speaking
    fact = tlk.Fact("w3 w4", "w1 {} w7 w2", "w9")
    edit = tlk.plan_edit(model, fact, tlk.MEMIT((1, 2)), moments=moments)
    prompt = tlk.Prompt.from_fact(model, fact)
    contrast = edit_contrast(
        model, prompt, torch.tensor([prompt.target_token]), edit.hooks(), edit.layers, node_hooks(model, []), Metric("log_probability")
    )
    with torch.no_grad():
        unedited = model(prompt.tokens)[0, -1].log_softmax(-1)[prompt.target_token]
        with edit.applied(model):
            edited = model(prompt.tokens)[0, -1].log_softmax(-1)[prompt.target_token]
    assert contrast.clean_score == pytest.approx(float(edited), abs=1e-9)
    assert float(contrast.corrupted_score) == pytest.approx(float(unedited), abs=1e-9)
    sources = Slow(contrast).run({node: Slow(contrast).value(node, "clean") for node in contrast.sources})[0]
    assert float(sources) == pytest.approx(float(edited), abs=1e-9)  # the sources are all that the edit is
    nodes = [Node("attn_out", 2, len(prompt) - 1), Node("mlp_out", 3, len(prompt) - 1), Node("attn_out", 3, len(prompt) - 1)]
    weights = {(edge.source, edge.target): edge.weight for edge in find_edges(contrast, nodes, BUDGET)[0]}
    for pair, value in Slow(contrast).edges(nodes).items():
        assert weights.get(pair, 0.0) == pytest.approx(float(value), abs=1e-9), pair


# A planted circuit: what is written in which dimensions of the stream.
IDENTITY, LOOKED_UP, MOVED, UNREAD = slice(0, 4), slice(4, 8), slice(8, 12), slice(12, 16)
SUBJECT, LAST = 1, 4


def planted_model():
    """The subject's token is looked up by MLP 0, moved to the last position by head 1 of layer 1, and said; the rest writes what nobody reads."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=3,
        d_model=16,
        n_ctx=8,
        d_head=4,
        n_heads=2,
        d_mlp=8,
        d_vocab=8,
        act_fn="relu",
        normalization_type=None,
        device="cpu",
        dtype=torch.float64,
    )
    model = HookedTransformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for token in range(8):
            model.embed.W_E[token, token % 4] = 1.0
        eye = torch.eye(4, dtype=torch.float64)
        model.blocks[0].mlp.W_in[IDENTITY, 0:4] = eye
        model.blocks[0].mlp.W_out[0:4, LOOKED_UP] = eye
        model.blocks[1].attn.W_V[1, LOOKED_UP] = eye
        model.blocks[1].attn.W_O[1, :, MOVED] = 5 * eye
        model.unembed.W_U[MOVED, 0:4] = 5 * eye
        for layer in (1, 2):  # distractors: they see the subject, and write where nobody reads
            model.blocks[layer].mlp.W_in[IDENTITY, 0:4] = eye
            model.blocks[layer].mlp.W_out[0:4, UNREAD] = eye
        model.blocks[1].attn.W_V[0, IDENTITY] = eye
        model.blocks[1].attn.W_O[0, :, UNREAD] = eye
    return model


@pytest.mark.skipif(not hooked_transformer_available(), reason="the planted model has no norm, which only HookedTransformer can be without")
@pytest.mark.parametrize("rank", ["need", "effect", "either"])
@pytest.mark.parametrize("parts", [("mlp_out", "attn_out"), ("mlp_out", "head")], ids="+".join)
def test_a_planted_circuit_is_recovered_exactly(parts, rank):
    model = planted_model()
    # The other tokens are one and the same, so that the last position cannot answer without the subject.
    prompt = tlk.Prompt.from_tokens([4, 2, 4, 4, 4], subject=[SUBJECT], target=2)
    other = tlk.PromptSwap(tlk.Prompt.from_tokens([4, 3, 4, 4, 4]))
    traces = [tlk.trace(model, prompt, other, component=part, window=1) for part in parts]
    circuit = tlk.circuits.from_trace(model, prompt, traces, rank=rank, threshold=0.0)
    lookup = Node("mlp_out", 0, SUBJECT)
    mover = Node("attn_out", 1, LAST) if "attn_out" in parts else Node("head", 1, LAST, (1,))
    assert set(circuit.nodes) == {lookup, mover}
    assert {(e.source, e.target) for e in circuit.edges} == {
        (Node("embed", -1, SUBJECT), lookup),
        (lookup, mover),
        (mover, Node("answer", 3, LAST)),
    }
    assert [e.weight for e in circuit.edges] == pytest.approx([circuit.total_effect] * 3, rel=1e-12)
    assert [e.need for e in circuit.edges] == pytest.approx([circuit.total_effect] * 3, rel=1e-12)
    assert circuit.wired == pytest.approx(1, abs=1e-12)
    assert circuit.faithfulness == pytest.approx(1, abs=1e-12) and circuit.completeness == pytest.approx(1, abs=1e-12)
    reads = circuit.head_reads.iloc[0]
    assert (reads["layer"], reads["head"], reads["effect"]) == (1, 1, pytest.approx(circuit.total_effect))
