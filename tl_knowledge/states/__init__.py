"""States: what a hidden state says, decoded in another prompt (Patchscopes) or through trained translators (the tuned lens)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
