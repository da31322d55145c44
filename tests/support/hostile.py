"""Values that nobody should pass, and what everybody may: for the test that calls every public function with them."""

from __future__ import annotations

import datetime
import decimal
import fractions
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tl_knowledge as tlk


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class BrokenLength:
    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __iter__(self):
        raise RuntimeError("no items")


class BrokenEquality:
    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("no comparison")


def hostile_values() -> dict[str, Any]:
    """By name; made anew each time, since generators are used up."""
    nested: list[Any] = []
    for _ in range(50):
        nested = [nested]
    return {
        "None": None,
        "True": True,
        "nan": float("nan"),
        "inf": float("inf"),
        "-inf": float("-inf"),
        "-1": -1,
        "0": 0,
        "0.0": 0.0,
        "-0.5": -0.5,
        "1.5": 1.5,
        "2": 2,
        "10**30": 10**30,
        "1e300": 1e300,
        "1j": 1j,
        "Decimal": decimal.Decimal("0.5"),
        "Fraction": fractions.Fraction(1, 3),
        "datetime": datetime.datetime(2020, 1, 1),
        "empty text": "",
        "blank": "   ",
        "text": "text",
        "long text": "x" * 10_000,
        "script": "</script><img src=x onerror=alert(1)>",
        "braces": "{} {} {",
        "lone surrogate": "\ud800",
        "null character": "a\0b",
        "right to left": "\u202etxt",
        "bytes": b"bytes",
        "bytearray": bytearray(b"x"),
        "empty list": [],
        "empty tuple": (),
        "empty dict": {},
        "empty set": set(),
        "[None]": [None],
        "[-1]": [-1],
        "[0, 0]": [0, 0],
        "[0.5]": [0.5],
        "['a', 1]": ["a", 1],
        "[[1, 2]]": [[1, 2]],
        "deep": nested,
        "dict": {"a": 1},
        "{1: 2}": {1: 2},
        "set": {1, 2},
        "range": range(2),
        "generator": (i for i in range(2)),
        "texts": iter(["a", "b"]),
        "np.int64": np.int64(1),
        "np.float32": np.float32(0.5),
        "np nan": np.float64("nan"),
        "array": np.arange(2),
        "object array": np.array([None, "a"], dtype=object),
        "2d array": np.zeros((2, 2)),
        "tensor": torch.tensor([0, 1]),
        "float tensor": torch.tensor([0.5, 0.5]),
        "nan tensor": torch.full((1, 3), float("nan")),
        "empty tensor": torch.zeros(0),
        "cuda device": torch.device("cuda"),
        "lambda": lambda *a, **k: None,
        "class": tlk.Prompt,
        "module": torch,
        "missing path": Path("/no/such/file"),
        "folder": Path("/"),
        "Fact": tlk.Fact("w3", "w1 {} w4", " w7"),
        "Span": tlk.Span("s", (0,)),
        "method": tlk.FineTune(0),
        "broken repr": BrokenRepr(),
        "broken length": BrokenLength(),
        "broken equality": BrokenEquality(),
        "exception": ValueError("x"),
        "object": object(),
    }


def good_values(model: Any) -> dict[str, Any]:
    """What each argument's name stands for (``docs/grammar.md``), on a tiny model."""
    facts = [tlk.Fact(f"w{k} w9", "w1 {} w4 w8", f" w{k + 9}", relation=f"r{k % 2}", paraphrases=("w2 {} w4", "w6 {} w5")) for k in range(3, 11)]
    prompt = tlk.Prompt.from_fact(model, facts[0])
    trace = tlk.trace(model, prompt, 1.0, samples=2, progress=False)
    scores = tlk.attribute_neurons(model, [prompt, prompt], steps=2, progress=False)
    groups = tlk.neurons.fact_groups(model, facts, own_wording=False)
    located = tlk.locate_neurons(model, groups, steps=2, progress=False)
    case = tlk.EditCase(facts[0], " w11", (facts[0].rephrase("w2 {} w4"),), (facts[1],))
    edit = tlk.plan_edit(model, facts[0], tlk.FineTune(1, steps=2))
    average = tlk.trace_facts(model, facts, 1.0, samples=1, known_only=False, progress=False)
    circuit = tlk.circuits.from_trace(model, prompt, trace, limit=3, progress=False)
    report = tlk.evaluate(model, case, tlk.FineTune(1, steps=1), progress=False)
    effects = tlk.neurons.measure_neuron_effects(model, facts, located=located, unrelated=1, controls=1, progress=False)
    recorded = model.run_with_cache(prompt.tokens)[1]
    return {
        "model": model,
        "prompt": prompt,
        "prompts": [prompt, prompt],
        "fact": facts[0],
        "facts": facts,
        "case": case,
        "cases": [case],
        "noise": 1.0,
        "samples": 1,
        "steps": 1,
        "progress": False,
        "known_only": False,
        "corpus": ["w1 w2 w3 w4", "w5 w6"],
        "sentences": ["w1 w2 .", "w3 w4 ."],
        "words": {"a": ["w5", "w6"], "b": ["w7", "w8"]},
        "pairs": [],
        "texts": ["w1 w2"],
        "subjects": ["w3"],
        "method": tlk.FineTune(1, steps=1),
        "methods": {"FT": tlk.FineTune(1, steps=1)},
        "method_at": lambda layer, objective: tlk.FineTune(layer, steps=1, objective=objective),
        "edit": edit,
        "edit_to": " w11",
        "trace": trace,
        "traces": trace,
        "scores": scores,
        "attributions": [scores],
        "neurons": tlk.select_neurons(scores),
        "sets": [tlk.select_neurons(scores)] * 2,
        "groups": groups,
        "located": located,
        "effects": [effects],
        "average": average,
        "first": circuit,
        "second": circuit,
        "reports": [report],
        "positions": (1,),
        "queries": 2,
        "keys": (0, 1),
        "layers": (1,),
        "layer": 1,
        "left": torch.zeros(24, 1, dtype=torch.float64),
        "right": torch.zeros(1, 16, dtype=torch.float64),
        "output": "blocks.1.mlp.out.hook_out",
        "clean": recorded,
        "recorded": recorded,
        "component": "mlp_out",
        "modules": "mlp_out",
        "factor": 0.0,
        "limit": 2,
        "controls": 1,
        "unrelated": 1,
        "name": "ft",
        "problem": "error_injection",
        "entity": {"r0": ("w1 {} w2",)},
        "relation": {"r0": ("w1 {} w2",)},
        "names": {"w3 w9": ("w5",)},
        "reverse": {"r0": "{} w2"},
        "templates": {"r0": "w1 {} w2"},
        "targets": {" w7": " w8"},
    }
