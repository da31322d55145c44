"""Means of activations over tokens, to ablate by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, takewhile

import torch
from jaxtyping import Int
from more_itertools import always_iterable, chunked

from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import pad_right
from tl_knowledge.errors import DataError, InputError, NumericalError, check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, context_length, prepends_bos
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.corpus_tokens import text_rows
from tl_knowledge.tracing.ablations.parts import Heads, Modules, Neurons, parts_of

__all__ = ["Counted", "counted_tokens", "mean_activations", "means_over"]

TEXTS_AT_ONCE = 16

Counted = tuple[Int[torch.Tensor, "_ _"], Sequence[int]]
"""A text's tokens ``[1 pos]``, and the positions that count."""


@public
def mean_activations(
    model: AnyModel,
    corpus: str | Prompt | Iterable[str | Prompt],
    *,
    heads: Heads = None,
    neurons: Neurons = None,
    modules: Modules = None,
    tokens: int | None = None,
    progress: bool = True,
) -> dict[str, torch.Tensor]:
    """Mean activations of layers over every token of some texts but BOS, for ``ablate(by="mean", recorded=...)``.

    BOS is left out because many models keep activations of another size there.

    Args:
        corpus: texts, or prompts; texts longer than the context are cut.
        heads: pairs of layer and head, or ``"all"``.
        neurons: pairs of layer and neuron.
        modules: pairs of layer and ``"mlp_out"`` or ``"attn_out"``, or one of these words for that of every layer.
        tokens: how many tokens to read, from the first; all when ``None``.

    Returns:
        By hook name, of all heads or neurons of the layer: ``[1 1 head d_head]``, ``[1 1 d_mlp]`` or ``[1 1 d_model]``.

    Raises:
        DataError: no text with a token but BOS.
        ComponentError: nothing given, or what the model does not have.
        NumericalError: a mean that is not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> means = tlk.tracing.mean_activations(model, tlk.load_corpus(limit=20), heads=[(4, 2)], progress=False)
        >>> {name: tuple(mean.shape) for name, mean in means.items()}
        {'blocks.4.attn.hook_z': (1, 1, 4, 32)}
        >>> hooks = tlk.ablate(heads=[(4, 2)], by="mean", recorded=means)
    """
    model = as_model(model, without_mlps=True)
    given = check_given(always_iterable(corpus, (str, Prompt)), "text")
    if tokens is not None and tokens < 1:
        raise InputError(f"tokens={tokens} reads nothing; pass at least 1, or None for all.")
    names = [name for part in parts_of(model, heads, neurons, modules, together=True) for name in part.hook_names()]
    return means_over(model, counted_tokens(model, given, tokens), names, progress=progress)


def counted_tokens(model: HookedModel, corpus: str | Prompt | Iterable[str | Prompt], tokens: int | None = None) -> list[Counted]:
    """Every token of texts or prompts counts, but BOS.

    Raises:
        DataError: there is none.
    """
    counted = [(row, wanted) for row, wanted in _rows(model, corpus) if wanted]
    if tokens is not None:
        before = [0, *takewhile(lambda total: total < tokens, accumulate(len(wanted) for _, wanted in counted))]
        counted = [(row, wanted[: tokens - start]) for (row, wanted), start in zip(counted, before, strict=False)]
    if not counted:
        raise DataError("the corpus has no text with a token but BOS; pass texts, for example load_corpus().")
    return counted


def _rows(model: HookedModel, corpus: str | Prompt | Iterable[str | Prompt]) -> Iterator[Counted]:
    longest, bos = context_length(model), int(prepends_bos(model))
    for each in always_iterable(corpus, (str, Prompt)):
        if isinstance(each, str):
            yield from ((row, range(bos, row.shape[1])) for row in text_rows(model, [each], longest))
        else:
            row = each.tokens[:, :longest]
            yield row, range(int(each.has_bos), row.shape[1])


def means_over(model: HookedModel, counted: Sequence[Counted], names: Sequence[str], *, progress: bool) -> dict[str, torch.Tensor]:
    """Means over the tokens that count, ``[1 1 ...]`` by hook name; added up in double precision.

    Raises:
        NumericalError: a mean that is not finite.
    """
    sums: dict[str, torch.Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    total = sum(len(wanted) for _, wanted in counted)
    with progress_bar(what="mean activations", unit="text", total=len(counted), progress=progress) as bar:
        for some in chunked(counted, TEXTS_AT_ONCE):
            rows = pad_right([row for row, _ in some])
            inside = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
            for number, (_, wanted) in enumerate(some):
                inside[number, list(wanted)] = True
            for name, activation in record(model, rows, [], names).items():
                kinds[name] = activation.dtype
                sums[name] = sums.get(name, 0) + activation[inside].double().sum(0)
            bar.update(len(some))
    means = {name: (sums[name] / total).to(kinds[name])[None, None] for name in names}
    if not all(bool(mean.isfinite().all()) for mean in means.values()):
        raise NumericalError("mean activations are not finite; check the weights for NaN, or load the model in float32.")
    return means
