"""Where a run can differ from the one that it starts from, by hand; that nothing else is run is counted. `test_paths` holds the results exact."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tl_knowledge as tlk
from tl_knowledge.runs.contrast import node_hooks, noise_contrast
from tl_knowledge.runs.interventions import Intervention, intervene, known_run
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.runs.nodes import Node
from tl_knowledge.runs.reach import RunPlaces, needed_places

BUDGET = 2.0**30


def places(needed, what):
    return ["".join("#" if place else "." for place in getattr(block, what)[0].tolist()) for block in needed]


def test_a_change_spreads_to_later_positions_until_it_is_held():
    source, held = Node("embed", -1, 2), Node("attn_out", 0, 3)
    needed = list(needed_places([RunPlaces([source, held], [], [source])], n_layers=2, length=5, answer=4))
    assert places(needed, "entering") == ["..#..", "..#.#"]
    assert places(needed, "attended") == ["..#.#", "....#"]  # of the last block the answer's position alone
    assert places(needed, "transformed") == ["..#.#", "....#"]


def test_what_is_overwritten_is_run_where_it_is_read():
    source, held = Node("mlp_out", 0, 1), [Node("attn_out", 1, pos) for pos in range(4)] + [Node("mlp_out", 1, pos) for pos in range(4)]
    for reads, attended, transformed in (([], "....", "...."), ([held[3]], "...#", "...."), ([held[5]], "....", ".#..")):
        first, second = needed_places([RunPlaces([source, *held], reads, [source])], n_layers=2, length=4, answer=3)
        assert places([first], "transformed") == ["...."]  # written, and not read
        assert (places([second], "attended"), places([second], "transformed")) == ([attended], [transformed])


def test_a_state_that_is_held_ends_a_change():
    source, held = Node("resid_post", 0, 1), Node("resid_post", 1, 2)
    _, second, third = needed_places([RunPlaces([source, held], [], [source])], n_layers=3, length=4, answer=3)
    assert places([second, third], "entering") == [".#..", ".#.#"]
    assert places([second], "transformed") == [".#.#"]


@pytest.fixture
def contrast(gpt2, prompt):
    hooks = node_hooks(gpt2, ["head"])
    return noise_contrast(gpt2, prompt, torch.tensor([5]), prompt.subject.positions, tlk.GaussianNoise(0.7, seed=3), 2, hooks, PROBABILITY)


def flops(run):
    run()  # the model's probes
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_runs_that_are_only_read_end_there(contrast):
    node, source = Node("mlp_out", 0, 4), contrast.sources[0]
    reads = [Intervention({source: "clean"}, (node,), scored=scored) for scored in (True, False)]
    whole, ended = (flops(lambda one=one: intervene(contrast, [one], BUDGET)) for one in reads)
    assert ended < whole / 2
    outcomes = [intervene(contrast, [one], BUDGET) for one in reads]
    assert torch.equal(outcomes[0].readings[0, node], outcomes[1].readings[0, node])
    assert bool(outcomes[0].score.isfinite().all()) and bool(outcomes[1].score.isnan().all())


def test_a_run_that_is_a_known_one_is_not_run_again(contrast):
    """Kept as the known run is, its score is that run's, and no block is run; a change in the last block runs that one alone."""
    writes = dict.fromkeys(contrast.sources, "clean") | {Node("mlp_out", 1, 4): "corrupted"}
    last = Node("mlp_out", 3, 6)
    outcomes, known = known_run(contrast, Intervention(writes, (last,)), BUDGET)
    again = Intervention(writes | {last: outcomes.readings[0, last]})
    torch.testing.assert_close(intervene(contrast, [again], BUDGET, known).score, outcomes.score, rtol=0, atol=1e-12)
    changed = Intervention(writes | {last: "corrupted"})
    with_known, without = (intervene(contrast, [changed], BUDGET, bases).score for bases in (known, ()))
    torch.testing.assert_close(with_known, without, rtol=0, atol=1e-12)
    assert float((with_known - outcomes.score).abs().max()) > 1e-8
    dear, cheap = (flops(lambda bases=bases: intervene(contrast, [changed] * 8, BUDGET, bases)) for bases in ((), known))
    assert cheap < dear
