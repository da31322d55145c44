"""Learnt subspaces: interchange and its gradient against the slow obvious loop on every architecture; a planted subspace; a planted illusion."""

from __future__ import annotations

import pytest
import torch
from support import build, fingerprint, hooks_left
from support.models import BUILDERS, HARD_BUILDERS

import tl_knowledge as tlk
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.matrices import BlockMatrix, held_matrix
from tl_knowledge.models.weights import output_bias, output_weights
from tl_knowledge.runs.metric import Metric
from tl_knowledge.subspaces.illusion import written_parts
from tl_knowledge.subspaces.training import metric_of, orthonormal, random_basis
from tl_knowledge.subspaces.trials import Site, outcome, read_trials

COMPONENTS = ("resid_pre", "resid_post", "mlp_out", "attn_out", "neuron")
LENGTHS = (7, 5, 7, 6)
QUIET = {"progress": False, "known_only": False}


def random_pairs():
    """Bases of several lengths, sources of others, so that each has its own positions."""
    draw, pairs = torch.Generator().manual_seed(3), []
    for k, length in enumerate(LENGTHS):
        base, source = (torch.randint(0, 60, (1, n), generator=draw) for n in (length, 8 - k))
        pairs.append((tlk.Prompt.from_tokens(base, subject=range(1, 3), target=[k]), tlk.Prompt.from_tokens(source, subject=[2, 3], target=[k + 20])))
    return pairs


def state_by_hand(model, prompt, site):
    kept = []
    with torch.no_grad():
        model.run_with_hooks(prompt.tokens, fwd_hooks=[(site.hook, lambda x, *, hook: kept.append(x.detach().clone()))])
    return kept[0].reshape(len(prompt), -1)[prompt.span(site.at).last]


def logits_by_hand(model, base, source, site, basis):
    """One pair alone, with every coordinate of the subspace exchanged by itself."""
    given, at = state_by_hand(model, source, site), base.span(site.at).last

    def put(x, *, hook):
        rows = list(x.reshape(len(base), -1))
        for direction in basis.mT:
            rows[at] = rows[at] + (given @ direction - rows[at] @ direction) * direction
        return torch.stack(rows).reshape(x.shape)

    return model.run_with_hooks(base.tokens, fwd_hooks=[(site.hook, put)])[0, -1]


def rounding(model):
    """Hugging Face's RMSNorm, and GPT-J's attention, compute in float32 whatever the weights' type."""
    norm = str(type(getattr(getattr(model, "ln_final", None), "original_component", None)))
    return 1e-6 if "RMS" in norm or "GPTJ" in type(getattr(model, "original_model", None)).__name__ else 1e-12


def check_interchange(model, component, layer=1):
    site, pairs, before = Site(component, layer, "subject"), random_pairs(), fingerprint(model)
    trials = read_trials(model, pairs, site, known_only=False)
    basis = random_basis(trials.states.shape[1], 3, 0, torch.float64)
    found = outcome(model, trials, basis)
    for i, (base, source) in enumerate(pairs):
        with torch.no_grad():
            logits = logits_by_hand(model, base, source, site, basis)
        assert abs(float(logits[source.target_token] - logits[base.target_token]) - float(found.difference[i])) < 20 * rounding(model)
        assert int(logits.argmax()) == int(found.says[i])
    weight = basis.clone().requires_grad_()
    with torch.enable_grad():
        scores = torch.cat([metric_of(model, trials, Metric("log_probability"), orthonormal(weight), group) for group in trials.groups(64)])
        ours = torch.autograd.grad(scores.sum(), weight)[0]
        by_hand = sum(logits_by_hand(model, base, source, site, orthonormal(weight)).log_softmax(-1)[source.target_token] for base, source in pairs)
        expected = torch.autograd.grad(by_hand, weight)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=100 * rounding(model))
    assert expected.abs().max() > 1e-3 and fingerprint(model) == before and not hooks_left(model)


