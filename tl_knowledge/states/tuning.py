"""Training a tuned lens on a corpus (Belrose et al. 2023)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack, closing

import pandas as pd
import torch

from tl_knowledge.door import public
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import ComponentError, DataError, InputError, ModelStateError
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.results.digest import digest, values_of
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.results.writable import check_writable_folder
from tl_knowledge.runs.corpus_tokens import text_rows
from tl_knowledge.runs.lenses import state_layers
from tl_knowledge.states.lens_settings import LensSettings
from tl_knowledge.states.translators import LensTraining, empty_translators
from tl_knowledge.states.tuned_lens import TunedLens

__all__ = ["train_tuned_lens"]


@public
def train_tuned_lens(
    model: AnyModel,
    corpus: Iterable[str],
    *,
    validation: Iterable[str],
    layers: int | Iterable[int] | None = None,
    training: LensSettings | None = None,
    store: str | os.PathLike[str] | None = None,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> TunedLens:
    """Train a tuned lens: for each layer an affine translator, from the identity on, by the KL to what the last layer says.

    ``min over A, b of E[KL(softmax f(h_L) || softmax f(h_l A_l + b_l))]`` with the model's own final norm and unembedding ``f`` (Belrose et al. 2023,
    section 3). All layers learn from one forward of a step's texts; the model is never changed. The translators of the smallest validation KL (mean
    over layers) are kept. With the same threads and device a run that was stopped and went on ends with the same weights as one that was not.

    Args:
        corpus: texts to learn from.
        validation: other texts, to measure and to choose by.
        layers: after which blocks; ``-1`` is the embeddings; all but the last when ``None``.
        training: how; the published settings when ``None``.
        store: a folder; a training that was killed goes on from its last validation.
        memory_budget: bytes that logits may take.

    Raises:
        DataError: no text of two tokens, or a folder of another run.
        InputError: a text that is in both.
        ComponentError: the last layer, or one that the model does not have.
        ModelStateError: edits are written into the model.
        NumericalError: a loss that is not finite; it says where the last good state is kept.

    Example:
        >>> import tl_knowledge as tlk
        >>> model, texts = tlk.load_model("factlm"), tlk.load_corpus(limit=60)
        >>> training = tlk.states.LensSettings(steps=2, batch_size=4)
        >>> lens = tlk.states.train_tuned_lens(model, texts[:50], validation=texts[50:], layers=[2, 5], training=training, progress=False)
        >>> bool((lens.to_dataframe()["gain"] > 0).all())
        True
    """
    if store is not None:
        check_writable_folder(store)
    model = as_model(model, without_mlps=True)
    settings = training or LensSettings()
    if has_written_edits(model):
        raise ModelStateError("edits are written into this model, so what is learnt would be for them; revert(model) them first.")
    read = state_layers(model, range(-1, layer_count(model) - 1) if layers is None else layers)
    if layer_count(model) - 1 in read:
        raise ComponentError(f"layer {layer_count(model) - 1} is the last, whose states need no translator; leave it out.")
    rows, held = _texts(model, corpus, "corpus", settings), _texts(model, validation, "validation", settings)
    known = {tuple(row[0].tolist()) for row in rows}
    both = sum(tuple(row[0].tolist()) in known for row in held)
    if both:
        raise InputError(f"{both} of {len(held)} validation texts are in the corpus, too; take them out of one of the two.")
    fingerprint = unedited_fingerprint(model)
    with ExitStack() as stack:
        folder = None
        if store is not None:
            key = {
                "weights": fingerprint,
                "texts": digest([row[0].tolist() for row in rows]),
                "validation": digest([row[0].tolist() for row in held]),
            }
            run = RunFolder(store, key | {"settings": {"layers": list(read)} | values_of(settings)}, "train_tuned_lens()")
            folder = stack.enter_context(closing(run)).directory
        state = LensTraining(model, empty_translators(model, read), rows, held, settings, folder, memory_budget, progress).run()
    provenance = provenance_of(model, engine="one forward a step", seed=settings.seed, settings=settings)
    one = torch.eye(int(model.cfg.d_model), dtype=state.best["biases.0"].dtype)
    weights = torch.stack([one + state.best[f"weights.{number}"] for number in range(len(read))])
    biases = torch.stack([state.best[f"biases.{number}"] for number in range(len(read))])
    tokens = sum(row.shape[1] for row in held)
    return TunedLens(read, weights, biases, pd.DataFrame(state.rows), state.best_step, settings, tokens, fingerprint, provenance)


def _texts(model: HookedModel, texts: Iterable[str], what: str, settings: LensSettings) -> list[torch.Tensor]:
    """Texts as tokens.

    Raises:
        DataError: there is none.
    """
    rows = [row for row in text_rows(model, texts, settings.text_tokens) if row.shape[1] > 1]
    if not rows:
        raise DataError(f"{what} has no text of two tokens or more; pass texts, for example some of load_corpus().")
    return rows
