"""What a protocol works with: the model, the data of the experiment or what stands in for it, and a folder for what is finished."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tl_knowledge.datasets import load_corpus, load_edit_cases, load_facts
from tl_knowledge.editing import EditMethod, KeyMoments, collect_key_moments, method_class
from tl_knowledge.engine.batches import predicted_tokens
from tl_knowledge.errors import DataError, MissingSpaceWarning
from tl_knowledge.models.loading import AnyModel
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.targets import target_tokens
from tl_knowledge.published.data import DataSet
from tl_knowledge.runs.key_moments import needed_layers
from tl_knowledge.tracing import subject_embedding_sd

__all__ = ["Editor", "Workbench"]

Item = TypeVar("Item")
REHEARSED_TOKENS = 1.1
"""Tokens for each neuron that a rehearsal's moments are taken over: just enough to be inverted."""


@dataclass(frozen=True)
class Editor:
    """An editing method as a row of a published table.

    Attributes:
        label: the row's name.
        method: of `tl_knowledge.editing.METHODS`.
        settings: changed from what is published for the model, as ``(name, value)``; ``value.clamp`` reaches into settings that hold others.
        layers: ``"published"``, ``"second_last"``, or layers.
        alone: whether the method edits one fact at a time; where others edit batches, its edits then follow each other and stay.
        wide: whether a sweep over layers edits five layers around each.
    """

    label: str
    method: str
    settings: tuple[tuple[str, Any], ...] = ()
    layers: str | tuple[int, ...] = "published"
    alone: bool = False
    wide: bool = False

    def for_model(self, model: HookedModel) -> EditMethod:
        """The method for a model; published layers that a model cut in depth does not have are taken as deep as it goes."""
        count, settings = layer_count(model), dict(self.settings)
        known = partial(method_class(self.method).for_model, model, variant=settings.pop("variant", "ours"))
        if self.layers == "second_last":
            method = known(layers=count - 2)
        elif isinstance(self.layers, tuple):
            method = known(layers=self.layers)
        else:
            method = known()
            word = method.layer_word()
            layers: Any = () if word is None else getattr(method, word)
            layers = (layers,) if isinstance(layers, int) else tuple(layers or ())
            if any(layer >= count for layer in layers):
                inside = tuple(layer for layer in layers if layer < count) or (count // 2,)
                method = known(layers=inside if word == "layers" else inside[-1])
        for name, value in settings.items():
            method = _changed(method, name.split("."), value)
        return method


def _changed(settings: Any, path: Sequence[str], value: Any) -> Any:
    first, *rest = path
    return replace(settings, **{first: _changed(getattr(settings, first), rest, value) if rest else value})


@dataclass(eq=False)
class Workbench:
    """A run's surroundings.

    Attributes:
        model: the loaded model.
        source: what was passed for it, which workers load.
        data: the experiment's; FactLM's own facts and cases stand in where ``own_data``.
        place: where the data is read, when not from its own place.
        limit: how many facts or cases.
        own_data: whether FactLM's data stands in (for FactLM itself, and in rehearsals).
        rehearsal: whether the weights are random: targets are then what the model predicts.
        store: the run's folder, or nothing.
        corpus: what the key moments are taken over: a name of `load_corpus`, or texts.
        runner, workers: who computes, where a step can be shared out.
        progress: show progress bars.
        seconds: by step, how long it took.
    """

    model: HookedModel
    source: AnyModel
    data: DataSet
    place: str | None
    limit: int
    own_data: bool
    rehearsal: bool
    store: Path | None
    corpus: str | Sequence[str]
    runner: Any
    workers: int
    progress: bool
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _moments: dict[tuple[int, ...] | None, KeyMoments] = field(default_factory=dict[Any, KeyMoments])

    def facts(self) -> list[Fact]:
        """The experiment's facts, at most ``limit``."""
        return self._some(load_facts, lambda fact: fact, lambda fact, target: replace(fact, target=target))

    def cases(self) -> list[EditCase]:
        """The experiment's edit cases, at most ``limit``."""
        return self._some(load_edit_cases, lambda case: case.fact, lambda case, target: replace(case, fact=replace(case.fact, target=target)))

    def cases_of(self, relations: Iterable[str]) -> list[EditCase]:
        """The first ``limit`` cases of some relations."""
        wanted = set(relations)
        everything = replace(self, limit=10**9, seconds={}, _moments={}).cases() if not self.rehearsal else self.cases()
        return [case for case in everything if case.fact.relation in wanted or self.rehearsal][: self.limit]

    @property
    def asked(self) -> AnyModel:
        """The model for a step that can be shared out: what workers load, or the loaded one."""
        return self.source if self.runner == "ray" else self.model

    def part(self, name: str) -> Path | None:
        """The folder of one of the run's steps."""
        return None if self.store is None else self.store / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

    def noise(self, rule: float | str, facts: Iterable[Fact]) -> float | str:
        """A published noise: ``"3 subject sd"`` is that of the facts' subjects' embeddings."""
        if rule != "3 subject sd":
            return rule
        return 3 * subject_embedding_sd(self.model, list(dict.fromkeys(fact.subject for fact in facts)))

    def moments(self, methods: Iterable[EditMethod]) -> KeyMoments | None:
        """Key moments of all layers that the methods need, collected once a run."""
        layers = needed_layers(methods)
        if layers == ():
            return None
        if layers not in self._moments:
            d_mlp = int(self.model.blocks[0].mlp.W_out.shape[0])
            with self.timed("key moments"):
                self._moments[layers] = collect_key_moments(
                    self.model,
                    load_corpus(self.corpus) if isinstance(self.corpus, str) else self.corpus,
                    layers=layers,
                    tokens=int(REHEARSED_TOKENS * d_mlp) if self.rehearsal else None,
                    store=self.part("moments"),
                    progress=self.progress,
                )
        return self._moments[layers]

    @contextmanager
    def timed(self, step: str) -> Generator[None]:
        """Add the seconds of a step."""
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start

    def _some(self, load: Callable[..., list[Item]], fact_of: Callable[[Item], Fact], with_target: Callable[[Item, str], Item]) -> list[Item]:
        if not self.own_data:
            return load(self.data.name, self.place or self.data.place, limit=self.limit)
        if not self.rehearsal:
            return load("factlm", limit=self.limit)
        return self._predicted(load("factlm"), fact_of, with_target)

    def _predicted(self, items: Sequence[Item], fact_of: Callable[[Item], Fact], with_target: Callable[[Item, str], Item]) -> list[Item]:
        """Items whose target is what the random model predicts, where that is a token of its own."""
        kept: list[Item] = []
        tokenizer: Any = self.model.tokenizer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MissingSpaceWarning)
            for start in range(0, len(items), 2 * self.limit):
                group = items[start : start + 2 * self.limit]
                predicted = predicted_tokens(self.model, [Prompt.from_fact(self.model, fact_of(item)) for item in group])
                for item, token in zip(group, predicted, strict=True):
                    text = tokenizer.decode([token])
                    if text.strip() and list(target_tokens(self.model, text)) == [token]:
                        kept.append(with_target(item, text))
                    if len(kept) == self.limit:
                        return kept
        raise DataError(
            f"only {len(kept)} of FactLM's facts have a prediction of one token here, but {self.limit} were asked for; pass a smaller limit."
        )
