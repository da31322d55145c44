"""The logit lens: what the model would say if it stopped at a layer (nostalgebraist 2020), for one answer, at every token."""

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
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.final_norm import unembed
from tl_knowledge.models.hook_names import block_input, block_output
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.runs.arguments import answer_label, choose_answer

__all__ = ["LogitLens", "logit_lens"]


@dataclass(frozen=True, eq=False)
class LogitLens(TableResult):
    """The answer as read from the residual stream.

    Attributes:
        table: one row a layer and position: ``layer`` (``-1`` for the embeddings), ``pos``, ``token``, the answer's ``probability`` and ``rank``
            (0: the most probable of the vocabulary), and ``says``, the most probable token.
        labels: the prompt's tokens.
        target: the answer.
    """

    ranked_by: ClassVar[str] = "probability"
    table: pd.DataFrame
    labels: tuple[str, ...]
    target: str
    provenance: Provenance

    def headline(self) -> str:
        """The answer, layers, tokens and model."""
        return f"{self.target.strip()!r} in {self.table['layer'].nunique()} states of {len(self.labels)} tokens; {self.provenance.model}"

    def plot(self) -> go.Figure:
        """Heat map: the answer's probability, tokens by layers."""
        layers = sorted(set(self.table["layer"]))
        values = self.table.pivot_table(index="pos", columns="layer", values="probability").to_numpy()
        names = ["tokens" if layer < 0 else str(layer) for layer in layers]
        chart = HeatMap(np.asarray(values), [label or " " for label in self.labels], names, "", "token", "layer", colours="Blues")
        return heat_maps(
            [chart],
            title=f"Where the stream already says {self.target.strip()!r}",
            subtitle=f"residual state after each layer, through the final norm and unembedding; {self.provenance.model}",
            colour_axis="probability",
        )


@public
def logit_lens(model: AnyModel, prompt: Prompt, *, target: str | int | None = None) -> LogitLens:
    """Read the answer from the residual stream at every layer and position.

    Args:
        target: text or token; default the prompt's target, else what the model predicts. Its first token is read.

    Raises:
        ModelError, PromptError, TargetError: arguments that do not fit.

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
    layers = (-1, *check_layers(model, None))
    names = [block_input(0) if layer < 0 else block_output(layer) for layer in layers]
    states = record(model, prompt.tokens, [], names)
    rows: list[dict[str, Any]] = []
    for layer, name in zip(layers, names, strict=True):
        said = unembed(model, states[name][0]).softmax(-1)
        probability = said[:, int(answer[0])]
        rank = (said > probability[:, None]).sum(1)
        for pos, best in enumerate(said.argmax(1).tolist()):
            says = str(model.tokenizer.decode([best])) if model.tokenizer else str(best)
            row = {"layer": layer, "pos": pos, "token": prompt.labels[pos], "probability": float(probability[pos]), "rank": int(rank[pos])}
            rows.append(row | {"says": says})
    provenance = provenance_of(model, has_bos=prompt.has_bos, engine="one forward", prompt=prompt.text)
    return LogitLens(pd.DataFrame(rows), prompt.labels, answer_label(model, prompt, torch.as_tensor(answer)), provenance)
