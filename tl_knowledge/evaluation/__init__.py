"""Evaluation of edits."""

from tl_knowledge.evaluation.evaluate import evaluate
from tl_knowledge.evaluation.report import EditReport, Score

__all__ = ["EditReport", "Score", "evaluate"]
