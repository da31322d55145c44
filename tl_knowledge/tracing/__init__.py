"""Causal tracing: of one prompt, of fact sets, and the corruption settings they take."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
