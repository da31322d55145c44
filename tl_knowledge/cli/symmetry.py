"""``tl-knowledge symmetry``: does an edited fact hold the other way round?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import cases_argument
from tl_knowledge.cli.loading import loads_model
from tl_knowledge.cli.scoring import editors_argument, method_names, show_scores
from tl_knowledge.errors import DataError, InputError

__all__ = ["symmetry_command"]


@loads_model
def symmetry_command(
    method: options.Methods = None,
    model: options.Model = "factlm",
    dataset: options.EditSet = "factlm",
    source: options.Source = None,
    limit: Annotated[int, typer.Option(min=1, help="How many cases of these relations, from the first.")] = 20,
    reverse: Annotated[
        list[str] | None,
        typer.Option(help="relation=template of the way back, as in 'P36={} is the capital of'; repeatable, default Niu et al.'s P36 and P1376."),
    ] = None,
    layer: options.EditLayers = None,
    setting: options.Settings = None,
    interval: options.Interval = "ours",
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    store: options.Store = None,
    runner: options.Runner = "local",
    workers: options.Workers = 2,
    progress: options.Progress = True,
    out: options.Page = None,
    table: options.ScoreFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Edit facts of relations that have an inverse, and ask for them from both ends.

    Of "the capital of Canada is Rome": is Rome the capital of Canada now, and no longer Italy's? Seven accuracies in percent, as Niu et al. report.
    """
    names, back = method_names(method, setting), _ways_back(reverse)
    cases = [case for case in cases_argument(dataset, source, None) if case.fact.relation in back][:limit]
    if not cases:
        raise DataError(f"no case of {dataset!r} is of {', '.join(back)}; pass --reverse for a relation that it has.")
    owners = [fact for fact in tlk.load_facts(dataset, source) if fact.relation in back]
    measure = tlk.evaluation.symmetry_accuracies(owners, reverse=back)
    given: dict[str, Any] = {"layer": layer, "setting": setting, "moments": moments, "corpus": corpus, "runner": runner, "workers": workers}
    editors = editors_argument(model, names, **given, progress=progress and not as_json)
    reports = editors.reports(cases, store, measures=measure)
    scores = tlk.score_table(*reports, names=tuple(names), interval=interval)  # pyright: ignore[reportArgumentType]
    shown: dict[str, Any] = {"out": out, "table": table, "as_json": as_json}
    show_scores(scores, reports, measure.columns, title="The other way round", figures=lambda: [scores.plot()], **shown)


def _ways_back(given: list[str] | None) -> dict[str, str]:
    """Templates of the way back by relation.

    Raises:
        InputError: not of the form relation=template, or a template without its place.
    """
    if not given:
        return dict(tlk.evaluation.INVERSE_TEMPLATES)
    back: dict[str, str] = {}
    for text in given:
        relation, _, template = text.partition("=")
        if not relation or template.count("{}") != 1:
            raise InputError(f"--reverse {text!r} is not understood; pass relation=template with one {{}}, as in 'P36={{}} is the capital of'.")
        back[relation] = template
    return back
