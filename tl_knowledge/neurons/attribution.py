"""Knowledge attribution: which neurons raise the probability of the answer? (Dai et al. 2022; Wen and Bai, section 3.1)

Integrated gradients of the answer's probability, or of another metric, along a path from a baseline to the neuron activations ``w`` of one position:

``Attr(n_i) = (w_i - b_i) / m * sum_k dP(o | b + alpha_k (w - b)) / dn_i``

for all layers and steps at once. Only one position changes, so the keys and values of every position before it are frozen
(`tl_knowledge.engine.prefix`), every scaled activation is *one token* of a growing batch, and one backward gives all gradients. A masked model (BERT)
predicts at its mask, and every row is a full sequence. An encoder with a decoder (T5) predicts with its decoder, whose MLPs have neurons at the last
position; its encoder's have theirs at positions of the text, such as the subject. Elsewhere a block's scores are zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.engine.prefix import prefix_engine
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import InputError, NumericalError, UnsupportedModelError, check_choice, check_given
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, answered_from, as_rows, block_is_at, is_masked, layer_count, model_device, model_name
from tl_knowledge.neurons.continuations import own_continuations
from tl_knowledge.neurons.engine import PathGradients, Questions, questions_at_once
from tl_knowledge.neurons.result import NeuronAttribution
from tl_knowledge.neurons.settings import BEFORE_NONLINEARITY, AttributionMethod, AttributionSettings, AttributionVariant
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.runs.metric_arguments import check_not_among, resolve_metric
from tl_knowledge.wording import counted

__all__ = ["activation_site", "attribute_neurons", "mean_activation"]


@public
def attribute_neurons(
    model: AnyModel,
    prompts: Prompt | Iterable[Prompt],
    *,
    method: AttributionMethod = "integrated_gradients",
    variant: AttributionVariant = "ours",
    at: str = "last",
    steps: int = 20,
    baseline: Literal["zero"] | torch.Tensor = "zero",
    multi_token: bool = False,
    metric: AnyMetric = "probability",
    against: Against = None,
    layers: int | Iterable[int] | None = None,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> NeuronAttribution:
    """Score every neuron at one position, the last by default, for the prompts' answers.

    Args:
        prompts: each with a target; those of one length run together.
        method: integrated gradients; the gradient at the activation times the activation (a screen); or the activation alone (a
            baseline).
        variant: where the path's points lie and which activation is scaled.
        at: the span at whose last token the neurons are: ``"last"``, the position that predicts the answer, or for example ``"subject"``.
        steps: points of the path.
        baseline: the path's start: ``"zero"``, or activations ``[layer d_mlp]`` such as `mean_activation`.
        multi_token: attribute every token of the target, the earlier ones appended to the prompt, and add the scores; else the first.
            EleutherAI's program appends the model's own predictions instead, and averages (Wen and Bai's: the target's, and averages).
        metric, against: whose gradients are taken, as in `tl_knowledge.trace`: any but the rank, which has none.
        layers: which layers; all when ``None``.
        memory_budget: bytes that the activations kept for the backward may take.

    Returns:
        A `NeuronAttribution` with ``scores [prompt layer d_mlp]`` and the completeness gap of every layer.

    Raises:
        ModelError: a model that has no single ``W_out`` a layer, or is in training mode with dropout.
        DataError: no prompt.
        TargetError, PromptError, InputError: an argument that does not fit.
        NumericalError: gradients that are not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> scores = tlk.attribute_neurons(model, tlk.paraphrases(model, tlk.load_facts("factlm")[0]))
        >>> tuple(scores.scores.shape)
        (2, 8, 512)
    """
    model = as_model(model, masked=True, encoder_decoder=True)
    batch = check_given(always_iterable(prompts, Prompt), "prompt")
    measured = resolve_metric(model, metric, against, multi_token=multi_token)
    settings = AttributionSettings(method, variant, at, steps, multi_token, _baseline_name(baseline), measured)
    for prompt in batch:
        check_not_among(measured.against, [prompt.target_token])
        check_fits(model, prompt, multi_token=multi_token)
    numbers = check_layers(model, None if layers is None else tuple(always_iterable(layers)))
    start = _baseline_rows(model, baseline, numbers)
    scores, gaps, probability = _attributed(model, batch, settings, numbers, start, memory_budget, progress)
    if not bool(scores.isfinite().all()):
        raise NumericalError("attribution scores are not finite; check the weights for NaN, or load the model in float32.")
    return NeuronAttribution(
        scores=scores,
        completeness_gap=gaps,
        clean_probability=probability,
        layers=numbers,
        n_layers=layer_count(model),
        prompts=tuple(prompt.text or " ".join(prompt.labels) for prompt in batch),
        targets=tuple(prompt.target or str(prompt.answer) for prompt in batch),
        settings=settings,
        provenance=provenance_of(model, engine=prefix_engine(model), has_bos=batch[0].has_bos, settings=settings),
    )


@public
def mean_activation(
    model: AnyModel, prompts: Prompt | Iterable[Prompt], *, variant: AttributionVariant = "ours", at: str = "last", progress: bool = True
) -> Float[torch.Tensor, "layer d_mlp"]:
    """Mean activation of every neuron at one position of some prompts, the last by default: a baseline for `attribute_neurons`.

    Args:
        variant, at: as `attribute_neurons`.

    Raises:
        DataError: no prompt.
        InputError: an unknown variant.
    """
    model = as_model(model, masked=True, encoder_decoder=True)
    batch = check_given(always_iterable(prompts, Prompt), "prompt")
    check_choice("variant", variant, AttributionVariant)
    layers = tuple(range(layer_count(model)))
    start = _baseline_rows(model, "zero", layers)
    total, site = torch.zeros_like(start, dtype=torch.float64), activation_site(model, variant)
    with progress_bar(what="mean activation", unit="prompt", total=len(batch), progress=progress) as bar:
        for group in equal_groups([(len(prompt), answered_from(model, prompt.tokens)) for prompt in batch]):
            questions = Questions.stack([Questions(batch[i].tokens, (batch[i].last.last,), (0,), (batch[i].span(at).last,)) for i in group])
            total += PathGradients(model, questions, layers, site, start).activations()[0].double().sum(0)
            bar.update(len(group))
    return (total / len(batch)).to(start.dtype)


def _attributed(
    model: HookedModel,
    prompts: Sequence[Prompt],
    settings: AttributionSettings,
    layers: tuple[int, ...],
    start: Float[torch.Tensor, "layer d_mlp"],
    memory_budget: float,
    progress: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores ``[prompt layer d_mlp]``, gaps ``[prompt layer]`` and clean probabilities ``[prompt]``, over each prompt's questions."""
    alphas, site = _alphas(settings), activation_site(model, settings.variant)
    scores = start.new_zeros(len(prompts), *start.shape, device="cpu")
    gaps, probability = scores.new_full((len(prompts), len(layers)), 0.0 if alphas else float("nan")), scores.new_ones(len(prompts))
    appended = own_continuations(model, prompts)[0] if _appends_its_own(settings) else [prompt.answer for prompt in prompts]
    rows, questions = zip(*((i, each) for i, prompt in enumerate(prompts) for each in _questions(prompt, appended[i], settings)), strict=True)
    at_once = questions_at_once(model, questions, layers, len(alphas), memory_budget)
    with progress_bar(what="attribute neurons", unit="prompt", total=len(questions), progress=progress) as bar:
        sides = [_own_layers(model, each, layers) for each in questions]
        keys = [(each.length, each.kept, answered_from(model, each.tokens), side) for each, side in zip(questions, sides, strict=True)]
        for group in equal_groups(keys, at_once):
            own = sides[group[0]]
            task = PathGradients(
                model, Questions.stack([questions[k] for k in group]), tuple(layers[i] for i in own), site, start[list(own)], settings.metric
            )
            parts = task.scores(alphas, memory_budget) if alphas else task.activations()
            for k, score, gap, p in zip(group, *(part.cpu() for part in parts), strict=True):
                row, probability[rows[k]] = rows[k], probability[rows[k]] * p
                scores[row, list(own)] += score
                gaps[row, list(own)] += gap
            bar.update(len(group))
    if settings.multi_token and settings.variant in BEFORE_NONLINEARITY:
        tokens = scores.new_tensor([len(prompt.answer) for prompt in prompts])
        scores, gaps = scores / tokens[:, None, None], gaps / tokens[:, None]
    return scores, gaps, probability


