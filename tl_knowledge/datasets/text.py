"""What data sets are read into, under the name it has for their users."""

from tl_knowledge.prompts.facts import EditCase, Fact, MinimalPair, Relation, RelationFact, Statement

__all__ = ["EditCase", "Fact", "MinimalPair", "Relation", "RelationFact", "Statement"]
