"""The registry of editing methods: a new method is one file and one line here.

The command line, the contract tests, the reference page and the score tables read this table. A class is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tl_knowledge.errors import check_choice

__all__ = ["METHODS", "method_class", "method_for_model"]

METHODS = {
    "rome": "tl_knowledge.editing.methods.rome:ROME",
    "memit": "tl_knowledge.editing.methods.memit:MEMIT",
    "emmet": "tl_knowledge.editing.methods.emmet:EMMET",
    "alphaedit": "tl_knowledge.editing.methods.alphaedit:AlphaEdit",
    "ft": "tl_knowledge.editing.methods.fine_tune:FineTune",
    "ft+l": "tl_knowledge.editing.methods.fine_tune:FineTuneConstrained",
    "kn": "tl_knowledge.localised.knowledge_neuron_edit:KnowledgeNeuronEdit",
    "cne": "tl_knowledge.localised.causal_neuron_edit:CausalNeuronEdit",
}
"""Short name, and where the class of settings is."""


def method_class(name: str) -> Any:
    """A method's class of settings.

    Raises:
        InputError: an unknown name.

    Example:
        >>> method_class("rome").__name__
        'ROME'
    """
    check_choice("method", name, METHODS)
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)


def method_for_model(name: str, model: Any, layers: tuple[int, ...] = ()) -> Any:
    """A method with the layers that were asked for, else with the model's published settings.

    Raises:
        InputError: an unknown name, several layers for a method of one, or nothing published for the model.
    """
    return method_class(name).for_model(model, layers)
