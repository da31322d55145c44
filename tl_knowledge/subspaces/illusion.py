"""Is a subspace of an MLP's hidden activations the one that the model uses, or an illusion (Makelov et al. 2024)?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.drawing import grouped_bars
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import interval_text, ratio_interval
from tl_knowledge.subspaces.scores import interchange_rows, with_intervals
from tl_knowledge.subspaces.trials import Basis, Trials, outcome
from tl_knowledge.wording import counted

__all__ = ["IllusionCheck", "Verdict", "WrittenParts", "check_unwritten", "illusion_table", "written_parts"]

Verdict: TypeAlias = Literal["illusion", "no illusion", "undecided", "no effect"]

PARTS = {"subspace": "subspace", "row_space": "its written part", "null_space": "its unwritten part", "whole": "whole state"}
HALF = 0.5
LEAK = 0.1
"""Of the subspace's effect, what its unwritten part may have by rounding before a verdict is refused."""


@dataclass(frozen=True, eq=False)
class IllusionCheck(TableResult):
    """A subspace taken apart by what ``W_out`` writes of it, and what each part does alone.

    Activations in the null space of ``W_out`` change nothing that is written. A direction with a part there that varies with the answer
    (*disconnected*), and a part in the row space that hardly varies (*dormant*), still makes the model say the source's answer: what the first part
    reads, the second one writes, though nothing in the model connects them (Makelov et al. 2024).

    It speaks of the null space of ``W_out`` alone, and what a norm takes out afterwards counts as written. What is written can still be
    disconnected or dormant further on, where later heads and MLPs do not read it: the effect of the ``whole`` state, less than the subspace's, is
    then the sign.

    Attributes:
        table: one row a part and pair: ``part base source target says said effect``, as `SubspaceScores.table` has them. Parts are the ``subspace``;
            the directions of its ``row_space`` part alone; of its ``null_space`` part alone, which change nothing; and the ``whole`` state.
        null_share: how much of the subspace lies in the null space, from 0 to 1.
        read: by part, the root mean square of what source and base differ by in its directions.
        retained: the row-space part's effect as a share of the subspace's, over all pairs, with its 95% bootstrap interval over pairs.
        layer: of which block.
        at: at the last token of which span.
        left_out: pairs that could not be used, by reason.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "effect"
    table: pd.DataFrame
    null_share: float
    read: dict[str, float]
    retained: tuple[float, float, float]
    layer: int
    at: str
    left_out: dict[str, int]
    provenance: Provenance

    @property
    def verdict(self) -> Verdict:
        """In a word.

        - ``"no effect"``: the subspace does not raise the source's answer, by the interval of its effect;
        - ``"illusion"``: its written part alone keeps less than half of the effect, by the interval of ``retained``;
        - ``"no illusion"``: it keeps more than half, so that the null space of ``W_out`` does not make the effect; of later layers it says nothing;
        - ``"undecided"``: the interval holds one half.
        """
        subspace = self.by_part().set_index("part").loc["subspace"]
        _, low, high = self.retained
        if not subspace["effect_low"] > 0:
            return "no effect"
        return "illusion" if high < HALF else "no illusion" if low > HALF else "undecided"

    def headline(self) -> str:
        """The verdict, and the numbers it is made of."""
        kept, low, high = self.retained
        pairs = int((self.table["part"] == "subspace").sum())
        found = "no illusion by W_out's null space" if self.verdict == "no illusion" else self.verdict
        return (
            f"{found}: alone, the written part keeps {kept:.0%}{interval_text(low, high, '.0%')} of the effect; {self.null_share:.0%} of the "
            f"subspace is unwritten; layer {self.layer}, {counted(pairs, 'pair')}; {self.provenance.model}"
        )

    def by_part(self) -> pd.DataFrame:
        """One row a part: ``pairs``; ``said`` with Wilson's 95% interval; ``effect`` with a bootstrap's over pairs, in logits; and ``read``."""
        frame = with_intervals(self.table, ["part"])
        return frame.assign(read=[self.read[part] for part in frame["part"]])

    def summary(self) -> pd.DataFrame:
        """`by_part`."""
        return self.by_part()

    def plot(self) -> go.Figure:
        """How often the source's answer is said, by part."""
        frame, (kept, low, high) = self.by_part(), self.retained
        bars = [(float(row["said"]), float(row["said_low"]), float(row["said_high"])) for row in frame.to_dict("records")]
        return grouped_bars(
            [PARTS[part] for part in frame["part"]],
            {"interchanged": bars},
            title=f"Does W_out write this subspace? {self.verdict.capitalize()}",
            subtitle=f"neurons of layer {self.layer} at {self.at!r}, {counted(int(frame['pairs'].iloc[0]), 'pair')}, Wilson 95%; written part keeps "
            f"{kept:.0%}{interval_text(low, high, '.0%')} of the effect; {self.provenance.model}",
            group_axis="what is taken from the source",
            value_axis="says the source's answer",
        )