@pytest.mark.parametrize("component", COMPONENTS)
def test_interchanges_and_their_gradients_are_those_of_a_loop(model, component):
    check_interchange(model, component)


@pytest.mark.parametrize("name", [name for name in HARD_BUILDERS if name in ("bridge-opt", "bridge-bloom", "ht-shortformer", "ht-olmo2")])
def test_interchanges_on_models_of_unusual_shapes(name):
    check_interchange(build(name), "neuron")
    check_interchange(build(name), "resid_post")


def test_the_whole_state_is_the_sources_own(gpt2):
    """At the last token's last state the run says what the source says, bit for bit."""
    pairs = [(base, source) for base, source in random_pairs() if len(base) > 5]
    trials = read_trials(gpt2, pairs, Site("resid_post", 3, "last"), known_only=False)
    with torch.no_grad():
        sources = torch.stack([gpt2(source.tokens)[0, -1] for _, source in pairs])
    whole = outcome(gpt2, trials, None)
    assert torch.equal(whole.says, sources.argmax(-1))
    expected = torch.stack([row[source.target_token] - row[base.target_token] for row, (base, source) in zip(sources, pairs, strict=True)])
    torch.testing.assert_close(whole.difference, expected, rtol=0, atol=1e-12)


def test_plain_hooks_compose(gpt2, prompt):
    """``Subspace.hooks`` are `patch_subspace` of the source's state; what lies at right angles to the subspace is left."""
    name, basis = component_hook("resid_post", 1), random_basis(16, 3, 1, torch.float64)
    state = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = []
    keep = (name, lambda x, *, hook: seen.append(x.detach()))
    hooks = tlk.hooks.patch_subspace(basis, state, component="resid_post", layer=1, positions=[2, -1])
    with torch.no_grad():
        gpt2.run_with_hooks(prompt.batch(2), fwd_hooks=[keep, *hooks, keep])
    before, after = seen
    rest = torch.eye(16, dtype=torch.float64) - basis @ basis.mT
    for at in (2, 6):
        torch.testing.assert_close(after[:, at] @ basis, (state @ basis).expand(2, 3), rtol=0, atol=1e-12)
        torch.testing.assert_close(after[:, at] @ rest, before[:, at] @ rest, rtol=0, atol=1e-12)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(before[:, others], after[:, others])


def check_parts_of_an_interchange(model):
    """A null space's part does nothing, and the parts of every direction add up, in any model."""
    pairs, place = random_pairs(), {"component": "neuron", "layer": 1, "at": "subject", "dims": 3}
    training = tlk.subspaces.SubspaceSettings(steps=1)
    found = tlk.subspaces.learn_subspace(model, pairs[:2], validation=pairs[2:], training=training, **place, **QUIET)
    check = found.check_illusion(model, pairs, known_only=False)
    effects = check.table.groupby("part")["effect"]
    assert effects.get_group("null_space").abs().max() < 100 * rounding(model) < 1e-3 < effects.get_group("subspace").abs().max()
    assert 0 < check.null_share < 1 and check.read["null_space"] > 1e-3 < check.read["row_space"]


def test_parts_of_an_interchange(model):
    check_parts_of_an_interchange(model)


def test_parts_of_an_interchange_where_tokens_are_one_long_row():
    check_parts_of_an_interchange(build("bridge-opt"))


# Planted models: which subspace carries the answer is known.

DIMS, ANSWERS, NUISANCES = 2, 3, 17
SAYS = ANSWERS * NUISANCES  # the first answer's token


def silence(model, *, but=()):
    """Nothing is written into the stream but the embeddings and what some MLPs write."""
    for layer in range(4):
        held_matrix(model, BlockMatrix(layer, "W_O")).data.zero_()
        if layer not in but:
            output_weights(model, layer).data.zero_()
        if (bias := output_bias(model, layer)) is not None:
            bias.data.zero_()


