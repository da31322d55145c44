"""The first FactLM: the weights on which the published programs were run, so that their numbers stand.

They are kept here for when the bundled model gets others; its tokenizer, facts and edit cases stay.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tl_knowledge as tlk

WEIGHTS = Path(__file__).parents[1] / "golden" / "first_factlm"


def load_first_factlm(**options: Any) -> Any:
    """As ``load_model("factlm", **options)`` with the first weights; named "factlm", so that its facts and settings apply."""
    with TemporaryDirectory() as folder:
        for file in (*Path(tlk.factlm.directory).glob("tokenizer*.json"), *WEIGHTS.iterdir()):
            (Path(folder) / file.name).symlink_to(file)
        model = tlk.load_model(folder, **options)
    model.cfg.model_name = "factlm"
    return model
