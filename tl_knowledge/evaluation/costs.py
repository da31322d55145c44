"""What edits cost: time to plan and to put them into the model, and what has to be kept of them."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tl_knowledge.door import public
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.runs.edits import AppliedEdit

__all__ = ["EditCosts", "Spent"]


@dataclass
class Spent:
    """What the edit of some cases took so far.

    Attributes:
        cases: how many it edits.
        seconds: of planning it and putting it into the model.
        stored_bytes: of its tensors, where it says so.
    """

    cases: int = 1
    seconds: float = 0.0
    stored_bytes: float = 0.0

    @contextmanager
    def counted(self) -> Generator[None]:
        """Count the seconds inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def keeps(self, edit: AppliedEdit) -> None:
        """Count what an edit has to be kept with."""
        self.stored_bytes += float(getattr(edit, "stored_bytes", float("nan")))


@public
@dataclass(frozen=True)
class EditCosts:
    """What an edit of one case costs, as a measure: ``milliseconds`` (of this machine) and ``stored_kib``.

    ``milliseconds`` are those of planning the edit and putting it into the model, shared alike by the cases that are edited together; ``stored_kib``
    is what the edit's tensors take, in KiB. Of an edit without ``stored_bytes`` that is NaN. Times are never the same twice, so a report with them
    is not either.

    Example:
        >>> import tl_knowledge as tlk
        >>> case, method = tlk.load_edit_cases()[0], tlk.FineTune.for_model("factlm")
        >>> report = tlk.evaluate("factlm", case, method, measures=tlk.evaluation.EditCosts())
        >>> report.scores["milliseconds"].mean > 0, report.scores["stored_kib"].mean
        (True, 320.0)
    """

    name: str = field(default="costs", init=False)

    def read(self, model: HookedModel, case: EditCase) -> Spent:
        """Nothing was spent on a model that is not edited."""
        return Spent()

    def scores(self, before: Any, after: Spent) -> dict[str, float]:
        """Milliseconds and KiB of one case."""
        return {"milliseconds": 1000 * after.seconds / after.cases, "stored_kib": after.stored_bytes / after.cases / 1024}
