"""An empty path where a folder for a run belongs: see test_bad_input.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tl_knowledge as tlk
from tl_knowledge import errors

CASES = tlk.load_edit_cases()[:1]
FT = tlk.FineTune(layer=0, steps=1)
FACTS = tlk.load_facts("factlm")[:1]
EMPTY: dict[str, Any] = {"store": "", "progress": False}
EMPTY_PATH = "'': the path is empty"

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "collect_key_moments": lambda m, p: tlk.collect_key_moments("factlm", ["some text"], layers=[0], tokens=1, **EMPTY),
    "evaluate": lambda m, p: tlk.evaluate("factlm", CASES, FT, **EMPTY),
    "from_facts": lambda m, p: tlk.circuits.from_facts("factlm", FACTS, **EMPTY),
    "locate_neurons": lambda m, p: tlk.locate_neurons("factlm", FACTS, **EMPTY),
    "measure_growth": lambda m, p: tlk.evaluation.measure_growth("factlm", CASES, {"FT": FT}, [1], **EMPTY),
    "measure_relation_side": lambda m, p: tlk.localised.measure_relation_side("factlm", CASES, relations=tlk.datasets.load_relations(), **EMPTY),
    "reproduce": lambda m, p: tlk.published.reproduce("factlm", "meng2022-figure1", **EMPTY),
    "sweep_layer_ranges": lambda m, p: tlk.evaluation.sweep_layer_ranges("factlm", CASES, tlk.MEMIT(layers=(0,)), [(0,)], **EMPTY),
    "sweep_layers": lambda m, p: tlk.localised.sweep_layers("factlm", CASES, lambda layer, objective: FT, **EMPTY),
    "train_tuned_lens": lambda m, p: tlk.states.train_tuned_lens("factlm", ["some text"], validation=["another text"], **EMPTY),
    "trace_facts": lambda m, p: tlk.trace_facts("factlm", FACTS, **EMPTY),
}
BAD_STORES: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    f"{name}: store": (call, errors.DataError, EMPTY_PATH) for name, call in CALLS.items()
}
