"""What a page writes under the maps of traces: the largest and the smallest effect, and where they are."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from tl_knowledge.drawing import extremes
from tl_knowledge.wording import counted

__all__ = ["effects_sentence"]

UNITS = ("head", "neuron")


def effects_sentence(effects: Mapping[str, pd.DataFrame], what: str, samples: int) -> str:
    """The largest and the smallest mean effect over some traces of one prompt.

    Args:
        effects: tables as `CausalTrace.to_dataframe` gives them, by what was restored.
        what: effects are, with their unit.
        samples: noise samples that they are means of.
    """
    values: list[float] = []
    places: list[str] = []
    for restored, frame in effects.items():
        for row in frame.to_dict(orient="records"):
            unit = "".join(f", {word} {row[word]}" for word in UNITS if word in row)
            values.append(float(row["effect"]))
            places.append(f"at {restored}, layer {row['layer']}{unit}, token {str(row['token']).strip()!r} ({row['role']})")
    return f"{extremes(what, values, places)} Mean of {counted(samples, 'noise sample')}."
