"""Hook factories: plain ``(name, fn)`` lists for anybody's ``run_with_hooks`` or ``with model.hooks(...)``.

Three interventions make causal tracing (Meng et al. 2022, section 2):

- `corrupt` adds noise to the embeddings of a span: the *corrupted run*;
- `restore` writes clean activations back at some sites: the *corrupted-with-restoration run*;
- `sever` pins a module's output, or a part of it, to what it was in the corrupted run, so that a restored state cannot act through it.

`scale_neurons` suppresses or enhances neurons; `knock_out_attention` shows which positions must be read; `add_low_rank` runs an edit; `ablate`
(in a file of its own) takes heads, neurons and modules out.

Lists compose with ``+``; where two write the same activation, the later one wins. Hooks never change an activation in
place and hold for every row of the batch.

Example:
    >>> import tl_knowledge as tlk
    >>> model = tlk.load_model("factlm")
    >>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France")
    >>> noise, tokens = tlk.corrupt(prompt.subject, tlk.GaussianNoise(sd=0.4, seed=0)), prompt.batch(10)
    >>> _, clean = model.run_with_cache(prompt.tokens)
    >>> hooks = noise + tlk.restore(clean, "resid_post", layers=3, positions=prompt.subject.last)
    >>> model.run_with_hooks(tokens, fwd_hooks=hooks).shape[:2] == tokens.shape
    True
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from more_itertools import map_reduce

from tl_knowledge.arrays import Embeddings, Hooks, as_positions
from tl_knowledge.door import public
from tl_knowledge.errors import ComponentError, CorruptionError
from tl_knowledge.hooks.writing import ALONE, Activations, Positions, check_not_alone, check_reach, write_component
from tl_knowledge.models.hook_names import EMBED, Component, Module, attention_scores, block_input, component_hook, has_units, severable
from tl_knowledge.models.routed import check_not_replaced
from tl_knowledge.wording import counted

__all__ = ["Corruption", "add_low_rank", "corrupt", "knock_out_attention", "restore", "scale_neurons", "sever"]


@runtime_checkable
class Corruption(Protocol):
    """How embeddings are corrupted; see `tl_knowledge.runs.corruption` for the settings that come with the package."""

    def corrupted(self, embeddings: Embeddings, positions: tuple[int, ...]) -> Float[torch.Tensor, "batch span d_model"]:
        """New embeddings of the span; a pure function of the settings and of the shape."""
        ...


@public
def corrupt(positions: Positions, noise: Corruption) -> Hooks:
    """Corrupt the token embeddings at some positions (Meng et al. 2022, section 2.1).

    Args:
        positions: a `Span` or positions.
        noise: corruption settings; scales that depend on the model must be resolved first (``noise.resolve(model)``).

    Returns:
        Two hooks: one on ``hook_embed``, the token embedding's output before positions are added; one on block 0's input, which refuses a run
        that never came past the first (``HookedTransformer.generate`` embeds without it).

    Raises:
        CorruptionError: on running, when the noise does not fit the prompt, or the run starts after the embedding.
    """
    span = as_positions(positions)
    if not span:
        raise CorruptionError("no position to corrupt was given; pass a span with at least one token.")

    corrupted, lengths = list[bool](), list[int]()

    def corrupt_embeddings(embeddings: torch.Tensor, *, hook: object) -> torch.Tensor:
        check_reach(embeddings, span, EMBED)
        check_not_alone(embeddings, span, lengths)
        corrupted[:] = [True]
        changed = embeddings.clone()
        changed[:, list(span)] = noise.corrupted(embeddings, span)
        return changed

    def check_corrupted(_: torch.Tensor, *, hook: object) -> None:
        if not corrupted:
            raise CorruptionError(
                f"this run started after {EMBED}, so its embeddings cannot be corrupted; call the model itself, token by token instead of generate()."
            )
        corrupted.clear()

    return [(EMBED, corrupt_embeddings), (block_input(0), check_corrupted)]


@public
def restore(
    clean: Activations,
    component: Component,
    *,
    layers: int | Iterable[int],
    positions: Positions | None = None,
    units: int | Iterable[int] | None = None,
) -> Hooks:
    """Write clean activations back (Meng et al. 2022, section 2.1: the corrupted-with-restoration run).

    Args:
        clean: activations of the clean run.
        component: what is restored.
        layers: one layer, or a window of layers.
        positions: one or several; every position when ``None``. Of ``"pattern"`` and ``"attn_scores"`` those that attend.
        units: which neurons (``component="neuron"``) or heads (``"head"``, ``"q"``, ``"z"``, ...); all when ``None``.

    Raises:
        ComponentError: unknown component, or units for a component that has none; what an MLP reads, where it is not recorded; on running,
            a unit or position outside the activation.
    """
    if units is not None and not has_units(component):
        raise ComponentError(f"component {component!r} has no units, but units={units} was given; use 'head' or 'neuron', or drop units=.")
    return [pair for layer in as_positions(layers) for pair in write_component(clean, component, layer, positions, units)]


@public
def sever(recorded: Activations, modules: Module | Iterable[Module], *, layers: int | Iterable[int], positions: Positions | None = None) -> Hooks:
    """Pin modules' outputs to what they were in another run, so that a restored state cannot act through them.

    This is the *severed* causal graph of Meng et al. 2022, figure 3, and of Wei et al. 2024, equation 5, when ``recorded`` is the
    corrupted run. Put it before `restore` where both write the same site.

    Args:
        recorded: activations of the run to pin to, row for row.
        modules: ``"mlp_out"``, ``"attn_out"`` or both; or parts of them: where tokens look (``"pattern"``, ``"attn_scores"``, ``"q"``, ``"k"``),
            what is read there (``"v"``, ``"z"``), what an MLP or a block reads (``"mlp_in"``, ``"resid_pre"``).
        layers: which to sever.
        positions: one or several; every position when ``None``. Of ``"pattern"`` and ``"attn_scores"`` those that attend.
    """
    names = severable(modules)
    return [pair for layer in as_positions(layers) for module in names for pair in write_component(recorded, module, layer, positions, None)]


@public
def knock_out_attention(
    queries: Positions,
    keys: Positions,
    *,
    layers: int | Iterable[int],
    heads: int | Iterable[int] | None = None,
    rows: int | Iterable[int] | None = None,
) -> Hooks:
    """Keep some positions from attending to others: their attention scores become ``-inf`` before the softmax (Geva et al. 2023).

    Args:
        queries: positions that may no longer attend.
        keys: positions they may no longer attend to.
        layers: one layer, or a window of layers.
        heads: one or several; all when ``None``.
        rows: batch rows; all when ``None``.

    Returns:
        Hooks on ``attn.hook_attn_scores [batch head query key]``.

    Raises:
        ComponentError: no position, or a query that could not attend to anything any more.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France", target=" Paris")
        >>> hooks = tlk.knock_out_attention(prompt.last, prompt.subject, layers=range(8))
        >>> logits = model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
        >>> bool(logits[0, -1].argmax() == prompt.target_token)
        False
    """
    query_positions, key_positions = as_positions(queries), as_positions(keys)
    head_numbers = None if heads is None else as_positions(heads)
    if not query_positions or not key_positions:
        raise ComponentError(f"queries {query_positions} and keys {key_positions} must both be given; pass at least one position of each.")
    if min(*query_positions, *key_positions) < 0:
        raise ComponentError(
            f"positions {query_positions} and {key_positions} must count from the start; pass positions from 0, for example prompt.last."
        )
    for query in query_positions:
        if set(range(query + 1)) <= set(key_positions):
            raise ComponentError(f"position {query} could attend to nothing: keys {key_positions} are all it sees; leave it at least one key.")

    def block(scores: torch.Tensor, *, hook: object) -> torch.Tensor:
        if scores.shape[2] != scores.shape[3]:
            raise ComponentError(f"queries are {scores.shape[2]} of {counted(scores.shape[3], 'token')}, so positions cannot be told{ALONE}.")
        if max(query_positions) >= scores.shape[2] or max(key_positions) >= scores.shape[3]:
            raise ComponentError(
                f"positions {query_positions} and {key_positions} do not lie in the prompt of "
                f"{counted(scores.shape[2], 'token')}; pass positions inside it."
            )
        outside = [head for head in head_numbers or () if not 0 <= head < scores.shape[1]]
        if outside:
            raise ComponentError(
                f"head {outside[0]} is outside the layer's {counted(scores.shape[1], 'head')}; pass a number from 0 to {scores.shape[1] - 1}."
            )
        of_rows = torch.arange(scores.shape[0]) if rows is None else torch.tensor(as_positions(rows))
        of_heads = torch.arange(scores.shape[1]) if head_numbers is None else torch.tensor(head_numbers)
        changed = scores.clone()
        of_queries, of_keys = torch.tensor(query_positions)[:, None], torch.tensor(key_positions)
        changed[of_rows[:, None, None, None], of_heads[:, None, None], of_queries, of_keys] = -torch.inf
        return changed

    return [(attention_scores(layer), block) for layer in as_positions(layers)]


@public
def scale_neurons(
    neurons: Iterable[tuple[int, int]], factor: float, *, positions: Positions | None = None, before_nonlinearity: bool = False
) -> Hooks:
    """Multiply neurons' activations: 0 suppresses them, 2 enhances them (Dai et al. 2022).

    Args:
        neurons: pairs of layer and neuron.
        factor: what the activation is multiplied by.
        positions: one or several, negative ones from the end; every position when ``None``.

        before_nonlinearity: scale what goes into the non-linearity (the gate of gated MLPs), as EleutherAI's program does on GPT-2.

    Returns:
        One hook a layer, on ``mlp.hook_post`` (or ``mlp.hook_pre``).

    Raises:
        ComponentError: a factor that is not finite; on running, a neuron or position outside the activation, or any position at a step of
            ``generate`` with a key-value cache.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> logits = model.run_with_hooks("Rome is", fwd_hooks=tlk.scale_neurons([(2, 3), (2, 5), (5, 1)], 0.0, positions=-1))
    """
    if not math.isfinite(factor):
        raise ComponentError(f"factor {factor} is not finite; pass for example 0 to suppress or 2 to enhance.")
    by_layer = map_reduce(sorted(set(neurons)), keyfunc=lambda pair: pair[0], valuefunc=lambda pair: pair[1])
    names = {layer: f"blocks.{layer}.mlp.hook_pre" if before_nonlinearity else component_hook("neuron", layer) for layer in by_layer}
    return [(names[layer], _scale(numbers, factor, positions)) for layer, numbers in by_layer.items()]


@public
def add_low_rank(layer: int, left: Float[torch.Tensor, "d_mlp rank"], right: Float[torch.Tensor, "rank d_model"], output: str) -> Hooks:
    """Let a block's MLP write as if ``left @ right`` were added to its ``W_out [d_mlp d_model]``.

    Args:
        layer: the block.
        left, right: the factors.
        output: the hook of ``W_out``'s own output.

    Returns:
        Two hooks: one reads ``mlp.hook_post``, one adds to the output.

    Raises:
        ComponentError: on running, when the factors do not fit the model.
        ModelStateError: on running, when an edit that is kept on the model has replaced that output.
    """
    keys: list[torch.Tensor] = []

    def read(activation: torch.Tensor, *, hook: object) -> None:
        if activation.shape[-1] != left.shape[0]:
            raise ComponentError(
                f"factors for {counted(left.shape[0], 'neuron')} do not fit the layer's {activation.shape[-1]}; the edit is of another model."
            )
        keys[:] = [activation]

    def add(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        check_not_replaced(activation, output)
        return activation + (keys.pop() @ left.to(activation)) @ right.to(activation)

    return [(component_hook("neuron", layer), read), (output, add)]


def _scale(neurons: Sequence[int], factor: float, where: Positions | None):
    positions, lengths = None if where is None else list(as_positions(where)), list[int]()

    def scale(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        if max(neurons) >= activation.shape[-1] or min(neurons) < 0:
            raise ComponentError(f"neurons {list(neurons)} are not all inside the layer's {activation.shape[-1]}; pass smaller numbers.")
        if positions is not None and activation.ndim == 2:
            raise ComponentError(
                "this model has batch and positions of mlp.hook_post in one axis; pass positions=None, or use measure_neuron_effects()."
            )
        if positions is not None:
            check_reach(activation, positions, "mlp.hook_post")
            check_not_alone(activation, positions, lengths)
        factors = activation.new_ones(activation.shape[-2:])
        at = torch.arange(activation.shape[-2]) if positions is None else torch.tensor(positions)
        factors[at[:, None], torch.tensor(list(neurons))] = factor
        return activation * factors

    return scale
