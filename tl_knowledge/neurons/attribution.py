"""Knowledge attribution: which neurons raise the probability of the answer? (Dai et al. 2022; paper 000, section 3.1)

Integrated gradients of the answer's probability along a path from a baseline to the neuron activations ``w`` of the last position:

``Attr(n_i) = (w_i - b_i) / m * sum_k dP(o | b + alpha_k (w - b)) / dn_i``

for all layers and steps at once. Only the last position changes, so every earlier position's keys and values are frozen
(`tl_knowledge.engine.prefix`), every scaled activation is *one token* of a growing batch, and one backward gives all gradients. A masked model (BERT)
is asked at its mask, and every row is a full sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.models.checks import check_layers, check_model
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.protocol import HookedModel, is_masked, layer_count
from tl_knowledge.neurons.engine import PathGradients, Questions, questions_at_once
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance

__all__ = ["AttributionMethod", "AttributionVariant", "attribute_neurons", "mean_activation"]

AttributionVariant: TypeAlias = Literal["ours", "dai2022", "eleutherai2022", "niu2024"]
"""Where the path's points lie, and which activation is scaled:

========== ============================== =====================================
variant  alpha                          activation
========== ============================== =====================================
paper      ``k/m, k = 1 .. m``            after the non-linearity (``hook_post``)
dai        ``k/m, k = 0 .. m-1``          after
eleuther   ``linspace(0, 1, m)``          before it (``hook_pre``; the gate of gated MLPs)
kn_thesis  as eleuther                    as eleuther
========== ============================== =====================================
"""

AttributionMethod: TypeAlias = Literal["integrated_gradients", "gradient_x_activation", "activation"]


def attribute_neurons(
    model: HookedModel,
    prompts: Prompt | Sequence[Prompt],
    *,
    method: AttributionMethod = "integrated_gradients",
    variant: AttributionVariant = "ours",
    at: str = "last",
    steps: int = 20,
    baseline: Literal["zero"] | torch.Tensor = "zero",
    multi_token: bool = False,
    layers: Sequence[int] | None = None,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> NeuronAttribution:
    """Score every neuron at one position, the last unless told otherwise, for the prompts' answers.

    Args:
        prompts: each with a target; those of one length run together.
        method: integrated gradients; the gradient at the activation times the activation (a screen); or the activation alone (a
            baseline).
        variant: where the path's points lie and which activation is scaled.
        at: the span at whose last token the neurons are: ``"last"``, the position that predicts the answer, or for example ``"subject"``.
        steps: points of the path.
        baseline: the path's start: ``"zero"``, or activations ``[layer d_mlp]`` such as `mean_activation`.
        multi_token: attribute every token of the target, the earlier ones appended to the prompt, and add the scores; else the first.
        layers: which layers; all when ``None``.
        memory_budget: bytes that the activations kept for the backward may take.

    Returns:
        A `NeuronAttribution` with ``scores [prompt layer d_mlp]`` and the completeness gap of every layer.

    Raises:
        ModelError: a model that has no single ``W_out`` a layer, or is in training mode with dropout.
        TargetError, PromptError, InputError: an argument that does not fit.
        NumericalError: gradients that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> scores = tlk.attribute_neurons(model, tlk.paraphrases(model, tlk.load_facts("factlm")[0]))
        >>> tuple(scores.scores.shape)
        (2, 8, 512)
    """
    check_model(model, masked=True)
    asked = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    _check(model, asked, method, variant, steps, multi_token)
    chosen = check_layers(model, layers)
    start = _baseline(model, baseline, chosen)
    alphas = () if method == "activation" else _alphas(method, variant, steps)
    scores = start.new_zeros(len(asked), *start.shape, device="cpu")
    gaps, clean = scores.new_zeros(len(asked), len(chosen)), scores.new_ones(len(asked))
    questions = [(i, question) for i, prompt in enumerate(asked) for question in _questions(prompt, at, multi_token)]
    most = questions_at_once(model, [question for _, question in questions], chosen, len(alphas), memory_budget)
    with tqdm(total=len(questions), desc="attribute neurons", unit="prompt", delay=2, disable=not progress) as bar:
        for group in equal_groups([(question.length, question.kept) for _, question in questions], most):
            task = PathGradients(model, Questions.together([questions[k][1] for k in group]), chosen, _site(variant), start)
            found = task.scores(alphas, memory_budget) if alphas else task.activations()
            for k, *parts in zip(group, *(part.cpu() for part in found), strict=True):
                index = questions[k][0]
                scores[index], gaps[index], clean[index] = scores[index] + parts[0], gaps[index] + parts[1], clean[index] * parts[2]
            bar.update(len(group))
    if not bool(scores.isfinite().all()):
        raise NumericalError("attribution scores are not finite; check the weights for NaN, or load the model in float32.")
    settings: dict[str, Any] = {"method": method, "variant": variant, "at": at, "steps": steps, "multi_token": multi_token}
    settings["baseline"] = baseline if isinstance(baseline, str) else "activations"
    engine = "full sequences" if is_masked(model) else "rows on a frozen prefix"
    provenance = Provenance(**describe_model(model), prepends_bos=asked[0].has_bos, seed=0, engine=engine, settings=settings)
    return NeuronAttribution(
        scores=scores,
        completeness_gap=gaps,
        clean_probability=clean,
        layers=chosen,
        n_layers=layer_count(model),
        prompts=tuple(prompt.text or " ".join(prompt.labels) for prompt in asked),
        targets=tuple(prompt.target or str(prompt.answer) for prompt in asked),
        provenance=provenance,
    )


def mean_activation(
    model: HookedModel, prompts: Sequence[Prompt], *, variant: AttributionVariant = "ours", at: str = "last"
) -> Float[torch.Tensor, "layer d_mlp"]:
    """Mean activation of every neuron at the last position (or another, as there) of some prompts: a baseline for `attribute_neurons`.

    Raises:
        InputError: no prompt, or unknown variant.
    """
    check_model(model, masked=True)
    if not prompts:
        raise InputError("no prompt was given; pass at least one.")
    if variant not in get_args(AttributionVariant):
        raise InputError(f"variant {variant!r} is unknown; pass one of {', '.join(map(repr, get_args(AttributionVariant)))}.")
    layers = tuple(range(layer_count(model)))
    start = _baseline(model, "zero", layers)
    total = torch.zeros_like(start, dtype=torch.float64)
    for group in equal_groups([len(prompt) for prompt in prompts]):
        questions = Questions.together([Questions(prompts[i].tokens, (prompts[i].last.last,), (0,), (prompts[i].span(at).last,)) for i in group])
        total += PathGradients(model, questions, layers, _site(variant), start).activations()[0].double().sum(0)
    return (total / len(prompts)).to(start.dtype)


def _site(variant: AttributionVariant) -> str:
    return "hook_post" if variant in ("ours", "dai2022") else "hook_pre"


def _alphas(method: AttributionMethod, variant: AttributionVariant, steps: int) -> tuple[float, ...]:
    """The points of the path; one, at its end, for gradient x activation."""
    if method == "gradient_x_activation":
        return (1.0,)
    if variant in ("eleutherai2022", "niu2024"):
        return tuple(torch.linspace(0, 1, steps, dtype=torch.float64).tolist())
    return tuple((k + (variant == "ours")) / steps for k in range(steps))


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


def _questions(prompt: Prompt, at: str, multi_token: bool) -> Iterator[Questions]:
    """One question for the answer's first token, or one for each, the tokens before it appended."""
    answer = prompt.answer if multi_token else prompt.answer[:1]
    for k, token in enumerate(answer):
        before = torch.tensor([answer[:k]], dtype=prompt.tokens.dtype, device=prompt.tokens.device)
        position = prompt.last.last + k
        yield Questions(torch.cat([prompt.tokens, before], dim=1), (position,), (token,), (position if at == "last" else prompt.span(at).last,))


def _check(
    model: HookedModel, prompts: Sequence[Prompt], method: AttributionMethod, variant: AttributionVariant, steps: int, multi_token: bool
) -> None:
    if not prompts:
        raise InputError("no prompt was given; pass at least one.")
    for name, word, words in (("method", method, get_args(AttributionMethod)), ("variant", variant, get_args(AttributionVariant))):
        if word not in words:
            raise InputError(f"{name} {word!r} is unknown; pass one of {', '.join(map(repr, words))}.")
    if steps < 1:
        raise InputError(f"steps={steps} makes no path; pass at least 1 (20 is usual).")
    for prompt in prompts:
        _ = prompt.target_token
        check_fits(model, prompt, multi_token=multi_token)
