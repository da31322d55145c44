"""The logit lens: what the model would say if it stopped at a layer (nostalgebraist 2020), for one answer, at every token.

Any other lens that carries states to the last layer (the tuned lens, TransformerLens' Jacobian lens) reads through the same function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from tl_knowledge.door import public
from tl_knowledge.drawing import HeatMap, heat_maps
from tl_knowledge.engine.recording import record
from tl_knowledge.metrics import widened
from tl_knowledge.models.final_norm import unembed
from tl_knowledge.models.hook_names import state_hook
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.runs.arguments import answer_label, choose_answer
from tl_knowledge.runs.lenses import StateLens, carried, lens_name, read_layers
from tl_knowledge.wording import counted

__all__ = ["LogitLens", "StateLens", "logit_lens"]


@dataclass(frozen=True, eq=False)
class LogitLens(TableResult):
    """The answer as read from the residual stream.

    Attributes:
        table: one row a layer and position: ``layer`` (``-1`` for the embeddings), ``pos``, ``token``, the answer's ``probability`` and ``rank``
            (0: the most probable of the vocabulary), and ``says``, the most probable token.
        labels: the prompt's tokens.
        target: the answer.
        lens: what the states were read through.
    """

    ranked_by: ClassVar[str] = "probability"
    table: pd.DataFrame
    labels: tuple[str, ...]
    target: str
    provenance: Provenance
    lens: str = "logit lens"

    def headline(self) -> str:
        """The answer, layers, tokens and model."""
        states = counted(self.table["layer"].nunique(), "state")
        return f"{self.target.strip()!r} in {states} of {counted(len(self.labels), 'token')}; {self.provenance.model}"

    def plot(self) -> go.Figure:
        """Heat map: the answer's probability, tokens by layers."""
        layers = sorted(set(self.table["layer"]))
        values = self.table.pivot_table(index="pos", columns="layer", values="probability").to_numpy()
        names = ["tokens" if layer < 0 else str(layer) for layer in layers]
        chart = HeatMap(np.asarray(values), [label or " " for label in self.labels], names, "", "token", "layer", colours="residual")
        return heat_maps(
            [chart],
            title=f"Where the stream already says {self.target.strip()!r}",
            subtitle=f"{self.lens}: residual state after each layer, through {'' if self.lens == 'logit lens' else 'it, '}the final norm and "
            f"unembedding; {self.provenance.model}",
            colour_axis="probability",
        )


@public
def logit_lens(model: AnyModel, prompt: Prompt, *, target: str | int | None = None, through: StateLens | None = None) -> LogitLens:
    """Read the answer from the residual stream at every layer and position.

    Args:
        target: text or token; default the prompt's target, else what the model predicts. Its first token is read.
        through: another lens, which carries the states of its layers to the last one's first: what `train_tuned_lens` gives, or TransformerLens'
            ``JacobianLens``. Its layers and the last one are read.

    Raises:
        ModelError, PromptError, TargetError: arguments that do not fit.
        ModelStateError: a lens of another model.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France", target=" Paris")
        >>> lens = tlk.logit_lens(model, prompt)
        >>> int(lens.table.query("layer == 7 and pos == 5")["rank"].iloc[0])
        0
    """
    model = as_model(model, without_mlps=True)
    check_fits(model, prompt)
    answer = choose_answer(model, prompt, target, False)
    layers = read_layers(model, through)
    names = [state_hook(layer) for layer in layers]
    states = record(model, prompt.tokens, [], names)
    rows: list[dict[str, Any]] = []
    for layer, name in zip(layers, names, strict=True):
        said = widened(unembed(model, carried(through, states[name][0], layer))).softmax(-1)
        probability = said[:, int(answer[0])]
        rank = (said > probability[:, None]).sum(1)
        for pos, best in enumerate(said.argmax(1).tolist()):
            says = str(model.tokenizer.decode([best])) if model.tokenizer else str(best)
            row = {"layer": layer, "pos": pos, "token": prompt.labels[pos], "probability": float(probability[pos]), "rank": int(rank[pos])}
            rows.append(row | {"says": says})
    provenance = provenance_of(model, has_bos=prompt.has_bos, engine="one forward", prompt=prompt.text)
    lens = "logit lens" if through is None else lens_name(through)
    return LogitLens(pd.DataFrame(rows), prompt.labels, answer_label(model, prompt, torch.as_tensor(answer)), provenance, lens)
