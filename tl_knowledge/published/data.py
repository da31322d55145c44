"""The data sets of published experiments: where they come from, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BLIMP", "CONTEXT_PARAREL", "COUNTERFACT", "KNOWN_1000", "MULTI_COUNTERFACT", "ONE_FACT", "PARAREL", "PUNCTUATION", "ZSRE", "DataSet"]


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: as in `load_facts` and `load_edit_cases`.
        place: where it is fetched from when no source is passed; ``None`` where the user must pass a folder.
        how: what the user does to have it.
        licence: of the data.
    """

    name: str
    place: str | None
    how: str
    licence: str


_FETCHED = "fetched on first use"
ONE_FACT = DataSet("one_fact", None, "no data: one prompt", "none needed")
KNOWN_1000 = DataSet("known_1000", "https://rome.baulab.info/data/dsets/known_1000.json", _FETCHED, "MIT")
COUNTERFACT = DataSet("counterfact", "azhx/counterfact", f"{_FETCHED} from the Hugging Face hub", "MIT")
MULTI_COUNTERFACT = DataSet(
    "counterfact", "https://rome.baulab.info/data/dsets/multi_counterfact.json", _FETCHED + "; CounterFact without facts that contradict", "MIT"
)
ZSRE = DataSet("zsre", "https://rome.baulab.info/data/dsets/zsre_mend_eval.json", _FETCHED, "MIT (MEND's split of zsRE)")
PARAREL = DataSet("pararel", None, "clone github.com/yanaiela/pararel and pass its folder data/ as source", "MIT")
CONTEXT_PARAREL = DataSet("context_pararel", None, PARAREL.how, "MIT")
BLIMP = DataSet("blimp", "nyu-mll/blimp", f"{_FETCHED} from the Hugging Face hub", "CC BY 4.0")
PUNCTUATION = DataSet("sentences", "Salesforce/wikitext", f"{_FETCHED} from the Hugging Face hub (WikiText-103)", "CC BY-SA 3.0")
