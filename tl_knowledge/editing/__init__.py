"""Editing: low-rank rewrites of ``W_out``."""

from tl_knowledge.editing.alphaedit import AlphaEdit
from tl_knowledge.editing.collect import collect_key_moments
from tl_knowledge.editing.edit import Edit, LowRank
from tl_knowledge.editing.emmet import EMMET
from tl_knowledge.editing.fine_tune import FineTune, FineTuneConstrained
from tl_knowledge.editing.health import EditHealth, LayerHealth
from tl_knowledge.editing.memit import MEMIT
from tl_knowledge.editing.method import EditMethod, plan_edit
from tl_knowledge.editing.moments import KeyMoments
from tl_knowledge.editing.objective import Objective
from tl_knowledge.editing.rome import ROME
from tl_knowledge.editing.values import ValueSettings

__all__ = [
    "EMMET",
    "MEMIT",
    "ROME",
    "AlphaEdit",
    "Edit",
    "EditHealth",
    "EditMethod",
    "FineTune",
    "FineTuneConstrained",
    "KeyMoments",
    "LayerHealth",
    "LowRank",
    "Objective",
    "ValueSettings",
    "collect_key_moments",
    "plan_edit",
]
