"""A circuit's nodes, under the name they have for users of circuits."""

from tl_knowledge.runs.nodes import Node

__all__ = ["Node"]
