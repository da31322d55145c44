"""Facts and edit cases of every data set by its name, for the command line and for sweeps over data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tl_knowledge.datasets.bundled import bundled_edit_cases, bundled_facts
from tl_knowledge.datasets.context_pararel import load_context_pararel
from tl_knowledge.datasets.counterfact import COUNTERFACT_HUB, load_counterfact
from tl_knowledge.datasets.known import KNOWN_1000_URL, load_known
from tl_knowledge.datasets.lre import load_lre
from tl_knowledge.datasets.pararel import load_pararel
from tl_knowledge.datasets.records import Source
from tl_knowledge.datasets.zsre import KNOWEDIT_HUB, load_zsre
from tl_knowledge.door import public
from tl_knowledge.errors import DataError, check_choice
from tl_knowledge.prompts.facts import EditCase, Fact

__all__ = ["EDIT_SETS", "FACT_SETS", "load_edit_cases", "load_facts"]

Item = TypeVar("Item")

_FACTS: dict[str, tuple[Callable[[Source], list[Fact]], str | None]] = {
    "known_1000": (load_known, KNOWN_1000_URL),
    "counterfact": (lambda source: [case.fact for case in load_counterfact(source)], COUNTERFACT_HUB),
    "zsre": (lambda source: [case.fact for case in load_zsre(source)], KNOWEDIT_HUB),
    "pararel": (load_pararel, None),
    "context_pararel": (load_context_pararel, None),
    "lre": (load_lre, None),
}
_EDIT_CASES: dict[str, tuple[Callable[[Source], list[EditCase]], str | None]] = {
    "counterfact": (load_counterfact, COUNTERFACT_HUB),
    "zsre": (load_zsre, KNOWEDIT_HUB),
}

FACT_SETS = ("factlm", *_FACTS)
EDIT_SETS = ("factlm", *_EDIT_CASES)


@public
def load_facts(name: str = "factlm", source: Source | None = None, *, limit: int | None = None) -> list[Fact]:
    """The facts of a data set; where it has other wordings of a fact, they are its ``paraphrases``.

    Args:
        name: ``"factlm"`` (bundled), ``"known_1000"``, ``"counterfact"``, ``"zsre"``, ``"pararel"``, ``"context_pararel"`` or ``"lre"``.
        source: where to read it from; each loader's default when ``None`` (ParaRel and LRE have none: pass a clone's folder).
        limit: how many to take, from the first.

    Raises:
        DataError: unknown name, no source where one is needed, or what the set's own loader raises.

    Example:
        >>> facts = load_facts("factlm")
        >>> len(facts) >= 1500 and len(facts[0].paraphrases) == 2
        True
    """
    check_choice("data set", name, FACT_SETS, DataError)
    return (bundled_facts() if _is_bundled(name, source) else _read(_FACTS, name, source))[:limit]


@public
def load_edit_cases(name: str = "factlm", source: Source | None = None, *, limit: int | None = None) -> list[EditCase]:
    """Counterfactual edits of a data set, with their paraphrases and neighbours.

    FactLM's own are facts of its edit split, each with a new object of the same relation. Neighbours are facts of the neighbour split with the
    same relation and object, as in CounterFact; where fewer than five exist, other facts of the relation (with neither object) fill up.

    Args:
        name: ``"factlm"`` (bundled), ``"counterfact"`` or ``"zsre"``.
        source: where to read it from; each loader's default when ``None``.
        limit: how many to take, from the first.

    Raises:
        DataError: unknown name, or what the set's own loader raises.

    Example:
        >>> case = load_edit_cases("factlm", limit=1)[0]
        >>> len(case.paraphrases), len(case.neighbourhood)
        (2, 5)
    """
    check_choice("data set", name, EDIT_SETS, DataError)
    return (bundled_edit_cases() if _is_bundled(name, source) else _read(_EDIT_CASES, name, source))[:limit]


def _is_bundled(name: str, source: Source | None) -> bool:
    if name == "factlm" and source is not None:
        raise DataError(f"data set 'factlm' is bundled and takes no source, but got {str(source)!r}; drop it.")
    return name == "factlm"


def _read(loaders: dict[str, tuple[Callable[[Source], list[Item]], str | None]], name: str, source: Source | None) -> list[Item]:
    """A data set from its source, or from the loader's own."""
    loader, default = loaders[name]
    place = default if source is None else source
    if place is None:
        raise DataError(f"data set {name!r} has no default source; pass the folder of its files.")
    return loader(place)
