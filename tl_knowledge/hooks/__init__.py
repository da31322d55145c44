"""Hook factories: plain ``(name, fn)`` lists for anybody's ``run_with_hooks`` or ``with model.hooks(...)``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
