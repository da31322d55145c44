"""Facts, edit cases, minimal pairs and corpora: FactLM's own, and loaders of the field's data sets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
