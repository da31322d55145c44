"""``tl-knowledge perturb``: how much of what a model knows survives noise on every token's embedding."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.arguments import facts_argument, noise_argument, subject_noise
from tl_knowledge.cli.loading import loads_model, model_argument
from tl_knowledge.cli.results import show_result
from tl_knowledge.cli.words import PERTURBATION_VARIANTS

__all__ = ["perturb_command"]


@loads_model
def perturb_command(
    model: options.Model = "factlm",
    dataset: options.FactSet = "factlm",
    source: options.Source = None,
    relation: options.Relations = None,
    limit: Annotated[int, typer.Option(min=1, help="A random sample of so many known facts, drawn with --seed.")] = 100,
    noise: Annotated[str | None, typer.Option(help="Standard deviation: a number, 3sd or 3subject-sd; default the variant's own.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Noise draws for each fact; default the variant's own.")] = None,
    seed: options.Seed = 0,
    variant: Annotated[str, options.choice("variant", PERTURBATION_VARIANTS, ": noise on the tokens, or on the embedding matrix")] = "ours",
    progress: options.Progress = True,
    out: options.Page = None,
    table: options.TableFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Add a little noise to every token, and measure what the answers lose.

    Printed is the mean drop of the answer's probability, of all facts and by relation.
    """
    bar, drawn = progress and not as_json, None if noise is None else noise_argument(noise)
    facts = facts_argument(dataset, source, relation)
    loaded = model_argument(model)
    facts = tlk.sample_facts(tlk.known_facts(loaded, facts, progress=bar), limit, seed=seed)
    drawn = None if drawn is None else subject_noise(drawn, loaded, [fact.subject for fact in facts])
    test = tlk.tracing.perturb_embeddings(loaded, facts, drawn, variant=variant, samples=samples, seed=seed, progress=bar)  # pyright: ignore[reportArgumentType]
    title, shown = "What noise on every token costs", dict[str, Any](out=out, table=table, as_json=as_json)
    show_result(test, test.by_relation(), title=title, figures=lambda: [test.plot()], **shown)
