"""Heads, neurons and modules taken out over many prompts: what is ablated, the means that are written, the driver, and what it gives."""