def plant(name):
    """A state is the embedding of an answer and of a nuisance, and the unembedding reads the answer's subspace alone.

    A prompt is one token: ``a * NUISANCES + n``. All nuisances are of one length, and the answers too, so that the final norm is one factor for all;
    the nuisances vary in every direction but the answers' two.
    """
    model = BUILDERS[name]()
    if hasattr(model, "original_model"):  # GPT-2's unembedding is its embedding
        head = model.original_model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    silence(model)
    draw, centres = torch.Generator().manual_seed(5), "llama" not in name
    first = torch.ones(16, 1) if centres else torch.randn(16, 1, generator=draw)  # what LayerNorm takes out
    basis = torch.linalg.qr(torch.cat([first, torch.randn(16, 15, generator=draw)], dim=1).double()).Q
    one, truth, other = basis[:, :1], basis[:, 1 : 1 + DIMS], basis[:, 1 + DIMS :] if centres else torch.cat([basis[:, :1], basis[:, 1 + DIMS :]], 1)
    angles = 2 * torch.pi * torch.arange(ANSWERS).double() / ANSWERS
    answers = torch.stack([angles.cos(), angles.sin()], dim=1) @ truth.mT
    nuisances = 2 * torch.cat([other, -other], dim=1).mT[:NUISANCES]
    nuisances += centres * torch.randn(NUISANCES, 1, generator=draw) * one.mT
    with torch.no_grad():
        embeddings, read = matrix_of(model, "embed"), matrix_of(model, "unembed")
        embeddings.zero_()
        read.zero_()
        for a in range(ANSWERS):
            read[SAYS + a] = 2 * answers[a]
            embeddings[a * NUISANCES : (a + 1) * NUISANCES] = answers[a] + nuisances
    for part in model.modules():  # positions
        for parameter in part.parameters(recurse=False):
            if tuple(parameter.shape) == (32, 16):
                parameter.data.zero_()
    return model, truth


def matrix_of(model, name):
    """Embedding or unembedding as ``[d_vocab d_model]``, as the model holds it."""
    part = getattr(model, name)
    weights = part.W_E if name == "embed" else part.W_U
    return weights.data if weights.shape[0] == 60 else weights.data.mT


def planted_pairs(part):
    """Every two answers with nuisances that are drawn; three parts share no base, and no source is a base of an earlier part."""
    draw, pairs, own = torch.Generator().manual_seed(part), [], (range(9), range(9, 13), range(13, 17))[part]
    for n in own:
        for a in range(ANSWERS):
            for b in {*range(ANSWERS)} - {a}:
                m = int(torch.randint(own.start, NUISANCES, (), generator=draw))
                pairs.append((planted_prompt(a, n), planted_prompt(b, m)))
    return pairs


def planted_prompt(answer, nuisance):
    return tlk.Prompt.from_tokens([answer * NUISANCES + nuisance], target=[SAYS + answer])


PLANTED = [name for name in ("bridge-gpt2", "bridge-llama", "bridge-gptneox", "ht-llama") if name in BUILDERS]
SETTINGS = tlk.subspaces.SubspaceSettings(steps=200, learning_rate=2.0, batch_size=128, validate_every=50, patience=100)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_subspace_is_found(name):
    model, truth = plant(name)
    place = {"component": "resid_post", "layer": 1, "at": "last", "dims": DIMS, "metric": "kl", "training": SETTINGS}
    before = fingerprint(model)
    found = tlk.subspaces.learn_subspace(model, planted_pairs(0), validation=planted_pairs(1), **place, **QUIET)
    sines = torch.linalg.svdvals(found.basis - truth @ (truth.mT @ found.basis))
    assert float(sines.max()) < 1e-3
    said = found.score(model, planted_pairs(2)).by_layer().set_index("subspace")["said"]
    assert said["learned"] == said["whole"] == 1 and said["random"] < 0.8
    assert fingerprint(model) == before and not hooks_left(model)


H0, H1, DORMANT = 3, 7, 11
"""Hidden activations of layer 1: two that read the answer, and one that is always 0."""