@dataclass(frozen=True, eq=False)
class WrittenParts:
    """A subspace's directions by what a matrix writes of them.

    Attributes:
        row_space: the directions of what it writes, orthonormal; none where it writes nothing.
        null_space: of what it does not write; none where it writes everything.
        null_share: the mean over the subspace's directions of how much of each lies in the null space.
    """

    row_space: Float[torch.Tensor, "d written"]
    null_space: Float[torch.Tensor, "d unwritten"]
    null_share: float


def written_parts(basis: Basis, weights: Float[torch.Tensor, "d d_model"]) -> WrittenParts:
    """Project a subspace on the row space and on the null space of a matrix that reads it, ``x @ weights``; in float64.

    What counts as 0 is a singular value below the rounding of the decomposition, or of weights that were computed in single precision (a centred
    ``W_out`` is singular but for that). Halves are taken as they are: their own rounding, times the size of a matrix, would be more than its norm.

    Example:
        >>> parts = written_parts(torch.tensor([[0.6], [0.8], [0.0]]), torch.tensor([[1.0], [0.0], [0.0]]))
        >>> parts.row_space.mT.abs().tolist(), round(parts.null_share, 2)
        ([[1.0, 0.0, 0.0]], 0.64)
    """
    left, sizes, _ = torch.linalg.svd(weights.detach().double(), full_matrices=False)
    size, single = max(weights.shape), 0.0 if weights.dtype == torch.float64 else torch.finfo(torch.float32).eps
    directions = left[:, sizes > sizes[:1] * max(size * torch.finfo(torch.float64).eps, size**HALF * single)]
    wide = basis.detach().double().to(directions.device)
    written = directions @ (directions.mT @ wide)
    unwritten, rounding = wide - written, torch.finfo(basis.dtype).eps ** HALF
    share = float(unwritten.square().sum() / wide.square().sum())
    return WrittenParts(_span(written, rounding), _span(unwritten, rounding), share)


def _span(columns: Float[torch.Tensor, "d dims"], rounding: float) -> Float[torch.Tensor, "d some"]:
    """Orthonormal directions of what columns span, but for rounding."""
    left, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > rounding]


def illusion_table(
    model: HookedModel, trials: Trials, basis: Basis, parts: WrittenParts
) -> tuple[pd.DataFrame, dict[str, float], tuple[float, float, float]]:
    """What `IllusionCheck` has of pairs: its table, what each part reads, and what is retained."""
    before = outcome(model, trials, None, put=False)
    bases = {"subspace": basis, "row_space": parts.row_space, "null_space": parts.null_space, "whole": None}
    rows, read, effects = list[dict[str, object]](), dict[str, float](), dict[str, list[float]]()
    change = (trials.states - trials.own).double()
    for name, directions in bases.items():
        after = before if directions is not None and not directions.shape[1] else outcome(model, trials, directions)
        some = interchange_rows(model, trials, {"part": name}, before, after)
        rows, effects[name] = rows + some, [float(row["effect"]) for row in some]
        taken = change if directions is None else change @ directions.to(change)
        read[name] = float(taken.square().sum(-1).mean().sqrt())
    return pd.DataFrame(rows), read, ratio_interval(effects["row_space"], effects["subspace"])


def check_unwritten(check: IllusionCheck) -> None:
    """Refuse a verdict where what should change nothing does.

    Raises:
        NumericalError: the unwritten part has an effect.
    """
    table = check.table
    whole, unwritten = (float(table.loc[table["part"] == part, "effect"].mean()) for part in ("subspace", "null_space"))
    if check.verdict != "no effect" and not abs(unwritten) <= LEAK * whole:
        raise NumericalError(
            f"the part in the null space of W_out of layer {check.layer} should change nothing, and has an effect of {unwritten:.2g} logits of "
            f"{whole:.2g}: no verdict; load the model in float32, and without hooks or edits that read these activations."
        )
