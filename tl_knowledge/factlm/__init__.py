"""FactLM, the bundled model, and where its LLaMA-shaped sibling is: weights, tokenizer, facts and model card (``README.md`` in this folder).

``tl_knowledge.load_model("factlm")`` loads it; ``directory`` is where its Hugging Face files are, for any other program.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["directory", "llama_directory"]

directory = Path(__file__).parent
"""The folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``."""

llama_directory = directory.with_name("factlm_llama")
"""The folder with ``config.json`` and ``model.safetensors`` of ``"factlm-llama"``; its tokenizer is the one in `directory`."""
