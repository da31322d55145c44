"""Knowledge attribution: which neurons raise the probability of the answer? (Dai et al. 2022; paper 000, section 3.1)

Integrated gradients of the answer's probability along a path from a baseline to the neuron activations ``w`` of the last position:

``Attr(n_i) = (w_i - b_i) / m * sum_k dP(o | b + alpha_k (w - b)) / dn_i``

for all layers and steps at once. Only the last position changes, so every earlier position's keys and values are frozen
(`tl_knowledge.prefix`), every scaled activation is *one token* of a growing batch, and one backward gives all gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.errors import InputError, NumericalError, PromptError, TargetError
from tl_knowledge.metrics import answer_probability
from tl_knowledge.model import (
    HookedModel,
    block_input,
    block_output,
    check_layers,
    check_model,
    context_length,
    describe_model,
    layer_count,
    model_device,
)
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.prefix import run_on_prefix, with_prefix
from tl_knowledge.prompts import Prompt
from tl_knowledge.provenance import Provenance

__all__ = ["AttributionMethod", "AttributionSemantics", "attribute_neurons", "mean_activation"]

AttributionSemantics: TypeAlias = Literal["paper", "dai", "eleuther", "kn_thesis"]
"""Where the path's points lie, and which activation is scaled:

========== ============================== =====================================
semantics  alpha                          activation
========== ============================== =====================================
paper      ``k/m, k = 1 .. m``            after the non-linearity (``hook_post``)
dai        ``k/m, k = 0 .. m-1``          after
eleuther   ``linspace(0, 1, m)``          before it (``hook_pre``; the gate of gated MLPs)
kn_thesis  as eleuther                    as eleuther
========== ============================== =====================================
"""

AttributionMethod: TypeAlias = Literal["integrated_gradients", "gradient_x_activation", "activation"]

GIBIBYTE = 2.0**30


def attribute_neurons(
    model: HookedModel,
    prompts: Prompt | Sequence[Prompt],
    *,
    method: AttributionMethod = "integrated_gradients",
    semantics: AttributionSemantics = "paper",
    steps: int = 20,
    baseline: Literal["zero"] | torch.Tensor = "zero",
    multi_token: bool = False,
    layers: Sequence[int] | None = None,
    memory_budget: float = GIBIBYTE,
    progress: bool = True,
) -> NeuronAttribution:
    """Score every neuron at the last position for the prompts' answers.

    Args:
        prompts: each with a target.
        method: integrated gradients; the gradient at the activation times the activation (a screen); or the activation alone (a
            baseline).
        semantics: where the path's points lie and which activation is scaled.
        steps: points of the path.
        baseline: the path's start: ``"zero"``, or activations ``[layer d_mlp]`` such as `mean_activation`.
        multi_token: attribute every token of the target, the earlier ones appended to the prompt, and add the scores; else the first.
        layers: which layers; all when ``None``.
        memory_budget: bytes that the activations kept for the backward may take.

    Returns:
        A `NeuronAttribution` with ``scores [prompt layer d_mlp]`` and the completeness gap of every layer.

    Raises:
        ModelError: a model that has no single ``W_out`` a layer, is bidirectional, or in training mode with dropout.
        TargetError, PromptError, InputError: an argument that does not fit.
        NumericalError: gradients that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> scores = tlk.attribute_neurons(model, tlk.paraphrases(model, tlk.load_facts("factlm")[0]))
        >>> tuple(scores.scores.shape)
        (2, 8, 512)
    """
    check_model(model)
    asked = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    _check(model, asked, method, semantics, steps, multi_token)
    chosen = check_layers(model, layers)
    start = _baseline(model, baseline, chosen)
    alphas = _alphas(method, semantics, steps)
    scores: list[torch.Tensor] = []
    gaps: list[torch.Tensor] = []
    cleans: list[float] = []
    for prompt in tqdm(asked, desc="attribute neurons", unit="prompt", delay=2, disable=not progress):
        parts = [_Attribution(model, tokens, answer, chosen, semantics, start) for tokens, answer in _questions(prompt, multi_token)]
        found = [part.scores(method, alphas, memory_budget) for part in parts]
        scores.append(torch.stack([score for score, _ in found]).sum(0).cpu())
        gaps.append(torch.stack([gap for _, gap in found]).sum(0).cpu())
        cleans.append(float(torch.tensor([part.clean for part in parts]).prod()))
    if not all(bool(score.isfinite().all()) for score in scores):
        raise NumericalError("attribution scores are not finite; check the weights for NaN, or load the model in float32.")
    settings: dict[str, Any] = {"method": method, "semantics": semantics, "steps": steps, "multi_token": multi_token}
    settings["baseline"] = baseline if isinstance(baseline, str) else "activations"
    provenance = Provenance(**describe_model(model), prepends_bos=asked[0].has_bos, seed=0, engine="rows on a frozen prefix", settings=settings)
    return NeuronAttribution(
        scores=torch.stack(scores),
        completeness_gap=torch.stack(gaps),
        clean_probability=torch.tensor(cleans),
        layers=chosen,
        n_layers=layer_count(model),
        prompts=tuple(prompt.text or " ".join(prompt.labels) for prompt in asked),
        targets=tuple(prompt.target or str(prompt.answer) for prompt in asked),
        provenance=provenance,
    )


def mean_activation(
    model: HookedModel, prompts: Sequence[Prompt], *, semantics: AttributionSemantics = "paper"
) -> Float[torch.Tensor, "layer d_mlp"]:
    """Mean activation of every neuron at the last position of some prompts: a baseline for `attribute_neurons`.

    Raises:
        InputError: no prompt, or unknown semantics.
    """
    check_model(model)
    if not prompts:
        raise InputError("no prompt was given; pass at least one.")
    if semantics not in get_args(AttributionSemantics):
        raise InputError(f"semantics {semantics!r} is unknown; pass one of {', '.join(map(repr, get_args(AttributionSemantics)))}.")
    names = [_site(layer, semantics) for layer in range(layer_count(model))]
    total = torch.zeros(len(names), int(model.blocks[0].mlp.W_out.shape[0]), device=model_device(model), dtype=torch.float64)
    for prompt in prompts:
        with torch.no_grad():
            _, cache = model.run_with_cache(prompt.tokens, names_filter=names)
        total += torch.stack([cache[name][0, -1].double() for name in names])
    return (total / len(prompts)).to(next(iter(model.parameters())).dtype)


class _Attribution:
    """One next-token question: the prefix, the clean run's activations at the last position, and the scores."""

    def __init__(
        self, model: HookedModel, tokens: torch.Tensor, answer: int, layers: Sequence[int], semantics: AttributionSemantics, start: torch.Tensor
    ) -> None:
        self.model, self.layers, self.start = model, layers, start
        self.semantics: AttributionSemantics = semantics
        self.last, self.answer = tokens[:, -1:], torch.tensor([[answer]], device=tokens.device)
        self.length = tokens.shape[1]
        self.prefix = with_prefix(model, tokens[:, :-1]) if self.length > 1 else {}
        self.clean = float("nan")
        self.activations: dict[int, torch.Tensor] = {}

    def scores(
        self, method: AttributionMethod, alphas: torch.Tensor, memory_budget: float
    ) -> tuple[Float[torch.Tensor, "layer d_mlp"], Float[torch.Tensor, " layer"]]:
        """Scores and completeness gaps of all layers."""
        if method == "activation":
            paths: dict[int, torch.Tensor] = {}
            everywhere = range(len(self.layers))
            with torch.no_grad():
                self.clean = float(self._run(everywhere, self.start.new_ones(1), paths)[0])
            activations = torch.stack([self.activations[i] for i in everywhere])
            return activations, activations.new_full((len(self.layers),), float("nan"))
        scores: list[torch.Tensor] = []
        gaps: list[torch.Tensor] = []
        points = torch.cat([self.start.new_zeros(1), alphas.to(self.start)])
        for chunk in self._chunks(len(points), memory_budget):
            paths = {}
            with torch.enable_grad():
                probability = self._run(chunk, points, paths)
                gradients = torch.autograd.grad(probability.sum(), [paths[i] for i in chunk])
            self.clean = float(probability[0].detach())
            at_start = probability[1:].detach().view(len(chunk), -1)[:, 0]
            away = torch.stack([self.activations[i] - self.start[i] for i in chunk])
            scores.append(away * torch.stack([gradient[1:].mean(0) for gradient in gradients]))
            gaps.append((scores[-1].sum(1) - (self.clean - at_start)).abs())
        return torch.cat(scores), torch.cat(gaps)

    def _run(self, chunk: Sequence[int], points: torch.Tensor, paths: dict[int, torch.Tensor]) -> torch.Tensor:
        """The answer's probability in row 0, the clean run, and at every point of the chunk's paths, which are put into ``paths``.

        Each layer's rows are copies of the clean row, appended at the input of its block; the path is made where the clean row shows
        its activations.
        """
        hooks: Hooks = []
        for order, i in enumerate(chunk):
            layer = self.layers[i]
            hooks.append((block_input(0) if layer == 0 else block_output(layer - 1), _grow(len(points))))
            hooks.append((_site(layer, self.semantics), self._put(i, points, 1 + order * len(points), paths)))
        return answer_probability(run_on_prefix(self.model, self.last, self.prefix, hooks), self.answer)

    def _put(self, i: int, points: torch.Tensor, first: int, paths: dict[int, torch.Tensor]) -> HookFn:
        def put(activation: torch.Tensor, *, hook: object) -> torch.Tensor:
            self.activations[i] = activation[0, -1].detach()
            path = self.start[i] + points[:, None] * (self.activations[i] - self.start[i])
            paths[i] = path.requires_grad_(torch.is_grad_enabled())
            return torch.cat([activation[:first], paths[i][:, None], activation[first + len(points) :]])

        return put

    def _chunks(self, points: int, memory_budget: float) -> Iterator[list[int]]:
        """Layers whose rows the backward can keep within the budget; at least one at a time."""
        config, n_layers = self.model.cfg, layer_count(self.model)
        a_block = 12 * int(config.d_model) + 6 * self.start.shape[1] + 2 * self.length * int(config.d_model) + 4 * int(config.n_heads) * self.length
        chunk: list[int] = []
        taken = 0.0
        for i, layer in enumerate(self.layers):
            # A layer's rows run from its own block on.
            needed = ((n_layers - layer) * a_block + 3 * int(config.d_vocab)) * self.start.element_size() * points
            if chunk and taken + needed > memory_budget:
                yield chunk
                chunk, taken = [], 0.0
            chunk.append(i)
            taken += needed
        yield chunk


