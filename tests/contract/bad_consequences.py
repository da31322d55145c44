"""The table of bad input, continued: what follows from an edit."""

from __future__ import annotations

import torch

import tl_knowledge as tlk
from tl_knowledge import errors

FACT = tlk.Fact("a", "{} is", " b", "r")
CASE = tlk.EditCase(FACT, " c", (), ())
FRANCE = tlk.EditCase(tlk.Fact("France", "The capital of {} is", " Paris", "P36"), " Rome", (), ())


def edit_of(model):
    return tlk.plan_edit(model, FRANCE.rewrite, tlk.FineTune(layer=0, steps=1), progress=False)


def written(model, prompt):
    """Asked while the edit is in the model."""
    factlm = tlk.load_model("factlm")
    edit = edit_of(factlm)
    with edit.applied(factlm):
        tlk.evaluation.measure_consequences(factlm, FRANCE, edit)


BAD_CONSEQUENCES = {
    "load_ripple_edits": (lambda m, p: tlk.datasets.load_ripple_edits("nowhere.json"), errors.DataError, "there is no file"),
    "load_mquake": (lambda m, p: tlk.datasets.load_mquake("nowhere.json"), errors.DataError, "there is no file"),
    "load_mquake: template": (lambda m, p: tlk.datasets.load_mquake("nowhere.json", template="Q:"), errors.PromptError, "mark the question's place"),
    "with_ripples: no case": (lambda m, p: tlk.datasets.with_ripples([], facts=[FACT], relations=[]), errors.DataError, "no case was given"),
    "with_ripples: no fact": (lambda m, p: tlk.datasets.with_ripples(CASE, facts=[], relations=[]), errors.DataError, "no fact was given"),
    "chained_edit_cases": (lambda m, p: tlk.datasets.chained_edit_cases([FACT], relations=[]), errors.DataError, "pass facts that are linked"),
    "chained_edit_cases: limit": (
        lambda m, p: tlk.datasets.chained_edit_cases([FACT], relations=[], limit=0),
        errors.InputError,
        "limit=0",
    ),
    "subject_texts": (lambda m, p: tlk.datasets.subject_texts([], facts=[FACT]), errors.DataError, "no case was given"),
    "subject_facts": (lambda m, p: tlk.evaluation.subject_facts([]), errors.DataError, "no fact was given"),
    "EditTestScores: axes": (lambda m, p: tlk.evaluation.EditTestScores(()), errors.InputError, "no axis to score"),
    "ripple_scores": (lambda m, p: tlk.evaluation.ripple_scores(length=0), errors.InputError, "length=0"),
    "multi_hop_scores": (lambda m, p: tlk.evaluation.multi_hop_scores(length=0), errors.InputError, "length=0"),
    "portability_scores": (lambda m, p: tlk.evaluation.portability_scores(length=0), errors.InputError, "length=0"),
    "GeneralAbility": (lambda m, p: tlk.evaluation.GeneralAbility(), errors.InputError, "nothing to read"),
    "measure_consequences: costs": (
        lambda m, p: tlk.evaluation.measure_consequences("factlm", FRANCE, edit_of("factlm"), measures=tlk.evaluation.EditCosts()),
        errors.InputError,
        "counts what planning an edit costs",
    ),
    "measure_consequences: written": (written, errors.ModelStateError, "so there is no unedited run"),
    "measure_consequences: another model": (
        lambda m, p: tlk.evaluation.measure_consequences(tlk.load_model("factlm", dtype=torch.float64), FRANCE, edit_of("factlm")),
        errors.ModelStateError,
        "planned for other weights",
    ),
    "report_fact: measures": (
        lambda m, p: tlk.report_fact("factlm", FACT, measures=tlk.evaluation.ExtractionAttacks()),
        errors.InputError,
        "there is no edit; pass edit_to=",
    ),
    "report_fact: case": (
        lambda m, p: tlk.report_fact("factlm", CASE, edit_to=" d"),
        errors.InputError,
        "is not the case's new object ' c'; drop it",
    ),
    "ExtractionAttacks: k": (lambda m, p: tlk.evaluation.ExtractionAttacks(k=0), errors.InputError, "tries nothing"),
    "ExtractionAttacks: layers": (lambda m, p: tlk.evaluation.ExtractionAttacks(layers=(2, 1)), errors.InputError, "ascending layers"),
}
