"""What the published editors were trained on, and what ours is for FactLM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tl_knowledge.datasets import corpus_texts, load_counterfact, load_edit_cases, load_facts, load_zsre, shifted_edit_cases
from tl_knowledge.datasets import Source as Source
