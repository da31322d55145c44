"""Locate knowledge in language models, edit it, and look at it, inside a TransformerLens workflow.

>>> import tl_knowledge as tlk
>>> model = tlk.load_model("factlm")
>>> prompt = tlk.Prompt.from_text(model, "The capital of France is", subject="France")
>>> result = tlk.trace(model, prompt, corrupt="subject")

What most work needs is here; the rest stands in ``tlk.tracing``, ``neurons``, ``editing``, ``evaluation``, ``localised``, ``circuits``,
``attention``, ``relations``, ``published``, ``datasets`` and ``drawing``. Nothing heavy is imported before it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
