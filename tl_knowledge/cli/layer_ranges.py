"""``tl-knowledge layer-ranges``: one method of several layers over ranges of layers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import cases_argument, corpus_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.methods import method_argument, moments_argument, settings_argument
from tl_knowledge.cli.results import show_result
from tl_knowledge.cli.words import PROTOCOLS
from tl_knowledge.errors import InputError

__all__ = ["layer_ranges_command"]


@loads_model
def layer_ranges_command(
    layers: Annotated[list[str], typer.Option("--range", help="Layers of one evaluation, as in 3 or 3-8; repeatable.")],
    method: options.Method = "memit",
    model: options.Model = "factlm",
    dataset: options.EditSet = "factlm",
    source: options.Source = None,
    limit: Annotated[int, typer.Option(min=1, help="How many cases, from the first.")] = 20,
    setting: options.Settings = None,
    protocol: Annotated[str, options.choice("protocol", PROTOCOLS)] = "batch",
    batch_size: Annotated[int, typer.Option(min=1, help="Cases a plan, under single and sequential.")] = 1,
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    store: options.Store = None,
    progress: options.Progress = True,
    out: options.Page = None,
    table: options.TableFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Score one method with other layers each time: how many, and where?"""
    ranges, bar = list(dict.fromkeys(map(_range, layers))), progress and not as_json
    values, corpus_name, cases = settings_argument(setting), corpus_argument(corpus, model), cases_argument(dataset, source, limit)
    loaded = model_argument(model)
    first: Any = method_argument(loaded, method, ranges[0], values)
    if type(first).layer_word() != "layers":
        raise InputError(f"--method {method} edits no range of layers; pass memit or alphaedit.")
    over = [replace(first, layers=own) for own in ranges]
    shared: dict[str, Any] = {"moments": moments_argument(loaded, over, moments, corpus_name, progress=bar), "store": store, "progress": bar}
    scores = tlk.evaluation.sweep_layer_ranges(loaded, cases, first, ranges, protocol=protocol, batch_size=batch_size, **shared)  # pyright: ignore[reportArgumentType]
    title, shown = "Which layers are edited", dict[str, Any](out=out, table=table, as_json=as_json)
    summary = scores.summary()
    columns = ["layers", *(score for score in ("S", "ES", "PS", "NS") if score in summary)]
    show_result(scores, summary.loc[:, columns], title=title, figures=lambda: [scores.plot()], form=".1f", scores=columns[1:], **shown)


def _range(text: str) -> tuple[int, ...]:
    """Layers from the first to the last.

    Raises:
        InputError: no layers.

    Example:
        >>> _range("3-5"), _range("2")
        ((3, 4, 5), (2,))
    """
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise InputError(f"--range {text!r} is no range of layers; pass one such as 3 or 3-8.")
    return tuple(range(int(found[1]), int(found[2] or found[1]) + 1))
