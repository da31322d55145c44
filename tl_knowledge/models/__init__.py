"""Models: what the package asks of one, hook names, loading, checks, weights and their ledger, the unembedding."""

from tl_knowledge.models import quiet  # before anything imports TransformerLens, whose own imports it keeps quiet

__all__ = ["quiet"]
