"""Where the bundled model keeps what tests ask it for."""

from __future__ import annotations

from tl_knowledge.models.published_settings import TRACED_LAYERS

__all__ = ["FACTLM_LAYER"]

FACTLM_LAYER = TRACED_LAYERS["factlm"]
"""The layer that FactLM's facts are looked up in: where tracing finds them and where editors write them."""
