"""Patchscopes, lenses and maps against what one would write by hand, on every architecture."""

from __future__ import annotations

import pytest
import torch
from support import BUILDERS, build, fingerprint, hooks_left
from support.interrupts import InterruptAt

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, InputError, UnsupportedModelError
from tl_knowledge.models.hook_names import state_hook
from tl_knowledge.states.writing import StatesIn

LAYERS = (-1, 0, 1, 2, 3)


@pytest.fixture
def into():
    """Another prompt of five random tokens; states go to its third."""
    tokens = torch.randint(0, 60, (1, 5), generator=torch.Generator().manual_seed(7))
    return tlk.Prompt.from_tokens(tokens, subject=[2])


def states_of(model, prompt):
    """``[layer][pos d_model]`` of a plain run."""
    kept = {}

    def keep(layer):
        return (state_hook(layer), lambda x, *, hook: kept.__setitem__(layer, x.detach().clone()[0]))

    with torch.no_grad():
        logits = model.run_with_hooks(prompt.tokens, fwd_hooks=[keep(layer) for layer in LAYERS])
    return kept, logits[0]


def by_hand(model, tokens, state, layer, position):
    """One forward of one row."""

    def write(x, *, hook):
        changed = x.clone()
        changed[0, position] = state
        return changed

    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=[(state_hook(layer), write)])[0]


@pytest.mark.parametrize("into_layer", [None, -1, 2])
def test_every_state_is_decoded_as_a_loop_does(model, prompt, into, into_layer):
    before = fingerprint(model)
    decoded = tlk.states.decode_states(model, prompt, into=into, at="subject", into_layer=into_layer, target=9)
    states, logits = states_of(model, prompt)
    assert len(decoded.table) == 5 * 7
    for row in decoded.table.to_dict("records"):
        layer, pos = row["layer"], row["pos"]
        said = by_hand(model, into.tokens, states[layer][pos], layer if into_layer is None else into_layer, 2)[-1].log_softmax(-1)
        own = int(logits[pos].argmax())
        assert row["probability"] == pytest.approx(float(said[9].exp()), abs=1e-12)
        assert row["surprisal"] == pytest.approx(-float(said[own]), abs=1e-10)
        assert (row["says"], row["next"]) == (str(int(said.argmax())), str(own))
        assert row["agrees"] == (int(said.argmax()) == own) and row["rank"] == int((said > said[9]).sum())
    with torch.no_grad():
        assert decoded.without_probability == pytest.approx(float(model(into.tokens)[0, -1].softmax(-1)[9]), abs=1e-12)
    assert fingerprint(model) == before and not hooks_left(model)


def test_a_small_memory_budget_changes_nothing(model, prompt, into):
    whole, parts = (tlk.states.decode_states(model, prompt, into=into, length=2, memory_budget=size) for size in (2.0**28, 60_000.0))
    first, second = whole.table, parts.table
    assert first["text"].tolist() == second["text"].tolist()
    torch.testing.assert_close(torch.tensor(first["probability"]), torch.tensor(second["probability"]), rtol=0, atol=1e-12)


