"""``tl-knowledge moments``: second moments of the keys, which most editing methods need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import corpus_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.methods import needed_corpus
from tl_knowledge.cli.printing import print_json, print_table, print_written

__all__ = ["moments_command"]

HEADER = ("layer", "neurons", "tokens", "condition number", "change since half of the tokens")


@loads_model
def moments_command(
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.", callback=options.writable)],
    model: options.Model = "factlm",
    corpus: options.Corpus = None,
    layer: options.Layers = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="How many to read; default ten for each neuron of a layer.")] = None,
    store: options.Store = None,
    progress: options.Progress = True,
    as_json: options.AsJson = False,
) -> None:
    """Collect the second moments of the keys, all layers at once.

    They are the mean of k k^T over the tokens of a corpus; most editing methods need them.
    """
    corpus_name = needed_corpus(corpus_argument(corpus, model), model)
    loaded = model_argument(model)
    moments = tlk.collect_key_moments(
        loaded, tlk.datasets.corpus_texts(corpus_name), layers=layer or None, tokens=tokens, store=store, progress=progress and not as_json
    )
    written = moments.save(out)
    rows = moments.to_dataframe().to_dict(orient="records")
    if as_json:
        print_json({"layers": rows, "corpus": moments.corpus, "fingerprint": moments.fingerprint, "path": str(written)})
        return
    cells = [(str(r["layer"]), str(r["neurons"]), str(r["tokens"]), f"{r['condition']:.2g}", f"{r['change']:.1%}") for r in rows]
    print_table(tlk.drawing.Table(HEADER, cells))
    print_written(Path(written), "moments")
