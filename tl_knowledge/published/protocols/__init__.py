"""Published procedures, one room a field: what is done in which order with whose settings."""
