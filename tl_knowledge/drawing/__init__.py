"""Arrays and labels in, plotly figures and pages out. Knows no results.

One look for the whole package: sequential single-hue scales (readable without colour vision, and in print), tokens top to
bottom, layers left to right, every axis named, sizes that fit a notebook.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