def test_the_last_state_in_its_own_place_says_what_the_model_says(model, prompt):
    """At the last layer nothing but the unembedding follows, whatever the target prompt is."""
    into = tlk.Prompt.from_tokens([4, 4, 4])
    last = tlk.states.decode_states(model, prompt, into=into, layers=3).table
    logits = states_of(model, prompt)[1].log_softmax(-1)
    assert last["agrees"].all()
    torch.testing.assert_close(torch.tensor(last["surprisal"]), -logits.max(-1).values, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tokens", [[3], [3, 11, 7, 20, 9]])
def test_text_is_written_as_by_hand_with_the_cache_and_without(model, prompt, tokens):
    into = tlk.Prompt.from_tokens(tokens)
    position = len(tokens) - 1
    states, _ = states_of(model, prompt)
    decoded = tlk.states.decode_states(model, prompt, into=into, positions=[1, 5], length=4)
    for row in decoded.table.to_dict("records"):
        state, layer, written = states[row["layer"]][row["pos"]], row["layer"], torch.tensor([tokens])
        for _ in range(4):
            written = torch.cat([written, by_hand(model, written, state, layer, position)[-1].argmax()[None, None]], dim=1)
        assert row["text"] == " ".join(str(int(token)) for token in written[0, len(tokens) :])
    inside = StatesIn(into, position, {layer: states[layer][[1, 5]] for layer in LAYERS})
    assert inside.continuations(model, 4, cached=True) == inside.continuations(model, 4, cached=False)


def test_hooks_write_states_as_by_hand(model, prompt, into):
    states, _ = states_of(model, prompt)
    rows = states[1][:3]
    with torch.no_grad():
        together = model.run_with_hooks(into.batch(3), fwd_hooks=tlk.states.write_states(rows, layer=1, positions=-2))
        alone = model.run_with_hooks(into.tokens, fwd_hooks=tlk.states.write_states(rows[0], layer=1, positions=[3]))
    for row, state in zip(together, rows, strict=True):
        torch.testing.assert_close(row, by_hand(model, into.tokens, state, 1, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(alone[0], together[0], rtol=0, atol=1e-12)
    for bad in (rows[:2], rows[:, :5]):
        with pytest.raises(ComponentError, match="do not fit 3 rows"), torch.no_grad():
            model.run_with_hooks(into.batch(3), fwd_hooks=tlk.states.write_states(bad, layer=1, positions=0))
    with pytest.raises(ComponentError, match="positions inside the prompt"), torch.no_grad():
        model.run_with_hooks(into.tokens, fwd_hooks=tlk.states.write_states(rows[0], layer=1, positions=5))
    assert not hooks_left(model)


def test_precision_and_surprisal_by_hand(model, prompt, into):
    prompts = [prompt, tlk.Prompt.from_tokens([7, 3, 50]), tlk.Prompt.from_tokens([1, 2, 30])]
    scores = tlk.states.measure_decoding(model, prompts, into=into, at="subject").table
    small = tlk.states.measure_decoding(model, prompts, into=into, at="subject", memory_budget=60_000.0).table
    torch.testing.assert_close(torch.tensor(scores["surprisal"]), torch.tensor(small["surprisal"]), rtol=0, atol=1e-12)
    assert len(scores) == 2 * 5 * 3
    for number, each in enumerate(prompts):
        states, logits = states_of(model, each)
        own = int(logits[-1].argmax())
        for row in scores.loc[scores["prompt"] == number].to_dict("records"):
            state = states[row["layer"]][-1]
            if row["by"] == "Patchscope":
                said = by_hand(model, into.tokens, state, row["layer"], 2)[-1].log_softmax(-1)
            else:
                said = by_hand(model, torch.tensor([[0]]), state, 3, 0)[-1].log_softmax(-1)  # nothing but the unembedding
            assert row["surprisal"] == pytest.approx(-float(said[own]), abs=1e-10)
            assert row["agrees"] == (int(said.argmax()) == own)


def test_affine_maps_are_the_least_squares_solution(speaking, texts):
    maps = tlk.states.fit_affine_maps(speaking, texts[:40], progress=False)
    assert maps.into_layer == 3 and maps.layers == (-1, 0, 1, 2)
    bos = [speaking.tokenizer.bos_token_id] if speaking.tokenizer.bos_token_id is not None else []
    states: dict[int, list[torch.Tensor]] = {layer: [] for layer in LAYERS}
    for text in texts:
        tokens = torch.tensor([bos + [int(word[1:]) for word in text.split()]])
        if sum(map(len, states[0])) + tokens.shape[1] > maps.tokens:
            tokens = tokens[:, : maps.tokens - sum(map(len, states[0]))]
        if tokens.shape[1]:
            own, _ = states_of(speaking, tlk.Prompt.from_tokens(tokens))
            for layer in LAYERS:
                states[layer].append(own[layer])
    to = torch.cat(states[3]).double()
    for number, layer in enumerate(maps.layers):
        rows = torch.cat(states[layer]).double()
        with_one = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
        solution = torch.linalg.lstsq(with_one, to, driver="gelsd").solution
        expected, residual = with_one @ solution, to - with_one @ solution
        torch.testing.assert_close(maps.transport(rows, layer), expected, rtol=0, atol=1e-6)
        share = 1 - residual.square().sum() / (to - to.mean(0)).square().sum()
        assert float(maps.explained[number]) == pytest.approx(float(share), abs=1e-8)


def test_affine_maps_of_a_model_without_a_tokenizer_are_refused(gpt2):
    assert gpt2.tokenizer is None
    with pytest.raises(InputError, match="this model has no tokenizer, so it reads no text"):
        tlk.states.fit_affine_maps(gpt2, ["w1 w2"], tokens=40, progress=False)


def test_a_map_into_its_own_layer_is_the_identity(speaking, texts):
    maps = tlk.states.fit_affine_maps(speaking, texts, layers=2, into_layer=2, progress=False)
    rows = torch.cat([states_of(speaking, tlk.Prompt.from_tokens([int(w[1:]) for w in text.split()]))[0][2] for text in texts[:5]])
    torch.testing.assert_close(maps.transport(rows, 2), rows, rtol=0, atol=1e-6)


def test_states_pass_through_a_map_as_by_hand(speaking, texts, prompt, into):
    maps = tlk.states.fit_affine_maps(speaking, texts, layers=[0, 1], into_layer=2, progress=False)
    decoded = tlk.states.decode_states(speaking, prompt, into=into, at="subject", through=maps, target=9)
    states, _ = states_of(speaking, prompt)
    assert sorted(set(decoded.table["layer"])) == [0, 1, 2] and decoded.settings.into_layer == 2
    for row in decoded.table.to_dict("records"):
        state = states[row["layer"]][row["pos"]]
        if row["layer"] < 2:
            number = row["layer"]
            state = state @ maps.weights[number] + maps.biases[number]
        said = by_hand(speaking, into.tokens, state, 2, 2)[-1].softmax(-1)
        assert row["probability"] == pytest.approx(float(said[9]), abs=1e-12)
    with pytest.raises(ComponentError, match="carries states to layer 2, and the unembedding reads layer 3"):
        tlk.logit_lens(speaking, prompt, through=maps)
    with pytest.raises(ComponentError, match="takes no states after layer 3"):
        tlk.states.decode_states(speaking, prompt, into=into, through=maps, layers=3)
    with pytest.raises(ComponentError, match="into_layer=1, but AffineMaps carries states to layer 2"):
        tlk.states.decode_states(speaking, prompt, into=into, through=maps, into_layer=1)


def test_transformer_lens_own_jacobian_lens_is_read_through(prompt):
    analysis = pytest.importorskip("transformer_lens.tools.analysis")
    model, draw = build("bridge-gpt2"), torch.Generator().manual_seed(2)
    maps = {layer: torch.eye(16) + 0.1 * torch.randn(16, 16, generator=draw) for layer in (0, 2)}
    lens = analysis.JacobianLens(maps, n_prompts=1, d_model=16)
    states, _ = states_of(model, prompt)
    read = tlk.logit_lens(model, prompt, through=lens).table
    assert sorted(set(read["layer"])) == [0, 2, 3]
    for layer in (0, 2):
        moved = (states[layer].float() @ maps[layer].T).double()
        with torch.no_grad():
            said = model.unembed(model.ln_final(moved[None]))[0].softmax(-1)[:, 5]
        own = read.loc[read["layer"] == layer].sort_values("pos")["probability"]
        torch.testing.assert_close(torch.tensor(own.to_numpy()), said, rtol=0, atol=1e-7)
    if "ht-gpt2" in BUILDERS:
        with pytest.raises(UnsupportedModelError, match="JacobianLens does not read"):
            tlk.logit_lens(build("ht-gpt2"), prompt, through=lens)


@pytest.mark.parametrize("name", [name for name in ("bridge-gpt2", "bridge-llama", "bridge-gptneox", "ht-gpt2", "ht-llama") if name in BUILDERS])
def test_a_planted_state_decodes_to_its_token(name, prompt, into):
    """A token's own unembedding in the stream of one layer, of the longest so that no other is nearer."""
    model = build(name)
    unembedding = model.W_U.detach()
    planted = int((unembedding - unembedding.mean(1, keepdim=True)).norm(dim=0).argmax())
    state = 50 * unembedding[:, planted]

    def plant(x, *, hook):
        if x.shape[1] != len(prompt):  # the target prompt
            return None
        changed = x.clone()
        changed[:, 4] = state
        return changed

    with model.hooks(fwd_hooks=[(state_hook(1), plant)]):
        decoded = tlk.states.decode_states(model, prompt, into=into, into_layer=3, layers=[0, 1], target=planted).table
    best = decoded.sort_values("probability", ascending=False).iloc[0]
    assert (best["layer"], best["pos"], best["says"], best["rank"]) == (1, 4, str(planted), 0) and best["probability"] > 0.1
    assert not hooks_left(model)


@pytest.mark.parametrize("line", [40, 150, 400, 700])
def test_an_interrupt_leaves_the_model_as_it_was(gpt2, prompt, into, line):
    before = fingerprint(gpt2)
    tlk.states.decode_states(gpt2, prompt, into=into, layers=[0, 2], length=2, progress=False)  # the probes are run once, and may not be cut short
    with (
        pytest.raises(KeyboardInterrupt),
        InterruptAt(line, within=("states/decoding.py", "states/writing.py", "engine/rows.py", "engine/forward.py")),
    ):
        for _ in range(30):
            tlk.states.decode_states(gpt2, prompt, into=into, layers=[0, 2], length=2, progress=False)
    assert fingerprint(gpt2) == before and not hooks_left(gpt2) and torch.is_grad_enabled()
