"""FactLM, the bundled model: weights, tokenizer, facts and model card (``README.md`` in this folder).

``tl_knowledge.load_model("factlm")`` loads it; ``directory`` is where its Hugging Face files are, for any other program.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["directory"]

directory = Path(__file__).parent
"""The folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``."""