def _own_layers(model: HookedModel, question: Questions, layers: Sequence[int]) -> tuple[int, ...]:
    """Indices of the layers that have neurons at the question's position; of all where none has, whose scores are zero then."""
    first = answered_from(model, question.tokens)
    return tuple(i for i, layer in enumerate(layers) if block_is_at(model, layer, question.at[0], first)) or tuple(range(len(layers)))


def _appends_its_own(settings: AttributionSettings) -> bool:
    return settings.multi_token and settings.variant in ("eleutherai2022", "niu2024")


def activation_site(model: HookedModel, variant: AttributionVariant) -> str:
    """The hook that is scaled.

    Raises:
        UnsupportedModelError: what the model shows before the nonlinearity is not one number a neuron (gates in the same projection).
    """
    if variant not in BEFORE_NONLINEARITY or is_masked(model):
        return "hook_post"
    name, width = "blocks.0.mlp.hook_pre", int(model.blocks[0].mlp.W_out.shape[0])
    tokens = as_rows(model, torch.zeros(1, 1, dtype=torch.long, device=model_device(model)))
    shown = record(model, tokens, [], [name])[name]
    if shown.shape[-1] != width:
        raise UnsupportedModelError(
            f"{name} of {model_name(model)} shows {counted(shown.shape[-1], 'number')} for {counted(width, 'neuron')} (gates in "
            f"the same projection); pass variant='ours'."
        )
    return "hook_pre"


