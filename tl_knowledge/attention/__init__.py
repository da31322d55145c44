"""Attention: which heads read a fact, what they write, and what the last token must read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
