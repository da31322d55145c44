"""Evaluation of edits."""

from tl_knowledge.evaluation.evaluate import evaluate
from tl_knowledge.evaluation.generation import GenerationScores
from tl_knowledge.evaluation.growth import EditGrowth, measure_growth
from tl_knowledge.evaluation.measures import EditMeasure, PromptAccuracy, perspectives, subject_synonymy, symmetry, synonymy
from tl_knowledge.evaluation.report import EditReport, score_table
from tl_knowledge.evaluation.table import Score, ScoreTable

__all__ = [
    "EditGrowth",
    "EditMeasure",
    "EditReport",
    "GenerationScores",
    "PromptAccuracy",
    "Score",
    "ScoreTable",
    "evaluate",
    "measure_growth",
    "perspectives",
    "score_table",
    "subject_synonymy",
    "symmetry",
    "synonymy",
]
