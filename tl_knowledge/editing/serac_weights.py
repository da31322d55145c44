"""What SERAC is trained into: a scope encoder and a counterfactual model, as a value and as a file."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import pandas as pd
import torch

from tl_knowledge.door import public
from tl_knowledge.editing.demonstrations import fact_key
from tl_knowledge.editing.scope import ScopeEncoder, make_encoder
from tl_knowledge.errors import InputError, ModelStateError
from tl_knowledge.models.description import weights_digest
from tl_knowledge.models.ledger import unedited_fingerprint
from tl_knowledge.models.loading import load_model
from tl_knowledge.models.protocol import HookedModel, model_name
from tl_knowledge.models.routed import has_routes
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.digest import digest
from tl_knowledge.results.packing import packed_fields, unpack_file
from tl_knowledge.results.storage import read_result, write_result

__all__ = ["SeracSettings", "TrainedSerac", "Weights", "modules_of", "new_modules", "trained_serac", "weights_of"]

Weights = dict[str, torch.Tensor]
PARTS = ("scope", "counterfactual")

_built: WeakKeyDictionary[object, dict[str, tuple[ScopeEncoder, HookedModel]]] = WeakKeyDictionary()


@public
@dataclass(frozen=True)
class SeracSettings:
    """How SERAC is trained; the numbers are those of Mitchell et al. (2022), for encoders that are trained already.

    Attributes:
        scope: the scope's encoder: ``"tokens"``, a small one on the model's own token embeddings, or a text encoder of Hugging Face's
            (in the paper distilbert-base-cased).
        counterfactual: the model that answers in scope: ``"copy"`` of the edited one, or a smaller one of its family by name.
        learning_rate: of Adam, for both.
        batch_size, accumulate: edits a step, and steps whose gradients are added up.
        clip: of the gradient's norm.
        steps: at most.
        answer_weight, scope_weight: of the answer's negative log-likelihood and of the scope's balanced cross-entropy in the loss.
        check_every: steps between two looks at the cases that are held out.
        patience: how many looks without a smaller loss end the training.
        held_out: part of the cases that is not trained on.
        separator: between the edit and the prompt.
        seed: of the small encoder and of all draws.

    Raises:
        InputError: a setting that trains nothing.
    """

    scope: str = "tokens"
    counterfactual: str = "copy"
    learning_rate: float = 1e-5
    batch_size: int = 10
    accumulate: int = 10
    clip: float = 100.0
    steps: int = 200_000
    answer_weight: float = 0.1
    scope_weight: float = 1.0
    check_every: int = 1000
    patience: int = 40
    held_out: float = 0.1
    separator: str = ".\n"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "accumulate", "clip", "steps", "check_every", "patience"):
            if not getattr(self, name) > 0:
                raise InputError(f"SeracSettings({name}={getattr(self, name)}) trains nothing; pass more than 0.")
        if not 0 < self.held_out < 1:
            raise InputError(f"SeracSettings(held_out={self.held_out}) leaves no cases to train on or to look at; pass a part between 0 and 1.")


@public
@dataclass(frozen=True)
class TrainedSerac:
    """A trained SERAC: what `train_serac` gives and `SERAC` takes. In settings it stands for by its content's digest.

    Attributes:
        settings: of the training.
        fingerprint: of the weights it was trained for.
        content: of everything that was trained.
    """

    settings: SeracSettings
    fingerprint: str
    content: str
    _weights: Weights = field(default_factory=dict[str, torch.Tensor], compare=False, repr=False)
    _facts: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)
    _losses: tuple[tuple[int, float, float], ...] = field(default=(), compare=False, repr=False)

    @property
    def weights(self) -> Weights:
        """Both modules' parameters.

        Raises:
            InputError: it comes from an edit's settings, which have only the digest.
        """
        if not self._weights:
            raise InputError("the weights of this trained SERAC are not here; load them with TrainedSerac.load(path).")
        return self._weights

    @property
    def losses(self) -> pd.DataFrame:
        """``step loss held_out``: the mean training loss since the last look, and the loss on the cases that were held out."""
        return pd.DataFrame(list(self._losses), columns=["step", "loss", "held_out"])

    def check(self, model: HookedModel) -> None:
        """Refuse another model than the one it was trained for.

        Raises:
            ModelStateError: other weights.
        """
        now = unedited_fingerprint(model)
        if now != self.fingerprint:
            raise ModelStateError(
                f"this SERAC was trained for other weights ({self.fingerprint}) than {model_name(model)}'s ({now}); train_serac() it for this model."
            )

    def check_apart(self, fact: Fact) -> None:
        """Refuse a fact that it was trained on.

        Raises:
            InputError: it was.
        """
        if fact_key(fact) in set(self._facts):
            raise InputError(f"SERAC was trained on the fact {fact.text!r}, so that editing it shows nothing; pass cases it was not trained on.")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.safetensors`` file; returns the path."""
        more = {"facts": [list(fact) for fact in self._facts], "losses": [list(row) for row in self._losses]}
        return write_result(path, type(self).__name__, self.weights, packed_fields(self, {}) | more)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainedSerac:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        weights, fields = read_result(path, cls.__name__)
        facts, losses = fields.pop("facts"), fields.pop("losses")
        plain = unpack_file(cls, fields, {}, path)
        rows = tuple((int(step), float(loss), float(held_out)) for step, loss, held_out in losses)
        return cls(plain.settings, plain.fingerprint, plain.content, weights, tuple((one, other) for one, other in facts), rows)


