"""Editing methods, one file each."""
