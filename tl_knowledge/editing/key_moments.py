"""Second moments of the keys, under the name they have for users of editing."""

from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["KeyMoments"]