def trained_serac(
    model: HookedModel, settings: SeracSettings, weights: Weights, facts: Iterable[tuple[str, str]], losses: Iterable[tuple[int, float, float]]
) -> TrainedSerac:
    """What a training has come to.

    Args:
        facts: that it was trained on, as `fact_key` has them.
        losses: the rows of `TrainedSerac.losses`.
    """
    content = digest({name: weights_digest(each) for name, each in weights.items()})
    return TrainedSerac(settings, unedited_fingerprint(model), content, weights, tuple(sorted(set(facts))), tuple(losses))


def new_modules(model: HookedModel, settings: SeracSettings) -> tuple[ScopeEncoder, HookedModel]:
    """Both modules before training.

    Raises:
        ModelStateError: hooks of other edits are on the model, which a copy would keep.
        InputError: a counterfactual model with other tokens, or no such encoder.
    """
    if settings.counterfactual == "copy":
        if has_routes(model):
            raise ModelStateError("an edit is kept on the model, and a copy would keep it, too; revert(model) it, and write it again afterwards.")
        other = _copy(model)
    else:
        other = load_model(settings.counterfactual)
    words = [each.tokenizer.get_vocab() if each.tokenizer is not None else None for each in (model, other)]
    if words[0] != words[1] or other.cfg.d_vocab != model.cfg.d_vocab:
        raise InputError(f"{settings.counterfactual!r} has other tokens than {model_name(model)}; pass a model of its family.")
    return make_encoder(model, settings.scope, settings.seed), other


def _copy(model: HookedModel) -> HookedModel:
    """A copy of a model; a bridge keeps activations of its last run, which may still have a graph that cannot be copied."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in kept})


def weights_of(modules: tuple[ScopeEncoder, HookedModel]) -> Weights:
    """All parameters, by part and name; copies."""
    return {
        f"{part}.{name}": parameter.detach().clone()
        for part, module in zip(PARTS, modules, strict=True)
        for name, parameter in module.named_parameters()
    }


@torch.no_grad()
def put_weights(modules: tuple[ScopeEncoder, HookedModel], weights: Mapping[str, torch.Tensor]) -> None:
    """Have both modules hold some parameters."""
    for part, module in zip(PARTS, modules, strict=True):
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[f"{part}.{name}"])


def modules_of(model: HookedModel, settings: SeracSettings, content: str, weights: Weights) -> tuple[ScopeEncoder, HookedModel]:
    """Both modules as they were trained, made once a model."""
    there = _built.setdefault(model, {})
    if content not in there:
        modules = new_modules(model, settings)
        put_weights(modules, weights)
        for module in modules:
            for _, parameter in module.named_parameters():
                parameter.requires_grad_(False)
        there[content] = modules
    return there[content]
