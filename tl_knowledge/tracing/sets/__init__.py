"""Causal traces of fact sets."""
