"""What is written into a model; the ledger itself lies deeper, with the models."""

from tl_knowledge.models.ledger import forget_edits

__all__ = ["forget_edits"]
