"""Bad input to what makes published experiments again: see test_bad_input.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tl_knowledge as tlk
from tl_knowledge import errors

TABLE4 = "meng2022-table4"
SMALL: dict[str, Any] = {"shape": "gpt2", "layers": 1, "limit": 1, "progress": False}
published = tlk.published

BAD_PUBLISHED: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "reproduce: experiment": (lambda m, p: published.reproduce(m, "meng2022-table5"), errors.InputError, TABLE4),
    "reproduce: limit": (lambda m, p: published.reproduce(m, TABLE4, limit=0), errors.InputError, "takes no case"),
    "reproduce: runner": (lambda m, p: published.reproduce(m, TABLE4, runner="spark"), errors.InputError, "runner"),
    "reproduce: page": (lambda m, p: published.reproduce(m, TABLE4, page="/dev/null/page.html"), errors.DataError, "page"),
    "plan_reproduction: experiment": (lambda m, p: published.plan_reproduction("table 4"), errors.InputError, "experiment"),
    "plan_reproduction: pace": (
        lambda m, p: published.plan_reproduction(TABLE4, pace=published.rehearse("meng2022-figure1", **SMALL)),
        errors.InputError,
        "rehearse that",
    ),
    "published_experiment": (lambda m, p: published.published_experiment(""), errors.InputError, "experiment"),
    "rehearse: shape": (lambda m, p: published.rehearse(TABLE4, shape="gpt5"), errors.InputError, "gpt2"),
    "rehearse: layers": (lambda m, p: published.rehearse(TABLE4, shape="gpt2", layers=13), errors.ComponentError, "pass 1 to 12"),
    "rehearse: limit": (lambda m, p: published.rehearse(TABLE4, shape="gpt2", layers=1, limit=0), errors.InputError, "takes no case"),
    "rehearse: no shape": (lambda m, p: published.rehearse("dai2022-table3"), errors.InputError, "cannot be rehearsed"),
    "corpus_texts": (lambda m, p: list(tlk.datasets.corpus_texts("nowhere.txt")), errors.DataError, "neither a file"),
    "measure_relation_side": (
        lambda m, p: tlk.localised.measure_relation_side(m, tlk.load_edit_cases()[:1], relations=tlk.datasets.load_relations(), methods="mend"),
        errors.InputError,
        "method",
    ),
}
