"""Published experiments: what they are, their numbers, and how to make them again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
