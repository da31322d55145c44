"""Relations as objects: a relation as one affine map of the subject's state, and as a vector that heads write."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
