"""Fact sets by name, for the command line and for sweeps over data sets."""

from __future__ import annotations

from collections.abc import Callable

from tl_knowledge.datasets.bundled import bundled_facts
from tl_knowledge.datasets.counterfact import COUNTERFACT_HUB, load_counterfact
from tl_knowledge.datasets.known import KNOWN_1000_URL, load_known
from tl_knowledge.datasets.lre import load_lre
from tl_knowledge.datasets.pararel import load_context_pararel, load_pararel
from tl_knowledge.datasets.records import Source
from tl_knowledge.datasets.zsre import KNOWEDIT_HUB, load_zsre
from tl_knowledge.errors import DataError
from tl_knowledge.prompts.facts import Fact

__all__ = ["FACT_SETS", "load_facts"]

_LOADERS: dict[str, tuple[Callable[[Source], list[Fact]], str | None]] = {
    "known_1000": (load_known, KNOWN_1000_URL),
    "counterfact": (lambda source: [case.fact for case in load_counterfact(source)], COUNTERFACT_HUB),
    "zsre": (lambda source: [case.fact for case in load_zsre(source)], KNOWEDIT_HUB),
    "pararel": (load_pararel, None),
    "context_pararel": (load_context_pararel, None),
    "lre": (load_lre, None),
}

FACT_SETS = ("factlm", *_LOADERS)


def load_facts(name: str = "factlm", source: Source | None = None) -> list[Fact]:
    """The facts of a data set; where it has other wordings of a fact, they are its ``paraphrases``.

    Args:
        name: ``"factlm"`` (bundled), ``"known_1000"``, ``"counterfact"``, ``"zsre"``, ``"pararel"``, ``"context_pararel"`` or ``"lre"``.
        source: where to read it from; each loader's default when ``None`` (ParaRel and LRE have none: pass a clone's folder).

    Raises:
        DataError: unknown name, no source where one is needed, or what the set's own loader raises.

    Example:
        >>> facts = load_facts("factlm")
        >>> len(facts) >= 1500 and len(facts[0].paraphrases) == 2
        True
    """
    if name == "factlm":
        if source is not None:
            raise DataError(f"data set 'factlm' is bundled and takes no source, but got {str(source)!r}; drop it.")
        return bundled_facts()
    if name not in _LOADERS:
        raise DataError(f"data set {name!r} is unknown; pass {', '.join(map(repr, FACT_SETS))}.")
    loader, default = _LOADERS[name]
    chosen = default if source is None else source
    if chosen is None:
        raise DataError(f"data set {name!r} has no default source; pass the folder of its files.")
    return loader(chosen)
