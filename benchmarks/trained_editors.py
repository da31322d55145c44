"""What a benchmark's editors need first: a training on facts that are none of its cases, and key moments of their layers."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import tl_knowledge as tlk
from tl_knowledge.cli.methods import moments_argument


def trained(model: tlk.HookedModel, label: str, method: Any, store: Path | None, *, without: Collection[str] = ()) -> Any:
    """The method, trained where it needs that on ``load_training_data("factlm")`` but for some subjects; else the method itself."""
    if not method.needs_training:
        return method
    data, start = tlk.editing.load_training_data("factlm"), time.perf_counter()
    cases, validation = ([case for case in each if case.fact.subject not in without] for each in (data.cases, data.validation))
    own = None if store is None else store / f"training_{label}"
    ready = method.train(model, cases, data.corpus, validation=validation, store=own, progress=False)
    print(f"{label}: trained on {len(cases)} cases in {time.perf_counter() - start:.0f} s", flush=True)
    return ready


def own_moments(model: tlk.HookedModel, methods: Iterable[tlk.editing.EditMethod]) -> tlk.KeyMoments | None:
    """FactLM's key moments of the layers that the methods need, over its own corpus; ``None`` where none needs any."""
    return moments_argument(model, list(methods), None, "factlm", progress=True)
