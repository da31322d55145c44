"""What is on the screen as a program of the package's public functions, which gives the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tl_knowledge.editing import IKE, method_class
from tl_knowledge.explore.details import NEURONS_SHOWN, WORDS_SHOWN
from tl_knowledge.explore.methods import MOST_DEMONSTRATIONS, TOKENS_EACH, changes_what_is_read
from tl_knowledge.explore.predictions import SHOWN
from tl_knowledge.explore.state import EditRequest, ExplorerState
from tl_knowledge.models.bundled import is_bundled
from tl_knowledge.models.loading import hooked_transformer_available
from tl_knowledge.models.protocol import HookedModel, prepends_bos

__all__ = ["loading_options", "state_code"]


def state_code(state: ExplorerState, name: str, *, options: str = "") -> str:
    """A program for what a tab shows; every text of the tab stands in it as a literal.

    Args:
        name: what the model is loaded by.
        options: how, as `loading_options` writes it.

    Example:
        >>> print(state_code(ExplorerState("The capital of France is", subject=(4, 5), components=("mlp_out",)), "factlm"))
        import tl_knowledge as tlk
        <BLANKLINE>
        model = tlk.load_model('factlm')
        <BLANKLINE>
        # What the model says next
        prompt = tlk.Prompt.from_text(model, 'The capital of France is', subject_span=(4, 5))
        probabilities = model(prompt.tokens)[0, prompt.last.last].softmax(-1).detach()
        for token in probabilities.topk(10).indices.tolist():
            print(f"{model.tokenizer.decode([token])!r} {probabilities[token]:.2%}")
        <BLANKLINE>
        # Where the subject passes
        asked = dict(corrupt=prompt.subject, samples=10, seed=0, metric='probability')
        traces = {part: tlk.trace(model, prompt, component=part, window='auto', **asked) for part in ('mlp_out',)}
        for trace in traces.values():
            print(trace.headline(), trace.top(5), sep="\\n")
        <BLANKLINE>
    """
    wide = ".float()" if "float16" in options else ""  # of float16 and bfloat16: a softmax of halves would be rounded twice
    blocks = [_start(name, options), _prediction(state, wide)]
    if getattr(state, state.corrupt) is not None or (state.corrupt == "relation" and state.subject is not None):
        blocks += [_traces(state), *([_cell(state)] if state.cell is not None else []), *([_circuit(state)] if state.circuit else [])]
    if state.edits or state.suppressed or state.knocked_out:
        blocks.append([*_changes(state, name), *_comparison(state, wide)])
    return "\n".join("\n".join(block) + "\n" for block in blocks)


def loading_options(model: HookedModel, name: str) -> str:
    """What ``load_model`` has to be told beside a name to give this model: its precision, BOS before prompts, its class and its device.

    Example:
        >>> import tl_knowledge as tlk
        >>> loading_options(tlk.load_model("factlm"), "factlm")
        ''
    """
    dtype, bos = next(iter(model.parameters())).dtype, prepends_bos(model)
    options = [] if dtype == torch.float32 else [f"dtype={dtype}"]
    has_bos = getattr(model.tokenizer, "bos_token_id", None) is not None
    if has_bos and not (is_bundled(name) and bos):  # what is usual differs from model to model
        options.append(f"prepend_bos={bos}")
    if hooked_transformer_available() and type(model).__name__ == "TransformerBridge":
        options.append("backend='bridge'")
    device = next(iter(model.parameters())).device
    if device != torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else device.type != "cpu":
        options.append(f"device={str(device)!r}")
    return ", ".join(options)


def _start(name: str, options: str) -> list[str]:
    imports = ["import torch", "import tl_knowledge as tlk"] if "torch." in options else ["import tl_knowledge as tlk"]
    return [*imports, "", f"model = tlk.load_model({', '.join([repr(name), *([options] if options else [])])})"]


def _prediction(state: ExplorerState, wide: str) -> list[str]:
    arguments = [repr(state.prompt)]
    arguments += [] if state.subject is None else [f"subject_span={state.subject!r}"]
    arguments += [] if state.target is None else [f"target={state.target!r}"]
    return [
        "# What the model says next",
        f"prompt = tlk.Prompt.from_text(model, {', '.join(arguments)})",
        f"probabilities = model(prompt.tokens)[0, prompt.last.last]{wide}.softmax(-1).detach()",
        f"for token in probabilities.topk({SHOWN}).indices.tolist():",
        '    print(f"{model.tokenizer.decode([token])!r} {probabilities[token]:.2%}")',
    ]


def _traces(state: ExplorerState) -> list[str]:
    marked = state.corrupt == "relation" and state.relation is not None
    span = f"tlk.Span('relation', tuple(range({state.relation[0]}, {state.relation[1]})))" if marked and state.relation else f"prompt.{state.corrupt}"
    return [
        f"# Where the {state.corrupt} passes",
        f"asked = dict(corrupt={span}, samples={state.samples}, seed={state.seed}, metric={state.metric!r})",
        f"traces = {{part: tlk.trace(model, prompt, component=part, window={state.window!r}, **asked) for part in {state.components!r}}}",
        "for trace in traces.values():",
        '    print(trace.headline(), trace.top(5), sep="\\n")',
    ]


def _cell(state: ExplorerState) -> list[str]:
    assert state.cell is not None
    component, layer, pos = state.cell
    place = f"layers={layer}, positions={pos}"
    head = [f"# Behind {component} of layer {layer} at token {pos}"]
    if component == "attn_out":
        return [
            *head,
            f"heads = tlk.trace(model, prompt, component='head', {place}, **asked)",
            "print(heads.top())",
            f"_, cache = model.run_with_cache(prompt.tokens, names_filter='blocks.{layer}.attn.hook_pattern')",
            f"pattern = cache['blocks.{layer}.attn.hook_pattern'][0]  # [head query key]",
        ]
    if component == "mlp_out":
        return [
            *head,
            f"neurons = tlk.trace(model, prompt, component='neuron', {place}, engine='screen', **asked)",
            f"strongest = neurons.top({NEURONS_SHOWN})[['layer', 'neuron']].itertuples(index=False, name=None)",
            f"words = tlk.neurons.neuron_words(model, tlk.NeuronSet.of(model, strongest), k={WORDS_SHOWN})",
            f"print(neurons.top({NEURONS_SHOWN}), words.summary(), sep='\\n')",
        ]
    return [*head, "lens = tlk.logit_lens(model, prompt)", f"print(lens.table.query('layer == {layer} and pos == {pos}'))"]


def _circuit(state: ExplorerState) -> list[str]:
    return [
        "# How the sites work together",
        f"modules = [tlk.trace(model, prompt, component=part, window={state.window!r}, **asked) for part in ('mlp_out', 'attn_out')]",
        "circuit = tlk.circuits.from_trace(model, prompt, modules, metric=asked['metric'])",
        "print(circuit.headline())",
    ]


def _changes(state: ExplorerState, name: str) -> Iterator[str]:
    """The tab's changes as hooks; with an edit of what is read, which is none, as planned edits."""
    applied = _is_applied(state)
    yield "# What is changed, for as long as the model is asked" if applied else "# What is changed, as hooks: nothing is written into the model"
    units = [f"{word}={pairs!r}" for word, pairs in (("heads", state.knocked_out), ("neurons", state.suppressed)) if pairs]
    if units or not applied:
        yield f"hooks = tlk.ablate({', '.join(units)})" if units else "hooks = []"
    for number, request in enumerate(state.edits, start=1):
        yield from _edit(request, number, name)
        if not applied:
            yield f"hooks += edit{number}.hooks()"


