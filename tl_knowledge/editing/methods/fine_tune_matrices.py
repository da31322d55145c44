"""Fine-tuning of other matrices than ``W_out``: the baselines FT-Attn (Meng et al. 2022) and FT-W (Meng et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.editing.methods.fine_tune import FineTune
from tl_knowledge.models.matrices import Matrix
from tl_knowledge.models.published_settings import TRACED_LAYERS

__all__ = ["FineTuneAttention", "FineTuneDecayed"]


@public
@dataclass(frozen=True)
class FineTuneAttention(FineTune):
    """FT-Attn: fine-tuning of one block's query, key and value matrices, every weight's change bounded (Meng et al. 2022, appendix).

    Published for GPT-2 XL (layer 33). The program trains the projections' biases, too; those an edit does not hold, so here they stay.

    Example:
        >>> import tl_knowledge as tlk
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> edit = tlk.plan_edit("factlm", fact, tlk.editing.FineTuneAttention.for_model("factlm"))
        >>> list(edit.to_dataframe()["matrix"])
        ['W_K', 'W_Q', 'W_V']
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-xl": {"layer": 33},
        "factlm": {"layer": 0, "learning_rate": 5e-3, "most_change": 1e-2},
        "factlm-llama": {"layer": 0, "learning_rate": 5e-3, "most_change": 5e-3},  # in layers 1 and 2, next to its facts, ES is 70
    }
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    learning_rate: float = 1e-3
    most_change: float | None = 1e-3
    matrices: tuple[Matrix, ...] | None = ("W_Q", "W_K", "W_V")

    @classmethod
    @override
    def small(cls) -> FineTuneAttention:
        return replace(super().small(), most_change=5e-3)  # pyright: ignore[reportReturnType]


@public
@dataclass(frozen=True)
class FineTuneDecayed(FineTune):
    """FT-W: fine-tuning of a whole block under a weight decay that falls with the number of facts (Meng et al. 2023, appendix B.1).

    The decay of n facts is ``exp(0.1559) n^-0.8703``. Published for GPT-J (block 21). An edit holds all of a block's matrices, and with
    ``variant="meng2022_code"`` the bias of ``W_out``; the block's norms and other biases, which FT-W trains as well, stay as they are. The published
    program reads its power law as a list where it asks for a tuple, so that nothing decays there: neither does it under that variant of `for_model`.

    Example:
        >>> import tl_knowledge as tlk
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> edit = tlk.plan_edit("factlm", fact, tlk.editing.FineTuneDecayed.for_model("factlm"))
        >>> list(edit.to_dataframe()["matrix"])
        ['W_out', 'W_K', 'W_O', 'W_Q', 'W_V', 'W_in']
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt-j-6b": {"layer": 21},
        "factlm": {"layer": TRACED_LAYERS["factlm"]},
        "factlm-llama": {"layer": TRACED_LAYERS["factlm-llama"]},
    }
    published_variants: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
        "meng2022_code": {name: {"weight_decay": 0.0} for name in published},
    }
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    weight_decay: float | None = None
    matrices: tuple[Matrix, ...] | None = None
