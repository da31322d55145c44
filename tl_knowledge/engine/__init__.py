"""How forwards are run fast: growing rows, frozen prefixes, batches, recording."""
