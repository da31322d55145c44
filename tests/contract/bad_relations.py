"""The table of bad input, continued: relations as maps and as vectors."""

from __future__ import annotations

import torch

import tl_knowledge as tlk
from tl_knowledge import errors

FACTS = [tlk.Fact(f"w{k}", "{} w4", f" w{k + 9}", "r") for k in range(3)]
MIXED = [FACTS[0], tlk.Fact("w5", "{} w4", " w6", "other")]
relations, report = tlk.relations, tlk.report

BAD_RELATIONS = {
    "add_vector: positions": (lambda m, p: relations.add_vector(torch.zeros(16), layer=0, positions=()), errors.ComponentError, "no position"),
    "add_vector: vector": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=relations.add_vector(torch.zeros(3), layer=0, positions=0)),
        errors.ComponentError,
        "a vector of 3 numbers",
    ),
    "add_vector: outside": (
        lambda m, p: m.run_with_hooks(p.tokens, fwd_hooks=relations.add_vector(torch.zeros(16), layer=0, positions=-8)),
        errors.ComponentError,
        "position -8 is outside the 7 tokens",
    ),
    "estimate_relation: no fact": (lambda m, p: relations.estimate_relation(m, []), errors.DataError, "no fact was given"),
    "estimate_relation: relations": (lambda m, p: relations.estimate_relation(m, MIXED), errors.InputError, "facts of 2 relations"),
    "estimate_relation: subjects": (lambda m, p: relations.estimate_relation(m, FACTS * 2), errors.DataError, "is given twice"),
    "estimate_relation: beta": (lambda m, p: relations.estimate_relation(m, FACTS, beta=-1.0), errors.InputError, "beta -1.0"),
    "estimate_relation: rank": (lambda m, p: relations.estimate_relation(m, FACTS, rank=17), errors.ComponentError, "rank 17"),
    "estimate_relation: layer": (lambda m, p: relations.estimate_relation(m, FACTS, layer=4), errors.ComponentError, "layer 4 is outside"),
    "estimate_relation_vector: templates": (
        lambda m, p: relations.estimate_relation_vector(m, FACTS, templates=()),
        errors.DataError,
        "no template was given",
    ),
    "estimate_relation_vector: layer": (
        lambda m, p: relations.estimate_relation_vector(m, FACTS, templates="{}", layer=-1),
        errors.ComponentError,
        "layer -1 is outside",
    ),
    "estimate_relation_vector: heads": (
        lambda m, p: relations.estimate_relation_vector(m, FACTS, templates="{}", k=17),
        errors.ComponentError,
        "k=17 heads do not fit a model of 16",
    ),
    "measure_relation_maps: no fact": (lambda m, p: relations.measure_relation_maps(m, []), errors.DataError, "no fact was given"),
    "measure_relation_maps: examples": (lambda m, p: relations.measure_relation_maps(m, FACTS, examples=1), errors.InputError, "examples=1"),
    "measure_relation_maps: limit": (lambda m, p: relations.measure_relation_maps(m, FACTS, limit=0), errors.InputError, "limit=0"),
    "measure_relation_maps: layers": (lambda m, p: relations.measure_relation_maps(m, FACTS, layers=[]), errors.ComponentError, "no layer"),
    "measure_relation_vectors: controls": (
        lambda m, p: relations.measure_relation_vectors(m, FACTS, controls=0),
        errors.InputError,
        "controls=0",
    ),
    "measure_relation_vectors: heads": (lambda m, p: relations.measure_relation_vectors(m, FACTS, k=0), errors.ComponentError, "k=0 heads"),
    "report_relation: relations": (lambda m, p: report.report_relation(m, MIXED), errors.InputError, "facts of 2 relations"),
    "report_relation: no fact": (lambda m, p: report.report_relation(m, []), errors.DataError, "no fact was given"),
    "report_relation: examples": (lambda m, p: report.report_relation(m, FACTS, examples=0), errors.InputError, "examples=0"),
}
