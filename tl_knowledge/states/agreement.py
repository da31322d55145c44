"""How early, and by what, the next token can be read from a state: precision@1 and surprisal (Ghandeharioun et al. 2024, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from more_itertools import always_iterable, chunked

from tl_knowledge.door import public
from tl_knowledge.engine.batches import PROMPTS_AT_ONCE, equal_groups
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET, budget_rows, rows_engine
from tl_knowledge.errors import InputError, NumericalError, check_given
from tl_knowledge.models.final_norm import unembed
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.runs.lenses import StateLens, carried, read_layers, state_layers
from tl_knowledge.states.scores import DecodingScores
from tl_knowledge.states.target import Target, clean_run
from tl_knowledge.states.writing import StatesIn, in_chunks

__all__ = ["measure_decoding"]

PATCHSCOPE, LOGIT_LENS = "Patchscope", "logit lens"


@public
def measure_decoding(
    model: AnyModel,
    prompts: Prompt | Iterable[Prompt],
    *,
    layers: int | Iterable[int] | None = None,
    into: Prompt | str | None = None,
    at: str = "last",
    through: StateLens | None = None,
    lenses: Mapping[str, StateLens] | None = None,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> DecodingScores:
    """Read what comes next from the state of each prompt's last token after every layer: by a Patchscope, by the logit lens, and by other lenses.

    The model's own next token is ``t = argmax p``. Precision@1 is the share of prompts with ``argmax p' = t``, and surprisal the mean of
    ``-log p'(t)``, where ``p'`` is what was read (Ghandeharioun et al. 2024, section 4.1, who cut texts at random places).

    Args:
        prompts: whose last tokens' states are read.
        layers: after which blocks; ``-1`` is the embeddings; all when ``None``. A lens is asked at those that it takes.
        into: the Patchscope's target prompt, or its text; the identity prompt when ``None``.
        at: a span of it; the state of its last token is replaced, after the layer that each state is from.
        through: what the Patchscope's states pass through first (`AffineMaps`, which then say into which layer).
        lenses: other lenses by the name that they have in tables and figures.
        memory_budget: bytes that activations may take.

    Raises:
        DataError: no prompt.
        PromptError, ComponentError, ModelStateError: arguments that do not fit, or a lens of another model.
        InputError: a lens of a name that is taken.
        NumericalError: what is read is not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompts = [tlk.Prompt.from_fact(model, fact) for fact in tlk.load_facts("factlm")[:4]]
        >>> scores = tlk.states.measure_decoding(model, prompts, progress=False)
        >>> scores.summary().query("layer == 7")["precision"].tolist()  # nothing follows the last layer
        [1.0, 1.0]
    """
    model = as_model(model, without_mlps=True)
    batch = check_given(always_iterable(prompts, Prompt), "prompt")
    for prompt in batch:
        check_fits(model, prompt)
    named: dict[str, StateLens | None] = {LOGIT_LENS: None}
    for name, lens in (lenses or {}).items():
        if name in (LOGIT_LENS, PATCHSCOPE):
            raise InputError(f"lenses has the name {name!r}, which is taken; choose another.")
        named[name] = lens
    where, asked = Target.resolved(model, into, at, None, through), state_layers(model, layers)
    takes = {name: [layer for layer in read_layers(model, lens) if layer in asked] for name, lens in named.items()}
    run = _Reading(model, where, *_states(model, batch, asked, memory_budget), memory_budget)
    written = [layer for layer in asked if through is None or layer in {*through.source_layers, where.layer}]
    rows: list[dict[str, Any]] = []
    with progress_bar(what="decode states", unit="layer", total=len(written) + sum(map(len, takes.values())), progress=progress) as bar:
        for layer in written:
            rows += run.scored(PATCHSCOPE, layer, run.patched(layer))
            bar.update(1)
        for name, own in takes.items():
            for layer in own:
                rows += run.scored(name, layer, run.read(named[name], layer))
                bar.update(1)
    settings = where.settings(None)
    provenance = provenance_of(model, has_bos=batch[0].has_bos, engine=rows_engine(model), settings=settings, prompts=len(batch))
    return DecodingScores(pd.DataFrame(rows), settings, provenance)


def _states(
    model: HookedModel, prompts: Sequence[Prompt], layers: Sequence[int], memory_budget: float
) -> tuple[dict[int, Float[torch.Tensor, "prompt d_model"]], Int[torch.Tensor, " prompt"]]:
    """States of the prompts' last tokens by layer, and what follows them."""
    found: dict[int, dict[int, torch.Tensor]] = {layer: {} for layer in layers}
    follows: dict[int, torch.Tensor] = {}
    most = max(1, int(memory_budget // (4 * max(map(len, prompts)) * int(model.cfg.d_vocab))))  # of whole logits
    for group in equal_groups([(len(prompt), prompt.last.last) for prompt in prompts], min(most, PROMPTS_AT_ONCE)):
        states, logits = clean_run(model, torch.cat([prompts[i].tokens for i in group]), layers)
        last = prompts[group[0]].last.last
        for row, i in enumerate(group):
            follows[i] = logits[row, last].argmax()
            for layer in layers:
                found[layer][i] = states[layer][row, last]
    order = range(len(prompts))
    return {layer: torch.stack([own[i] for i in order]) for layer, own in found.items()}, torch.stack([follows[i] for i in order])


@dataclass(frozen=True, eq=False)
class _Reading:
    model: HookedModel
    where: Target
    states: Mapping[int, Float[torch.Tensor, "prompt d_model"]]
    follows: Int[torch.Tensor, " prompt"]
    memory_budget: float

    def patched(self, layer: int) -> Iterable[Float[torch.Tensor, "state d_vocab"]]:
        """Logits of the Patchscope."""
        into_layer, states = self.where.placed(self.states[layer], layer)
        most = budget_rows(self.model, len(self.where.prompt), 1, self.memory_budget)
        for by_layer in in_chunks([(into_layer, state) for state in states], most):
            yield StatesIn(self.where.prompt, self.where.position, by_layer).next_logits(self.model)

    def read(self, lens: StateLens | None, layer: int) -> Iterable[Float[torch.Tensor, "state d_vocab"]]:
        """Logits of a lens."""
        most = budget_rows(self.model, 1, 1, self.memory_budget)
        for some in chunked(carried(lens, self.states[layer], layer), most):
            yield unembed(self.model, torch.stack(some))

    def scored(self, by: str, layer: int, parts: Iterable[Float[torch.Tensor, "state d_vocab"]]) -> list[dict[str, Any]]:
        """One row a prompt."""
        best, surprisal, done = list[torch.Tensor](), list[torch.Tensor](), 0
        for logits in parts:
            own = self.follows[done : done + len(logits)]
            log_p = logits.double().log_softmax(-1)
            if not bool(log_p.isfinite().all()):
                raise NumericalError(f"what the {by} reads after layer {layer} is not finite; check the weights for NaN, or the lens.")
            best.append(log_p.argmax(-1) == own)
            surprisal.append(-log_p.gather(1, own[:, None])[:, 0])
            done += len(logits)
        pairs = zip(torch.cat(best).tolist(), torch.cat(surprisal).tolist(), strict=True)
        return [{"by": by, "layer": layer, "prompt": i, "agrees": agrees, "surprisal": value} for i, (agrees, value) in enumerate(pairs)]