def _is_applied(state: ExplorerState) -> bool:
    """Whether the edits are on the model itself, as one of them changes what is read."""
    return any(changes_what_is_read(request.method) for request in state.edits)


def _all_applied(count: int) -> str:
    """The first so many edits in a ``with``."""
    return f"with {', '.join(f'edit{number}.applied(model)' for number in range(1, count + 1))}:"


def _edit(request: EditRequest, number: int, name: str) -> Iterator[str]:
    """One edit, planned on top of the ones before it."""
    layers, kind = f", layers={request.layers!r}" if request.layers else "", method_class(request.method)
    if kind.needs_training:
        yield f"method = tlk.editing.load_trained('{request.method}.safetensors')  # from: tl-knowledge train"
    elif kind is IKE and not layers:
        yield f"cases = [case for case in tlk.load_edit_cases() if case.fact.subject != {request.subject!r}]"
        yield "pool = tlk.editing.Demonstrations.from_cases(cases)"
        yield f"method = tlk.editing.IKE(k=min({MOST_DEMONSTRATIONS}, model.cfg.n_ctx // {TOKENS_EACH}), pool=pool)"
    else:
        yield f"method = tlk.editing.method_for_model(model, {request.method!r}{layers})"
    moments = ""
    if kind.needs_moments:
        moments = ", moments=moments"
        if is_bundled(name):
            yield "moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=method.moment_layers)"
        else:
            yield "moments = tlk.editing.KeyMoments.load('moments.safetensors')  # from: tl-knowledge moments"
    yield f"fact = tlk.Fact({request.subject!r}, {request.template!r}, {request.target_new!r})"
    plan = f"edit{number} = tlk.plan_edit(model, fact, method{moments})"
    if number > 1:
        yield _all_applied(number - 1)
        plan = f"    {plan}"
    yield plan


def _comparison(state: ExplorerState, wide: str) -> list[str]:
    applied = _is_applied(state)
    plain = applied and not (state.suppressed or state.knocked_out)  # with both, the package refuses it as the page does
    call = "model(tokens)" if plain else "model.run_with_hooks(tokens, fwd_hooks=hooks)"
    after = f"after = {call}[0, -1]{wide}.softmax(-1).detach()"
    return [
        f"for text in {(state.prompt, *state.further)!r}:",
        "    tokens = tlk.Prompt.from_text(model, text).tokens",
        f"    before = model(tokens)[0, -1]{wide}.softmax(-1).detach()",
        *([f"    {_all_applied(len(state.edits))}", f"        {after}"] if applied else [f"    {after}"]),
        "    for when, p in (('before', before), ('after', after)):",
        "        print(text, when, *(f'{model.tokenizer.decode([token])!r} {p[token]:.2%}' for token in p.topk(5).indices.tolist()))",
    ]
