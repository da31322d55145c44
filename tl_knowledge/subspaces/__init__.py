"""Subspaces: where in a state a fact's answer is kept, learnt by interchange (DAS), and whether that is an illusion."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