def _alphas(settings: AttributionSettings) -> tuple[float, ...]:
    """The points of the path: one, at its end, for gradient times activation; none for the activation."""
    steps = settings.steps
    if settings.method != "integrated_gradients":
        return (1.0,) if settings.method == "gradient_x_activation" else ()
    if settings.variant in BEFORE_NONLINEARITY:
        return tuple(torch.linspace(0, 1, steps, dtype=torch.float64).tolist())
    return tuple((k + (settings.variant == "ours")) / steps for k in range(steps))


def _baseline_name(baseline: Literal["zero"] | torch.Tensor) -> str:
    """A baseline as the settings have it; activations by their fingerprint, so that different ones are not equal."""
    if isinstance(baseline, str):
        return baseline
    return f"activations {hashlib.sha256(baseline.detach().double().cpu().numpy().tobytes()).hexdigest()[:12]}"


def _baseline_rows(model: HookedModel, baseline: Literal["zero"] | torch.Tensor, layers: Sequence[int]) -> Float[torch.Tensor, "layer d_mlp"]:
    written: torch.Tensor = model.blocks[0].mlp.W_out
    shape = (layer_count(model), int(written.shape[0]))
    if isinstance(baseline, str):
        if baseline != "zero":
            raise InputError(f"baseline {baseline!r} is unknown; pass 'zero', or activations [layer d_mlp] such as mean_activation(model, prompts).")
        return written.new_zeros(len(layers), shape[1]).detach()
    if tuple(baseline.shape) != shape or not bool(baseline.isfinite().all()):
        raise InputError(f"the baseline has shape {tuple(baseline.shape)}; pass finite activations of shape {shape}, [layer d_mlp].")
    return baseline.to(written)[list(layers)].detach()


def _questions(prompt: Prompt, appended: Sequence[int], settings: AttributionSettings) -> Iterator[Questions]:
    """One question for the answer's first token, or one for each, as many tokens appended as come before it."""
    answer = prompt.answer if settings.multi_token else prompt.answer[:1]
    for k, token in enumerate(answer):
        before = torch.tensor([tuple(appended[:k])], dtype=prompt.tokens.dtype, device=prompt.tokens.device)
        position = prompt.last.last + k
        at = position if settings.at == "last" else prompt.span(settings.at).last
        yield Questions(torch.cat([prompt.tokens, before], dim=1), (position,), (token,), (at,))