def _grow(count: int) -> HookFn:
    return lambda states, *, hook: torch.cat([states, states[:1].expand(count, *states.shape[1:])])


def _site(layer: int, semantics: AttributionSemantics) -> str:
    return f"blocks.{layer}.mlp.{'hook_post' if semantics in ('paper', 'dai') else 'hook_pre'}"


def _alphas(method: AttributionMethod, semantics: AttributionSemantics, steps: int) -> torch.Tensor:
    """The points of the path; one, at its end, for gradient x activation."""
    if method == "gradient_x_activation":
        return torch.ones(1, dtype=torch.float64)
    if semantics in ("eleuther", "kn_thesis"):
        return torch.linspace(0, 1, steps, dtype=torch.float64)
    return (torch.arange(steps, dtype=torch.float64) + (semantics == "paper")) / steps


def _baseline(model: HookedModel, baseline: Literal["zero"] | torch.Tensor, layers: Sequence[int]) -> Float[torch.Tensor, "layer d_mlp"]:
    written: torch.Tensor = model.blocks[0].mlp.W_out
    shape = (layer_count(model), int(written.shape[0]))
    if isinstance(baseline, str):
        if baseline != "zero":
            raise InputError(f"baseline {baseline!r} is unknown; pass 'zero', or activations [layer d_mlp] such as mean_activation(model, prompts).")
        return written.new_zeros(len(layers), shape[1]).detach()
    if tuple(baseline.shape) != shape or not bool(baseline.isfinite().all()):
        raise InputError(f"the baseline has shape {tuple(baseline.shape)}; pass finite activations of shape {shape}, [layer d_mlp].")
    return baseline.to(written)[list(layers)].detach()


