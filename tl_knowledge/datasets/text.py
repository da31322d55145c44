"""What data sets are read into, under the name it has for their users."""

from tl_knowledge.prompts.edit_tests import EditTest, Query
from tl_knowledge.prompts.facts import EditCase, Fact, MinimalPair, Relation, RelationFact, Statement

__all__ = ["EditCase", "EditTest", "Fact", "MinimalPair", "Query", "Relation", "RelationFact", "Statement"]
