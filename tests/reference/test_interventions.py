"""Random interventions, in rows that grow out of known runs and are run only where they can differ, against one plain forward for each sample."""

from __future__ import annotations

import random

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.engine.rows import growing_rows_refusal
from tl_knowledge.models.hook_names import block_input
from tl_knowledge.runs.contrast import node_hooks, noise_contrast
from tl_knowledge.runs.interventions import Intervention, intervene, known_run
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.runs.nodes import Node, hook_of

LENGTH, SAMPLES, PLENTY = 6, 2, 2.0**28


def contrast_of(model, subject=(1, 2), answer=(5, 9)):
    tokens = torch.randint(1, 50, (1, LENGTH), generator=torch.Generator().manual_seed(0))
    prompt = tlk.Prompt.from_tokens(tokens, subject=range(subject[0], subject[-1] + 1), target=list(answer))
    noise = tlk.GaussianNoise(0.7, seed=1)
    return noise_contrast(model, prompt, torch.tensor(answer), subject, noise, SAMPLES, node_hooks(model, ["neuron"]), PROBABILITY)


def one_by_one(contrast, one):
    """Every sample's score, and what is read of it, by hooks on a plain forward that starts from its corrupted embeddings."""
    scores, readings = [], {node: [] for node in one.reads}
    for sample in range(SAMPLES):
        entering = contrast.corrupted[block_input(0)][sample : sample + 1]
        hooks = [(block_input(0), lambda _, hook, entering=entering: entering.clone())]
        for name in sorted({hook_of(node) for node in (*one.writes, *one.reads)}):
            hooks.append((name, acting(contrast, one, name, sample, readings)))
        with torch.no_grad():
            logits = contrast.model.run_with_hooks(contrast.tokens, fwd_hooks=hooks)
        scores.append(contrast.score(logits[:, list(contrast.answer_positions)]))
    return torch.cat(scores), {node: torch.stack(values) for node, values in readings.items()}


def acting(contrast, one, name, sample, readings):
    def act(activation, hook):
        changed = activation.clone()
        for node in [node for node in one.reads if hook_of(node) == name]:
            at = activation[0, node.pos]
            readings[node].append((at[list(node.units)] if node.units else at).clone())
        for node, value in one.writes.items():
            if hook_of(node) == name:
                changed[0, node.pos, list(node.units) or slice(None)] = written(contrast, node, value, sample)
        return changed

    return act


def written(contrast, node, value, sample):
    if not isinstance(value, str):
        return value[sample]
    run = (contrast.clean if value == "clean" else contrast.corrupted)[hook_of(node)]
    at = run[sample if len(run) > 1 else 0, node.pos]
    return at[list(node.units)] if node.units else at


def random_node(draw, model):
    kind, units = draw.choice(["head", "attn_out", "neuron", "mlp_out", "resid_post"]), ()
    if kind in ("head", "neuron"):
        units = tuple(sorted(draw.sample(range(4 if kind == "head" else 20), draw.randint(1, 3))))
    return Node(kind, draw.randrange(model.cfg.n_layers), draw.randrange(LENGTH), units)


def random_intervention(draw, contrast):
    """Sources set clean or left corrupted, some nodes written, some read, of which some are written, too."""
    writes = {source: "clean" for source in contrast.sources if draw.random() < 0.7}
    for _ in range(draw.choice([0, 1, 3, 8])):
        node = random_node(draw, contrast.model)
        if any((hook_of(other), other.pos) == (hook_of(node), node.pos) for other in writes):
            continue
        value = draw.choice(["clean", "corrupted", "a tensor"])
        if value == "a tensor":
            shape = written(contrast, node, "clean", 0).shape
            value = torch.randn(SAMPLES, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(draw.randrange(99)))
        writes[node] = value
    own = [node for node in writes if node not in contrast.sources and draw.random() < 0.2]
    reads = tuple(dict.fromkeys([*(random_node(draw, contrast.model) for _ in range(draw.choice([0, 2]))), *own]))
    return Intervention(writes, reads, scored=not reads or draw.random() < 0.6)


def assert_as_one_by_one(contrast, runs, outcomes, exact):
    for k, one in enumerate(runs):
        score, readings = one_by_one(contrast, one)
        assert torch.allclose(outcomes.score[k], score, rtol=exact, atol=exact) if one.scored else bool(outcomes.score[k].isnan().all())
        for node, value in readings.items():
            torch.testing.assert_close(outcomes.readings[k, node].reshape(value.shape), value, rtol=exact, atol=exact)


@pytest.mark.parametrize("subject", [(0,), (1, 2), (4,)])
def test_interventions_equal_one_forward_each(model, subject):
    draw, contrast = random.Random(len(subject) + subject[0]), contrast_of(model, subject, answer=(5,) if subject == (4,) else (5, 9))
    runs = [random_intervention(draw, contrast) for _ in range(10)]
    for budget in (1.0, PLENTY):
        assert_as_one_by_one(contrast, runs, intervene(contrast, runs, budget), 1e-10)


def test_runs_that_hold_what_a_known_run_holds_start_from_it(model):
    draw, contrast = random.Random(3), contrast_of(model)
    reads = (Node("mlp_out", 1, 2, ()), Node("attn_out", 2, 3, ()), Node("mlp_out", 2, LENGTH - 1, ()))
    held = Intervention({**dict.fromkeys(contrast.sources, "clean"), Node("attn_out", 1, 3, ()): "corrupted"}, reads)
    kept, known = known_run(contrast, held, PLENTY)
    assert_as_one_by_one(contrast, [held], kept, 1e-10)
    assert len(known) == (growing_rows_refusal(model) is None) and all(base.carries(held.writes, reads) for base in known)
    runs = []
    for _ in range(8):
        cut = draw.sample(reads, draw.randint(0, 3))
        values = {node: kept.readings[0, node] for node in reads} | dict.fromkeys(cut, "corrupted")
        runs.append(Intervention(held.writes | values, tuple(draw.sample(reads, draw.randint(0, 3)))))
    assert_as_one_by_one(contrast, runs, intervene(contrast, runs, PLENTY, known), 1e-10)


STATE = Node("resid_post", 1, 3, ())
ATTENTION = {Node("attn_out", 2, pos, ()): "corrupted" for pos in range(2, LENGTH)}


@pytest.mark.parametrize(
    ("held", "free", "reads"),
    [
        ({STATE: "corrupted"}, {STATE}, ()),
        ({STATE: "corrupted"}, set(), (STATE,)),
        ({}, set(), (Node("resid_post", 3, 3, ()), Node("mlp_out", 3, 3, ()))),
        (ATTENTION, set(ATTENTION) - {Node("attn_out", 2, LENGTH - 1, ())}, ()),
        (ATTENTION, set(), (Node("attn_out", 2, LENGTH - 1, ()),)),
        (ATTENTION, set(), (Node("head", 2, LENGTH - 1, (1,)),)),
    ],
    ids=["a state set free", "a held state read", "before the answer", "attention set free", "held attention read", "heads below held attention"],
)
def test_a_known_run_is_left_alone_where_it_did_not_compute_what_is_needed(model, held, free, reads):
    contrast = contrast_of(model)
    written_too = {Node("mlp_out", 0, 2, ()): torch.ones(SAMPLES, 16, dtype=torch.float64)}
    _, known = known_run(contrast, Intervention(written_too | held), PLENTY)
    one = Intervention(written_too | {node: value for node, value in held.items() if node not in free}, reads)
    assert_as_one_by_one(contrast, [one], intervene(contrast, [one], PLENTY, known), 1e-10)
