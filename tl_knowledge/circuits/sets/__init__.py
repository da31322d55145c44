"""Circuits of fact sets."""
