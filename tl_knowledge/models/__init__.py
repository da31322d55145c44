"""Models: what the package asks of one, hook names, loading, checks, weights and their ledger, the unembedding."""
