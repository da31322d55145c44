"""``tl-knowledge explore``: a local page to ask one model in."""

from __future__ import annotations

import webbrowser
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import corpus_argument
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.printing import print_line
from tl_knowledge.errors import InputError

__all__ = ["explore_command"]


@loads_model
def explore_command(
    model: options.Model = "factlm",
    moments: options.Moments = None,
    corpus: options.Corpus = None,
    editor: Annotated[list[Path] | None, typer.Option(help="A trained MEND, KE or SERAC, from tl-knowledge train; repeat it for several.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0 takes any that is free.")] = 8050,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Open a local page to trace, look into and edit one model; it needs no network and only this machine reaches it."""
    if find_spec("dash") is None:
        raise InputError('explore needs Dash; pip install "tl-knowledge[explore]".')
    from tl_knowledge.explore.page.local import LocalPage
    from tl_knowledge.explore.session import ExplorerSession

    texts, kept = corpus_argument(corpus, model), None if moments is None else tlk.KeyMoments.load(moments)
    trained = [tlk.editing.load_trained(path) for path in editor or ()]
    with LocalPage.at(port) as page:
        print_line(f"loading {model} ...")
        read = None if texts is None else partial(tlk.datasets.corpus_texts, texts)
        session = ExplorerSession(model_argument(model), name=model, moments=kept, corpus=read, editors=trained)
        page.show(session)
        for offer in session.methods:
            if offer.editor:
                print_line(f"the trained {offer.title} is {offer.editor} in links")
        print_line((page.address, "bold"), "  Ctrl+C ends it.")
        if browser:
            webbrowser.open(page.address)
        page.serve()