def plant_neurons(name, *, connected):
    """Two answers, told apart in the stream; two hidden activations of layer 1 read which it is.

    ``connected``: they write it, so strongly that their word is what counts. Otherwise they write nothing; what would be written, if it were
    anything but 0, is a third activation.
    """
    model, _ = plant(name)
    first, second = matrix_of(model, "unembed")[SAYS : SAYS + 2]
    direction = torch.nn.functional.normalize(second - first, dim=-1)
    with torch.no_grad():
        for matrix in ("W_in", "W_gate") if "llama" in name else ("W_in",):
            reads = held_matrix(model, BlockMatrix(1, matrix)).data
            reads.zero_()
            reads[:, H0], reads[:, H1] = 2 * direction, -2 * direction
        writes = output_weights(model, 1).data
        for unit, strength in {H0: 8.0, H1: -8.0}.items() if connected else {DORMANT: 8.0}.items():
            writes[unit] = strength * direction
    return model


def learnt_on_neurons(model):
    pairs = [[pair for pair in planted_pairs(part) if {side.target_token for side in pair} == {SAYS, SAYS + 1}] for part in range(3)]
    place = {"component": "neuron", "layer": 1, "at": "last", "dims": 1, "training": SETTINGS}
    found = tlk.subspaces.learn_subspace(model, pairs[0], validation=pairs[1], **place, **QUIET)
    return found, pairs[2]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_illusion_is_flagged(name):
    """Nothing that these neurons are can change the answer, and still one direction of them says the source's every time."""
    model = plant_neurons(name, connected=False)
    found, held_out = learnt_on_neurons(model)
    check = found.check_illusion(model, held_out, known_only=False)
    parts = check.by_part().set_index("part")
    assert parts.loc["subspace", "said"] == 1 and parts.loc["whole", "said"] == 0
    assert parts.loc["subspace", "effect"] > 1 and abs(parts.loc[["row_space", "null_space", "whole"], "effect"]).max() < 1e-5
    assert check.verdict == "illusion" and check.retained[2] < 1e-5 and check.null_share > 0.3
    assert check.read["row_space"] < 1e-5 and check.read["null_space"] > 0.1
    assert abs(float(found.basis[DORMANT, 0])) > 0.2


@pytest.mark.parametrize("name", PLANTED)
def test_a_true_subspace_is_not_flagged(name):
    model = plant_neurons(name, connected=True)
    found, held_out = learnt_on_neurons(model)
    check = found.check_illusion(model, held_out, known_only=False)
    parts = check.by_part().set_index("part")
    assert (parts.loc[["subspace", "row_space", "whole"], "said"] == 1).all() and parts.loc["null_space", "said"] == 0
    assert check.verdict == "no illusion" and check.retained[1] > 0.95
    truth = torch.zeros(24, dtype=torch.float64)
    truth[[H0, H1]] = torch.tensor([1.0, -1.0], dtype=torch.float64) / 2**0.5
    parts = written_parts(found.basis, output_weights(model, 1))
    assert parts.row_space.shape == (24, 1) and abs(float(parts.row_space[:, 0] @ truth)) == pytest.approx(1, abs=1e-12)
    assert parts.null_share > 1e-3  # dead activations, which do no harm: an unwritten part alone is no illusion


def test_parts_of_a_subspace_are_projections(gpt2):
    """Against a dense projector; what the null space holds is not written, and what the row space holds is all that is."""
    weights = output_weights(gpt2, 2).detach()
    basis = random_basis(24, 4, 2, torch.float64)
    parts = written_parts(basis, weights)
    projector = weights @ torch.linalg.pinv(weights)
    assert parts.null_share == pytest.approx(float((basis - projector @ basis).square().sum()) / 4, abs=1e-12)
    assert (parts.null_space.mT @ weights).abs().max() < 1e-12
    both = torch.cat([parts.row_space, parts.null_space], dim=1)
    torch.testing.assert_close(both.mT @ both, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(both @ both.mT @ basis, basis, rtol=0, atol=1e-12)
    assert written_parts(basis[:, :2], torch.eye(24, dtype=torch.float64)).null_space.shape == (24, 0)
