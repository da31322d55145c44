"""Words to measure neurons of number on: nouns in both numbers, and words that have none (Niu et al. 2024 do not list theirs)."""

from __future__ import annotations

from types import MappingProxyType

__all__ = ["NUMBER_WORDS"]

NOUNS = """
book books car cars child children city cities country countries day days dog dogs door doors eye eyes foot feet friend friends game games hand hands
head heads horse horses house houses letter letters man men night nights person people picture pictures question questions road roads school schools
ship ships story stories student students teacher teachers tree trees war wars week weeks woman women word words year years
"""

NEUTRAL = """
about after again all always and away because before but for from good here how however in into large more never new not now of often old only over
quickly red small soon still the then there through under very when where while with without yesterday yet
"""

NUMBER_WORDS = MappingProxyType(
    {"singular": tuple(NOUNS.split()[::2]), "plural": tuple(NOUNS.split()[1::2]), "neutral": tuple(NEUTRAL.split())},
)
"""34 common nouns in the singular, the same in the plural, and 47 words without number; `single_token_words` leaves out what a model has not."""
