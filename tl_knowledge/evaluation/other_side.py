"""An edit's effect on another case: the same change of a fact, asked in another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tl_knowledge.door import public
from tl_knowledge.evaluation.scores import Reading, case_scores, read_candidates
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase

__all__ = ["OtherCase"]


@public
@dataclass(frozen=True)
class OtherCase:
    """Efficacy and paraphrase success (ES, PS) of another case, read on the model that was edited for this one.

    Attributes:
        name: before the scores: ``"relation"`` gives ``relation_ES`` and ``relation_PS``.
        case: the other case of each; it is asked after its new and its old object.

    Example:
        >>> import tl_knowledge as tlk
        >>> cases = tlk.load_edit_cases(limit=2)
        >>> sides = dict(zip(cases, tlk.datasets.relation_side_cases(cases, tlk.datasets.load_relations())))
        >>> measure = tlk.evaluation.OtherCase("relation", sides.__getitem__)
        >>> report = tlk.evaluate("factlm", cases, tlk.FineTune.for_model("factlm"), measures=measure, progress=False)
        >>> [name for name in report.metrics if name.startswith("relation")]
        ['relation_ES', 'relation_PS']
    """

    name: str
    case: Callable[[EditCase], EditCase]

    def read(self, model: HookedModel, case: EditCase) -> Reading:
        """The other case's candidates."""
        return read_candidates(model, self.case(case))

    def scores(self, before: Reading, after: Reading) -> dict[str, float]:
        """How often the new object is the likelier, on the edited prompt and on its paraphrases."""
        scores = case_scores(before, after)
        return {f"{self.name}_{score}": scores[score] for score in ("ES", "PS")}
