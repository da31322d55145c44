"""Editors that are trained before they edit: what such methods share."""