def _questions(prompt: Prompt, multi_token: bool) -> list[tuple[torch.Tensor, int]]:
    """Token rows and the next token to attribute: one, or one for each token of the answer."""
    answer = prompt.answer if multi_token else prompt.answer[:1]
    appended = [torch.tensor([answer[:k]], dtype=prompt.tokens.dtype, device=prompt.tokens.device) for k in range(len(answer))]
    return [(torch.cat([prompt.tokens, before], dim=1), token) for before, token in zip(appended, answer, strict=True)]


def _check(
    model: HookedModel, prompts: Sequence[Prompt], method: AttributionMethod, semantics: AttributionSemantics, steps: int, multi_token: bool
) -> None:
    if not prompts:
        raise InputError("no prompt was given; pass at least one.")
    for name, word, words in (("method", method, get_args(AttributionMethod)), ("semantics", semantics, get_args(AttributionSemantics))):
        if word not in words:
            raise InputError(f"{name} {word!r} is unknown; pass one of {', '.join(map(repr, words))}.")
    if steps < 1:
        raise InputError(f"steps={steps} makes no path; pass at least 1 (20 is usual).")
    for prompt in prompts:
        first = prompt.target_token
        if not 0 <= first < int(model.cfg.d_vocab):
            raise TargetError(f"target token {first} is outside the model's vocabulary of {model.cfg.d_vocab}; pass a token id of this model.")
        length = len(prompt) + (len(prompt.answer) - 1 if multi_token else 0)
        if length > context_length(model):
            raise PromptError(f"prompt and target have {length} tokens; the model's context is {context_length(model)}: shorten them.")
    if any(int(prompt.tokens.max()) >= int(model.cfg.d_vocab) for prompt in prompts):
        raise PromptError("a prompt holds tokens outside the model's vocabulary; was it made with another tokenizer?")
