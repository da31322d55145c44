"""``tl-knowledge train``: train an editor, and keep it as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import corpus_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.methods import method_argument, settings_argument
from tl_knowledge.cli.printing import print_json, print_line, print_table, print_written, write_file
from tl_knowledge.cli.words import TRAINED_METHODS, TRAINING_SETS
from tl_knowledge.errors import DataError

__all__ = ["train_command"]


@loads_model
def train_command(
    method: Annotated[str, typer.Argument(help=f"{', '.join(TRAINED_METHODS)}.", callback=options.one_of("method", TRAINED_METHODS))],
    save: Annotated[Path, typer.Option(help="The file to write (.safetensors), for --method mend:editor=FILE.", callback=options.writable)],
    model: options.Model = "factlm",
    dataset: Annotated[str, options.choice("dataset", TRAINING_SETS, error=DataError)] = "factlm",
    source: options.Source = None,
    corpus: Annotated[str | None, typer.Option(help="Unrelated texts: a text file (one text a line), wikipedia or wikitext.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many training cases, from the first; default all.")] = None,
    layer: options.EditLayers = None,
    setting: options.Settings = None,
    store: options.Store = None,
    progress: options.Progress = True,
    out: options.Page = None,
    as_json: options.AsJson = False,
) -> None:
    """Train an editor on edit cases, none of a fact that is evaluated.

    Settings are the method's and those of its training: --setting steps=2000 --setting rank=64.
    """
    values, corpus_name = settings_argument(setting), corpus_argument(corpus, "factlm" if dataset == "factlm" else model)
    texts = None if corpus_name is None else tlk.datasets.corpus_texts(corpus_name)
    data = tlk.editing.load_training_data(dataset, source, corpus=texts)
    loaded = model_argument(model)
    settings = method_argument(loaded, method, layer, values)
    assert isinstance(settings, tlk.editing.TrainedMethod)
    trained = settings.train(loaded, data.cases[:limit], data.corpus, validation=data.validation, store=store, progress=progress and not as_json)
    written, curve = trained.save(save), trained.trained.curve
    if out is not None:
        write_file(out, tlk.drawing.html_page(f"Training of {method}", [curve.headline(), curve.plot()]))
    if as_json:
        rows = curve.to_dataframe().to_dict(orient="records")
        print_json({"curve": rows, "editor": trained.editor, "provenance": curve.provenance.to_dict(), "path": str(written)})
        return
    print_line(curve.headline())
    frame = curve.to_dataframe().tail(10)
    cells = [tuple(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row) for row in frame.to_numpy().tolist()]
    print_table(tlk.drawing.Table(tuple(map(str, frame.columns)), cells))
    print_written(written, "editor")
    print_written(out)
