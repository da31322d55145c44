"""The table of bad input, continued: editing and its evaluation."""

from __future__ import annotations

from dataclasses import replace

import torch

import tl_knowledge as tlk
from tl_knowledge import errors
from tl_knowledge.editing.optimise.fact_rows import edited_position
from tl_knowledge.results.provenance import Provenance

FACT = tlk.Fact("a", "{} is", " b")
MOMENTS = tlk.KeyMoments(
    {1: torch.eye(24, dtype=torch.float64)}, 99, {1: 0.1}, "x", "y", Provenance("m", "b", {}, False, "float64", "cpu", 0, "e", {})
)
CASES = tlk.load_edit_cases()

BAD_EDITS = {
    "plan_edit: no fact": (lambda m, p: tlk.plan_edit(m, [], tlk.ROME(layer=1)), errors.DataError, "no fact was given"),
    "ROME: several": (
        lambda m, p: tlk.ROME(layer=1).plan(m, [FACT] * 2, None),
        errors.InputError,
        "one fact at a time, not 2",
    ),
    "IKE: no pool": (lambda m, p: tlk.editing.IKE().plan(m, [FACT], None), errors.InputError, "needs as many demonstrations, and none was given"),
    "IKE: several": (lambda m, p: tlk.editing.IKE(k=0).plan(m, [FACT] * 2, None), errors.InputError, "one fact at a time, not 2"),
    "IKE: the fact itself": (
        lambda m, p: tlk.editing.IKE(k=1, pool=tlk.editing.Demonstrations.from_cases(CASES[:2])).plan(m, [CASES[0].rewrite], None),
        errors.InputError,
        "the demonstrations hold the edited fact",
    ),
    "IKE: embedding": (lambda m, p: tlk.editing.IKE(k=0, embedding="all-MiniLM"), errors.InputError, "which is not installed"),
    "Demonstrations: none": (lambda m, p: tlk.editing.Demonstrations.from_cases([]), errors.DataError, "no case was given"),
    "train_serac: one case": (lambda m, p: tlk.editing.train_serac(m, CASES[:1]), errors.DataError, "one case cannot be both"),
    "SeracSettings: steps": (lambda m, p: tlk.editing.SeracSettings(steps=0), errors.InputError, "trains nothing"),
    "EMMET: moments": (lambda m, p: tlk.EMMET(layer=1).plan(m, [], None), errors.InputError, "needs the second moments"),
    "FineTune: bound": (lambda m, p: tlk.FineTune(layer=1, most_change=0.0).plan(m, [], None), errors.InputError, "allows no change"),
    "MEMIT: order": (lambda m, p: tlk.MEMIT(layers=(2, 1)).plan(m, [], MOMENTS), errors.InputError, "do not ascend"),
    "MEMIT: moments": (lambda m, p: tlk.MEMIT(layers=(1,)).plan(m, [], None), errors.InputError, "needs the second moments"),
    "ROME: layer": (lambda m, p: tlk.ROME(layer=99).plan(m, [FACT], None), errors.ComponentError, "layer 99 is outside"),
    "ROME.for_model": (lambda m, p: tlk.ROME.for_model(m), errors.InputError, "nothing is published for"),
    "collect_key_moments: layer": (lambda m, p: tlk.collect_key_moments(m, ["a"], layers=[9]), errors.ComponentError, "layer 9 is outside"),
    "evaluate: no case": (lambda m, p: tlk.evaluate(m, [], tlk.ROME(layer=1)), errors.DataError, "no case was given"),
    "evaluate: protocol": (
        lambda m, p: tlk.evaluate(m, tlk.load_edit_cases()[:1], tlk.ROME(layer=1), protocol="all"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "protocol 'all' is unknown",
    ),
    "MEMIT: weight": (lambda m, p: tlk.MEMIT(layers=(1,), moment_weight=0.0).plan(m, [], MOMENTS), errors.InputError, "keeps nothing of other text"),
    "MEMIT.for_model": (lambda m, p: tlk.MEMIT.for_model(m), errors.InputError, "nothing is published for"),
    "ROME: variant": (
        lambda m, p: tlk.ROME(layer=1, variant="r_rome").plan(m, [FACT], MOMENTS),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "variant 'r_rome' is unknown",
    ),
    "ROME: at": (
        lambda m, p: edited_position(p, "subject_last"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "at 'subject_last' is unknown, did you mean 'subject_first'",
    ),
    "measure_growth: no method": (lambda m, p: tlk.evaluation.measure_growth(m, CASES[:2], {}, [1]), errors.DataError, "no method was given"),
    "method_class: name": (lambda m, p: tlk.editing.method_class("memt"), errors.InputError, "method 'memt' is unknown, did you mean 'memit'"),
    "method_for_model: name": (lambda m, p: tlk.editing.method_for_model(m, "rom"), errors.InputError, "did you mean 'rome'"),
    "ROME: bare weight": (
        lambda m, p: tlk.ROME(layer=1, bare_weight=2.0).plan(m, [FACT], MOMENTS),
        errors.InputError,
        "bare_weight=2.0 is no weight",
    ),
    "EMMET: bare weight": (
        lambda m, p: tlk.EMMET(layer=1, bare_weight=-1.0).plan(m, [FACT], MOMENTS),
        errors.InputError,
        "bare_weight=-1.0 is no weight",
    ),
    "AlphaEdit: moments": (lambda m, p: tlk.AlphaEdit(layers=(1,)).plan(m, [], None), errors.InputError, "needs the second moments"),
    "AlphaEdit: ridge": (lambda m, p: tlk.AlphaEdit(layers=(1,), ridge=0.0).plan(m, [], MOMENTS), errors.InputError, "leaves the update singular"),
    "AlphaEdit.for_model": (lambda m, p: tlk.AlphaEdit.for_model(m), errors.InputError, "nothing is published for"),
    "FineTune: layers": (lambda m, p: tlk.FineTune(layer=(1, 1)).plan(m, [], None), errors.InputError, "no layer, or one twice"),
    "FineTune: variant": (lambda m, p: tlk.FineTune(layer=1, variant="meng2023").plan(m, [], None), errors.InputError, "variant 'meng2023'"),
    "FineTuneConstrained: bound": (
        lambda m, p: tlk.editing.FineTuneConstrained(layer=1, most_change=-1.0).plan(m, [], None),
        errors.InputError,
        "allows no change",
    ),
    "KnowledgeNeuronEdit: variant": (
        lambda m, p: tlk.localised.KnowledgeNeuronEdit(variant="both").plan(m, [FACT], None),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "variant 'both' is unknown",
    ),
    "KnowledgeNeuronEdit: at": (
        lambda m, p: tlk.localised.KnowledgeNeuronEdit(at="relation").plan(m, [FACT], None),
        errors.InputError,
        "at 'relation' is unknown",
    ),
    "CausalNeuronEdit: states": (lambda m, p: tlk.localised.CausalNeuronEdit(k=0), errors.InputError, "k=0 changes no state"),
    "CausalNeuronEdit: no such program": (
        lambda m, p: tlk.localised.CausalNeuronEdit(variant="meng2022_code"),
        errors.InputError,
        "variant 'meng2022_code' is unknown",
    ),
    "CausalNeuronEdit: variant": (
        lambda m, p: tlk.localised.CausalNeuronEdit(variant="both").plan(m, [FACT], None),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "variant 'both' is unknown",
    ),
    "editing_problem: unknown": (
        lambda m, p: tlk.localised.editing_problem(m, CASES[0], "forgetting"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "problem 'forgetting' is unknown",
    ),
    "sweep_layers: no case": (
        lambda m, p: tlk.localised.sweep_layers(m, [], lambda layer, o: tlk.ROME(layer=layer)),
        errors.DataError,
        "no case was given",
    ),
    "layers_around: layer": (lambda m, p: tlk.localised.layers_around(m, 9), errors.ComponentError, "layer 9 is outside"),
    "compare_sweeps: none": (lambda m, p: tlk.localised.compare_sweeps(), errors.DataError, "no sweep was given"),
    "hase_scores: variant": (
        lambda m, p: tlk.evaluation.hase_scores({}, {}, variant="hase2022"),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "'hase2022'",
    ),
    "read_answers: pairs": (
        lambda m, p: tlk.evaluation.read_answers(m, [p]),  # pyright: ignore[reportArgumentType]
        errors.InputError,
        "pairs=",
    ),
    "evaluate: batch size": (lambda m, p: tlk.evaluate(m, CASES[:1], tlk.ROME(layer=1), batch_size=0), errors.InputError, "batch_size=0"),
    "evaluate: contradiction": (
        lambda m, p: tlk.evaluate(m, [CASES[0], replace(CASES[0], target_new=" Atlantis")], tlk.MEMIT(layers=(1,)), protocol="batch"),
        errors.InputError,
        "in one batch; keep one of them",
    ),
    "measure_growth: sizes": (
        lambda m, p: tlk.evaluation.measure_growth(m, CASES[:2], {"ROME": tlk.ROME(layer=1)}, [3]),
        errors.InputError,
        "do not fit 2 cases",
    ),
    "FineTune: objective": (
        lambda m, p: tlk.FineTune(layer=1, objective=tlk.editing.Objective(variant="hase2023")).plan(m, [FACT], None),
        errors.InputError,
        "does not train towards",
    ),
    "GenerationScores: length": (lambda m, p: tlk.evaluation.GenerationScores(length=0), errors.InputError, "length"),
    "EssenceDrift: length": (lambda m, p: tlk.evaluation.EssenceDrift({}, length=1), errors.InputError, "predicts no token"),
    "AttributeSnippets.from_texts": (lambda m, p: tlk.datasets.AttributeSnippets.from_texts({}), errors.InputError, "no text in texts"),
    "compare_categories: none": (lambda m, p: tlk.evaluation.compare_categories(), errors.DataError, "no report was given"),
    "sweep_layer_ranges: none": (
        lambda m, p: tlk.evaluation.sweep_layer_ranges(m, CASES[:2], tlk.MEMIT(layers=(1,)), []),
        errors.InputError,
        "at least one range",
    ),
    "score_table: none": (lambda m, p: tlk.score_table(), errors.DataError, "no report was given"),
}
