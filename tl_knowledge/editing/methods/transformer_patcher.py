"""Transformer-Patcher: a neuron in the last MLP for every token of the target that is wrong (Huang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from typing_extensions import override

from tl_knowledge.datasets import corpus_texts
from tl_knowledge.door import public
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.neuron_edit import NeuronEdit, Nonlinearity
from tl_knowledge.editing.optimise.fact_rows import FactRows, rows_of
from tl_knowledge.editing.optimise.patches import Patches, PatchSettings, train_patches
from tl_knowledge.editing.optimise.suffix import FrozenRows, Suffix
from tl_knowledge.editing.planned import planned_fields
from tl_knowledge.editing.routes import at_map
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.models.description import fingerprint_of, weight_digests
from tl_knowledge.models.mlp_maps import MLPMap, mlp_map
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.models.routed import routed_on
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.corpus_tokens import activations_of, token_rows
from tl_knowledge.runs.key_moments import KeyMoments
from tl_knowledge.wording import counted

__all__ = ["TransformerPatcher"]

TEXTS_AT_ONCE = 16
_FACTLM = {"corpus": "factlm", "stored_queries": 4000, "steps": 400}

_memories: WeakKeyDictionary[object, tuple[str, torch.Tensor]] = WeakKeyDictionary()


@public
@dataclass(frozen=True)
class TransformerPatcher(EditMethod):
    """Settings of Transformer-Patcher: ``act(k . x + b) v`` is added behind the last MLP, one such neuron for each wrong token of a target.

    A neuron starts with ``k = q / ||q||^2``, so that its activation is 1 at the query ``q`` that it is for. It is trained to bring about its
    token, to stay active there, and to be silent where the MLP reads ordinary text and the queries of earlier neurons.

    Where ours is another than the published program's: ``act`` is the rectifier, so that a silent neuron changes nothing at all; there it is the
    MLP's own. Training ends as soon as the tokens are likely and the neurons silent on every stored query; there a validation set decides.

    Attributes:
        corpus: ordinary text: the name of a corpus, a text file, or the texts.
        stored_queries: how many tokens of it are read, at most.
        most_neurons: of a fact.
        nonlinearity: ``act``.
        steps: of Adam, at most.
        learning_rate, weight_decay: of Adam; the rate halves where the loss no longer falls.
        label_smoothing: of the target's tokens.
        memory_weight: of the loss on the stored queries; published: 10 for generation, 5 for classification.
        gain: how large the values start.
        stop_below: mean negative log-probability of the wrong tokens at which to stop, if the neurons are silent on the stored queries.
        seed: of the values' start.

    Raises:
        InputError: an unknown word, or a number that makes no sense.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> edit = tlk.plan_edit(model, fact, tlk.editing.TransformerPatcher.for_model(model), progress=False)
        >>> edit.to_dataframe()["target"].tolist(), edit.notes[0]["loudest_elsewhere"]
        ([' London'], 0.0)
        >>> prompt = tlk.Prompt.from_fact(model, fact)
        >>> with edit.applied(model):
        ...     int(model(prompt.tokens)[0, -1].argmax()) == prompt.target_token
        True
    """

    takes_traced_layer: ClassVar[bool] = False
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "factlm": _FACTLM,
        "factlm-llama": _FACTLM | {"gain": 1.0},
    }

    corpus: str | tuple[str, ...]
    stored_queries: int = 40_000
    most_neurons: int = 5
    nonlinearity: Nonlinearity = "relu"
    steps: int = 2000
    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    memory_weight: float = 10.0
    gain: float = 10.0
    stop_below: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("nonlinearity", self.nonlinearity, Nonlinearity)
        for name, least in (("stored_queries", 1), ("most_neurons", 1), ("memory_weight", 0), ("gain", 0)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name}={getattr(self, name)} makes no sense; pass {least} or more.")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing={self.label_smoothing} is no share; pass a number from 0 to below 1.")

    @classmethod
    @override
    def small(cls) -> TransformerPatcher:
        return cls(corpus=("w1 w2 w3 w4 w5", "w6 w7 w8 w9"), stored_queries=40, steps=15, memory_weight=0.01, gain=1.0)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> NeuronEdit:
        """The neurons of each fact, one fact after the other; moments are not needed. A token that the model says already gets none.

        Raises:
            InputError: a target with more wrong tokens than neurons are allowed.
            DataError: a corpus that cannot be read, or has no token.
            NumericalError: a loss that is not finite.
        """
        place = mlp_map(model, "MLP", layer_count(model) - 1)
        memory, draw = self._memory(model, place), torch.Generator().manual_seed(self.seed)
        made, targets, notes = Patches.none(memory), list[str](), list[dict[str, Any]]()
        for fact in facts:
            new, tokens, note = self._neurons(model, fact, place, memory, made, draw)
            made = made.and_(new)
            targets += [str(model.tokenizer.decode([token])) for token in tokens]
            notes.append(note)
        return NeuronEdit(
            place=place,
            keys=made.keys,
            biases=made.biases,
            values=made.values,
            queries=made.queries,
            nonlinearity=self.nonlinearity,
            targets=tuple(targets),
            **planned_fields(model, self, notes),
        )

    def _neurons(
        self, model: HookedModel, fact: Fact, place: MLPMap, memory: torch.Tensor, made: Patches, draw: torch.Generator
    ) -> tuple[Patches, list[int], dict[str, Any]]:
        """A fact's neurons, the tokens that they are for, and what is worth noting."""
        rows = rows_of(model, fact, ("{}",), "subject")
        queries, wrong = self._wrong(model, rows, place, made)
        note: dict[str, Any] = {"subject": fact.subject, "target": fact.target, "neurons": len(wrong)}
        if not len(wrong):
            return Patches.none(memory), [], note | {"stopped": "nothing was wrong"}
        if len(wrong) > self.most_neurons:
            raise InputError(
                f"{counted(len(wrong), 'token')} of {fact.target!r} are wrong, and most_neurons={self.most_neurons}; "
                f"allow more, or pass a shorter target."
            )
        at, targets = rows.scored[0][wrong], rows.answer[wrong]
        whole = FrozenRows(model, rows.tokens[:1].repeat(len(wrong), 1), at, at[:, None], place.layer, (place.output,), [])
        suffix = Suffix(whole, torch.arange(len(wrong), device=at.device))
        settings = PatchSettings(**{field.name: getattr(self, field.name) for field in fields(PatchSettings)})
        trained = train_patches(suffix, queries[wrong], targets, torch.cat([memory, made.queries]), made, settings, draw)
        note |= {"losses": list(trained.losses), "stopped": trained.stopped, "target_probability": trained.probability}
        return trained.patches, targets.tolist(), note | {"loudest_elsewhere": trained.loudest}

    def _wrong(self, model: HookedModel, rows: FactRows, place: MLPMap, made: Patches) -> tuple[torch.Tensor, torch.Tensor]:
        """What the last MLP reads where each token of the target is predicted, and which of them are wrong, with the neurons that there are."""
        tokens, scored = rows.tokens[:1], rows.scored[:1]

        def act(queries: torch.Tensor, outputs: torch.Tensor, _: object) -> torch.Tensor:
            return outputs + made.written(queries, self.nonlinearity).to(outputs)

        read = record(model, tokens, [], [place.query])[place.query][0, scored[0]]
        with torch.no_grad():
            logits: torch.Tensor = model.run_with_hooks(tokens, fwd_hooks=[*at_map(place, act), *keep_positions(scored)])
        return read.to(made.keys), (logits[0].argmax(-1) != rows.answer).nonzero()[:, 0]

    def _memory(self, model: HookedModel, place: MLPMap) -> torch.Tensor:
        """What the last MLP reads in ordinary text, and where neurons that are on the model should be active; at least in single precision."""
        there = [edit for edit in routed_on(model) if isinstance(edit, NeuronEdit) and edit.place == place]  # they change nothing that it reads
        lower = [edit.digest() for edit in routed_on(model) if edit not in there]
        key = fingerprint_of(weight_digests(model) | {"read": repr((lower, place, self.corpus, self.stored_queries))})
        if key != _memories.get(model, ("",))[0]:
            texts = corpus_texts(self.corpus) if isinstance(self.corpus, str) else self.corpus
            rows = token_rows(model, texts, self.stored_queries)
            batches = [rows[i : i + TEXTS_AT_ONCE] for i in range(0, len(rows), TEXTS_AT_ONCE)]
            _memories[model] = key, torch.cat([activations_of(model, batch, [place.query], place.query)[place.query] for batch in batches])
        memory = _memories[model][1]
        return torch.cat([memory, *(edit.queries.to(memory) for edit in there)])
