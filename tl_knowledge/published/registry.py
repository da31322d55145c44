"""All published experiments by name."""

from __future__ import annotations

from tl_knowledge.door import public
from tl_knowledge.errors import check_choice
from tl_knowledge.published.experiment import Experiment
from tl_knowledge.published.papers import dai2022, fang2025, hase2023, meng2022, meng2023, niu2024, wei2024, wen_bai

__all__ = ["EXPERIMENTS", "published_experiment"]

_PAPERS = (meng2022, meng2023, hase2023, wei2024, wen_bai, niu2024, fang2025, dai2022)
EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for paper in _PAPERS for experiment in paper.EXPERIMENTS}
"""Every experiment, in order of the papers."""


@public
def published_experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        InputError: an unknown name; the nearest is named.

    Example:
        >>> published_experiment("meng2022-table4").source
        'Meng et al. 2022, table 4; medium and large: table 5'
    """
    check_choice("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
