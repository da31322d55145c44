"""Attention knockout: from which tokens, and in which layers, does the last position read the answer? (Geva et al. 2023)

Attention from the last position to a set of tokens is blocked in a window of layers around each layer; the relative change
``(p' - p) / p`` of the answer's probability says how much the answer depends on what is read there. All windows and sets of a
prompt are rows of one growing batch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from tl_knowledge.arrays import Hooks
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.engine.rows import as_index, grow_rows, growing_rows_refusal, keep_positions, run_rows
from tl_knowledge.errors import ComponentError, DataError, UnsupportedModelError
from tl_knowledge.hooks import knock_out_attention
from tl_knowledge.metrics import answer_probability
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.protocol import HookedModel, layer_count, model_device
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import largest_rows, mean_interval
from tl_knowledge.results.storage import read_result, write_result
from tl_knowledge.runs.experiment import Experiment, answered
from tl_knowledge.runs.windows import window_layers

__all__ = ["AttentionKnockout", "Blocked", "measure_attention_knockout"]

Blocked: TypeAlias = Literal["subject", "relation", "last"]
"""The tokens that the last position may not read: the subject's, all others but the last, or the last itself."""

PAPER_WINDOW, PAPER_LAYERS = 9, 48  # GPT-2 XL

_writable: WeakKeyDictionary[object, bool] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class AttentionKnockout:
    """What blocking attention from the last position does.

    Attributes:
        change: ``[fact set layer]``: ``(p' - p) / p``; NaN where a prompt has no such tokens, or p is zero.
        clean_probability: ``[fact]``.
        blocked: the sets of the set axis.
        window: layers blocked together around each layer.
        facts: the facts of the fact axis.
    """

    change: NDArray[np.float64]
    clean_probability: NDArray[np.float64]
    blocked: tuple[Blocked, ...]
    window: int
    facts: tuple[Fact, ...]
    provenance: Provenance

    def to_dataframe(self) -> pd.DataFrame:
        """Mean relative change with its 95% bootstrap interval over facts, for every set and layer."""
        frames: list[pd.DataFrame] = []
        for index, blocked in enumerate(self.blocked):
            values = self.change[:, index]
            values = values[~np.isnan(values).any(1)]
            if len(values):
                mean, low, high = mean_interval(list(values[:, None]))
                columns = {"blocked": blocked, "layer": range(len(mean)), "change": mean, "low": low, "high": high, "facts": len(values)}
                frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k sets and layers whose blocking changes the answer's probability most, in either direction."""
        return largest_rows(self.to_dataframe(), k, "change", either_sign=True)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.safetensors`` file; returns the path."""
        tensors = {"change": torch.from_numpy(self.change), "clean_probability": torch.from_numpy(self.clean_probability)}
        fields = {"blocked": self.blocked, "window": self.window, "facts": [asdict(fact) for fact in self.facts]}
        return write_result(path, "AttentionKnockout", tensors, fields | {"provenance": self.provenance.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AttentionKnockout:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        tensors, fields = read_result(path, "AttentionKnockout")
        facts = tuple(Fact(**fact | {"paraphrases": tuple(fact["paraphrases"])}) for fact in fields["facts"])
        change, clean = tensors["change"].numpy(), tensors["clean_probability"].numpy()
        return cls(change, clean, tuple(fields["blocked"]), fields["window"], facts, Provenance(**fields["provenance"]))

    def plot(self) -> go.Figure:
        """Mean relative change by layer, a line for each set of tokens."""
        frame = self.to_dataframe()
        lines: list[Line] = []
        for style, blocked in enumerate(self.blocked):
            rows = frame[frame["blocked"] == blocked]
            if len(rows):
                x, y, low, high = (rows[column].tolist() for column in ("layer", "change", "low", "high"))
                lines.append(Line(f"{blocked} tokens" if blocked != "last" else "last token", x, y, low, high, style))
        together = f"centre of {self.window} layers" if self.window > 1 else "layer"
        return line_panels(
            [LinePanel("", lines)],
            title="What the last position must read",
            subtitle=f"attention from the last position blocked; {len(self.facts)} facts; {self.provenance.model}; bands: 95% bootstrap",
            x_axis=together,
            y_axis="change of P(answer), relative",
            percent=True,
        )


def measure_attention_knockout(
    model: HookedModel,
    facts: Iterable[Fact],
    *,
    at: Sequence[Blocked] = get_args(Blocked),
    window: int | Literal["auto"] = "auto",
    progress: bool = True,
) -> AttentionKnockout:
    """Block attention from the last position to sets of tokens, in a window around each layer.

    Args:
        facts: each with a target that is scored by its first token. Pass facts the model knows: the change is relative.
        at: which sets, each by itself.
        window: layers blocked together; the paper's 9 of GPT-2 XL's 48, or ``"auto"`` for that share of this model's, made odd.

    Raises:
        DataError: no fact.
        ComponentError: an unknown set, or a window that does not fit the model.
        UnsupportedModelError: a model whose attention scores cannot be written (some bridges compute past their hooks).

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> found = tlk.measure_attention_knockout(model, tlk.load_facts("factlm")[:4], window=3, progress=False)
        >>> found.change.shape
        (4, 3, 8)
    """
    check_model(model)
    chosen = tuple(facts)
    if not chosen:
        raise DataError("no fact was given; pass at least one.")
    unknown = [name for name in at if name not in get_args(Blocked)]
    if unknown or not at:
        raise ComponentError(f"at={unknown or at} is not understood; pass some of {', '.join(map(repr, get_args(Blocked)))}.")
    width = _window(model, window)
    _check_writable(model)
    changes: list[NDArray[np.float64]] = []
    cleans: list[float] = []
    prompts = [Prompt.from_fact(model, fact) for fact in chosen]
    for prompt in tqdm(prompts, desc="attention knockout", unit="fact", delay=2, disable=not progress):
        change, clean = _knock_out(model, prompt, at, width)
        changes.append(change)
        cleans.append(clean)
    provenance = Provenance(**describe_model(model), prepends_bos=prompts[0].has_bos, seed=0, engine="rows", settings={"window": width})
    return AttentionKnockout(np.stack(changes), np.array(cleans), tuple(at), width, chosen, provenance)


def _knock_out(model: HookedModel, prompt: Prompt, blocked: Sequence[Blocked], window: int) -> tuple[NDArray[np.float64], float]:
    """Relative changes ``[set layer]`` and the clean probability, from one forward with a row for every window and set."""
    answer = torch.tensor([prompt.target_token], device=model_device(model))
    experiment = Experiment(model, (answered(prompt, answer),), (), 0)
    clean, n_layers = float(experiment.base.probability[0]), layer_count(model)
    jobs = [(index, layer, keys) for index, name in enumerate(blocked) for layer in range(n_layers) if (keys := _keys(prompt, name))]
    jobs.sort(key=lambda job: window_layers(job[1], window, n_layers, "ours")[0])
    found = np.full((len(blocked), n_layers), np.nan)
    if not jobs:
        return found, clean
    windows = [window_layers(layer, window, n_layers, "ours") for _, layer, _ in jobs]
    births = {born_at: as_index([0] * count, experiment.device) for born_at, count in Counter(first - 1 for first, _ in windows).items()}
    hooks: Hooks = grow_rows(experiment.base.streams, births)
    for row, ((_, _, keys), (first, last)) in enumerate(zip(jobs, windows, strict=True), start=1):
        hooks += knock_out_attention(prompt.last, keys, layers=range(first, last + 1), rows=[row])
    logits = run_rows(model, prompt.tokens, hooks + keep_positions(experiment.answer_positions))
    probability = answer_probability(logits, answer[None])[1:]
    for (index, layer, _), value in zip(jobs, probability.tolist(), strict=True):
        found[index, layer] = (value - clean) / clean if clean else np.nan
    return found, clean


def _keys(prompt: Prompt, name: Blocked) -> tuple[int, ...]:
    if name == "last":
        return prompt.last.positions
    last = prompt.last.last
    return tuple(p for p in prompt.span("subject" if name == "subject" else "relation") if p != last)


def _window(model: HookedModel, window: int | Literal["auto"]) -> int:
    if window == "auto":
        return paper_window(layer_count(model))
    if not 1 <= window <= layer_count(model):
        raise ComponentError(f"window {window} does not fit the model; pass 1 to {layer_count(model)} layers, or 'auto'.")
    return window


def paper_window(n_layers: int) -> int:
    """The odd window nearest to the paper's share of the layers: 9 of 48.

    Example:
        >>> [paper_window(n_layers) for n_layers in (4, 8, 12, 24, 48)]
        [1, 1, 3, 5, 9]
    """
    return 2 * round((PAPER_WINDOW / PAPER_LAYERS * n_layers - 1) / 2) + 1


def _check_writable(model: HookedModel) -> None:
    """Refuse models whose attention goes past its score hooks, or that cannot grow rows; asked once a model."""
    refusal = growing_rows_refusal(model)
    if refusal:
        raise UnsupportedModelError(f"this model cannot run growing rows ({refusal}); use the hooks of knock_out_attention() prompt by prompt.")
    if model not in _writable:
        tokens = torch.tensor([[0, 1, 2]], device=model_device(model))
        with torch.no_grad():
            plain: torch.Tensor = model(tokens)
            cut: torch.Tensor = model.run_with_hooks(tokens, fwd_hooks=knock_out_attention(2, [0, 1], layers=range(layer_count(model))))
        _writable[model] = not torch.equal(plain, cut)
    if not _writable[model]:
        raise UnsupportedModelError(
            "this model's attention ignores what is written to hook_attn_scores (its bridge only shows them); load it as HookedTransformer."
        )
