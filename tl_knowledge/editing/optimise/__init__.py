"""The value machinery of ROME and its family."""
