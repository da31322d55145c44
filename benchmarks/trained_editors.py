"""Editors that need a training, trained for a benchmark on facts that are none of its cases."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import tl_knowledge as tlk


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
