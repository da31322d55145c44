"""The registry of editing methods: a new method is one file with an `EditMethod`, and one line here.

The command line, the contract tests, the reference page and the table of scores read this registry. A class is imported when it is first
needed, so the names cost nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tl_knowledge.door import public
from tl_knowledge.errors import DataError, check_choice

if TYPE_CHECKING:
    from tl_knowledge.editing.method import EditMethod
    from tl_knowledge.editing.training.method import TrainedMethod
    from tl_knowledge.models.loading import AnyModel

__all__ = ["METHODS", "load_trained", "method_class", "method_for_model"]

METHODS = {
    "rome": "tl_knowledge.editing.methods.rome:ROME",
    "memit": "tl_knowledge.editing.methods.memit:MEMIT",
    "pmet": "tl_knowledge.editing.methods.pmet:PMET",
    "emmet": "tl_knowledge.editing.methods.emmet:EMMET",
    "alphaedit": "tl_knowledge.editing.methods.alphaedit:AlphaEdit",
    "ultraedit": "tl_knowledge.editing.methods.ultraedit:UltraEdit",
    "ft": "tl_knowledge.editing.methods.fine_tune:FineTune",
    "ft+l": "tl_knowledge.editing.methods.fine_tune:FineTuneConstrained",
    "ft-attn": "tl_knowledge.editing.methods.fine_tune_matrices:FineTuneAttention",
    "ft-w": "tl_knowledge.editing.methods.fine_tune_matrices:FineTuneDecayed",
    "lora": "tl_knowledge.editing.methods.lora:LoRA",
    "mend": "tl_knowledge.editing.methods.mend:MEND",
    "ke": "tl_knowledge.editing.methods.ke:KE",
    "serac": "tl_knowledge.editing.methods.serac:SERAC",
    "grace": "tl_knowledge.editing.methods.grace:GRACE",
    "t-patcher": "tl_knowledge.editing.methods.transformer_patcher:TransformerPatcher",
    "ike": "tl_knowledge.editing.methods.ike:IKE",
    "kn": "tl_knowledge.localised.knowledge_neuron_edit:KnowledgeNeuronEdit",
    "cne": "tl_knowledge.localised.causal_neuron_edit:CausalNeuronEdit",
}
"""Short name, and where the class of settings is."""


@public
def method_class(name: str) -> type[EditMethod]:
    """A method's class of settings.

    Raises:
        InputError: an unknown name.

    Example:
        >>> method_class("rome").__name__, method_class("ft").needs_moments
        ('ROME', False)
    """
    check_choice("method", name, METHODS)
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)


@public
def method_for_model(model: AnyModel, name: str, *, layers: int | Iterable[int] | None = None, variant: str = "ours") -> EditMethod:
    """A method with a model's published settings, in other layers where some are given, and as another program where one is named.

    Raises:
        InputError: an unknown name or variant, several layers for a method of one, or nothing published for the model.
        ComponentError: a layer outside the model.

    Example:
        >>> method_for_model("factlm", "ft", layers=3).layer
        3
    """
    return method_class(name).for_model(model, layers=layers, variant=variant)


@public
def load_trained(path: str | os.PathLike[str]) -> TrainedMethod:
    """A trained method, of whichever kind, from the file that its ``save`` or ``tl-knowledge train`` wrote.

    Raises:
        DataError: no such file, a folder, or a method that is not in this registry.

    Example:
        >>> import tempfile, tl_knowledge as tlk
        >>> data, mend = tlk.editing.load_training_data("factlm"), tlk.editing.MEND.small()
        >>> mend = mend.train("factlm", data.cases[:9], data.corpus[:9], validation=data.validation[:2], progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tlk.editing.load_trained(mend.save(f"{folder}/mend")) == mend
        True
    """
    from tl_knowledge.editing.training.editor import TrainedEditor  # here, as it imports torch

    editor = TrainedEditor.load(path)
    name = next((name for name, place in METHODS.items() if place.endswith(f":{editor.method}")), None)
    kind: Any = None if name is None else method_class(name)
    if kind is None or not kind.needs_training:
        raise DataError(
            f"{os.fspath(path)!r} holds a trained {editor.method[:60]!r}, which is no method that is trained; "
            "pass a file that tl-knowledge train wrote."
        )
    return kind.of_file(editor, path)
