"""What a tab can ask for: each task is a generator of steps, with results that are kept for whoever asks the same."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

from tl_knowledge.circuits import Circuit, from_trace
from tl_knowledge.explore.asking import plain_prompt, target_hint, traced_prompt, traced_with
from tl_knowledge.explore.cache import Cache, TabCache
from tl_knowledge.explore.comparison import Comparison, answers_of, compare_one
from tl_knowledge.explore.details import CellDetails, cell_details
from tl_knowledge.explore.edits import Editor
from tl_knowledge.explore.jobs import Step
from tl_knowledge.explore.keys import ResultKeys
from tl_knowledge.explore.predictions import Prediction, predict_next
from tl_knowledge.explore.state import ExplorerState, TracedComponent
from tl_knowledge.explore.worker import MOST_TABS
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.tracing import COMPONENT_WORDS, CausalTrace, trace

__all__ = ["TASKS", "Desk", "TaskName"]

TaskName: TypeAlias = Literal["predict", "cell", "trace", "compare", "circuit"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
"""In the order in which a tab's own are made: what is quick comes first."""

KEPT, TAB_KEPT = 80, 48  # results: of all tabs, and of one; a state has no more than 29, the two maps of its circuit and 21 comparisons among them
MODULES: tuple[TracedComponent, ...] = ("mlp_out", "attn_out")  # whose sites a circuit is made of


class Desk:
    """Makes what tabs ask for, on one model. Only the worker's thread calls `steps`; `known` may be called from any.

    Attributes:
        model: the model.
        editor: plans the edits.
    """

    def __init__(self, model: HookedModel, editor: Editor) -> None:
        self.model, self.editor = model, editor
        self._kept = Cache(KEPT)
        self._tabs = Cache(MOST_TABS)

    def steps(self, tab: str, task: TaskName, state: ExplorerState) -> Generator[Step]:
        """A task's steps."""
        makers: dict[TaskName, Callable[[ExplorerState, TabCache], Generator[Step]]] = {
            "predict": self._predict,
            "trace": self._trace,
            "cell": self._cell,
            "circuit": self._circuit,
            "compare": self._compare,
        }
        self.known(tab, state)  # what belongs to the state is in use, however long ago it was made
        yield from makers[task](state, self._tabs.get_or_make(tab, lambda: TabCache(self._kept, TAB_KEPT)))

    def known(self, tab: str, state: ExplorerState) -> dict[str, Any]:
        """What is kept of everything that belongs to a tab, by name as in a job's results; nothing is computed."""
        keys, kept = ResultKeys(state), self._tabs.get(tab) or self._kept
        found: dict[str, Any] = {"prediction": kept.get(keys.prediction)}
        found |= {component: kept.get(keys.trace(component)) for component in state.components}
        found |= {"cell": kept.get(keys.cell) if state.cell else None, "circuit": kept.get(keys.circuit) if state.circuit else None}
        texts = (state.prompt, *state.further)
        compared = [kept.get(keys.comparison(text)) for text in texts]
        found["comparisons"] = None if None in compared else tuple(compared)
        return {name: result for name, result in found.items() if result is not None}

    def _predict(self, state: ExplorerState, kept: TabCache) -> Generator[Step]:
        yield Step(0, 1, "reading the prompt")

        def make() -> Prediction:
            prompt = plain_prompt(self.model, state.prompt, state.target)
            hint = "" if state.target is None else target_hint(self.model, state.prompt, state.target)
            return predict_next(self.model, prompt, [], hint=hint)

        yield Step(1, 1, "", {"prediction": kept.get_or_make(ResultKeys(state).prediction, make)})

    def _trace(self, state: ExplorerState, kept: TabCache) -> Generator[Step]:
        total = len(state.components)
        for number, component in enumerate(state.components):
            yield Step(number, total, f"restoring every {COMPONENT_WORDS[component]}")
            yield Step(number + 1, total, "", {component: self._traced(state, component, kept)})

    def _traced(self, state: ExplorerState, component: TracedComponent, kept: TabCache) -> CausalTrace:
        def make() -> CausalTrace:
            prompt = traced_prompt(self.model, state)
            return trace(self.model, prompt, component=component, window=state.window, **traced_with(prompt, state))

        return kept.get_or_make(ResultKeys(state).trace(component), make)

    def _cell(self, state: ExplorerState, kept: TabCache) -> Generator[Step]:
        yield Step(0, 1, "looking into the cell")

        def make() -> CellDetails:
            return cell_details(self.model, state)

        yield Step(1, 1, "", {"cell": kept.get_or_make(ResultKeys(state).cell, make)})

    def _circuit(self, state: ExplorerState, kept: TabCache) -> Generator[Step]:
        total = len(MODULES) + 1
        for number, component in enumerate(MODULES):
            yield Step(number, total, f"restoring every {COMPONENT_WORDS[component]}")
            self._traced(state, component, kept)
        yield Step(total - 1, total, "measuring what the sites pass on")

        def make() -> Circuit:
            traces = [self._traced(state, component, kept) for component in MODULES]
            return from_trace(self.model, traced_prompt(self.model, state), traces, metric=state.metric, progress=False)

        yield Step(total, total, "", {"circuit": kept.get_or_make(ResultKeys(state).circuit, make)})

    def _compare(self, state: ExplorerState, kept: TabCache) -> Generator[Step]:
        texts = (state.prompt, *state.further)
        total, keys = len(state.edits) + len(texts), ResultKeys(state)
        for number, edit in enumerate(state.edits):
            yield Step(number, total, f"planning edit {number + 1} of {len(state.edits)} ({edit.method})")
            self.editor.plan(state.edits[: number + 1])
        answers = cache(lambda: answers_of(self.model, state))  # the same for every text
        done: list[Comparison] = []
        for text in texts:
            yield Step(len(state.edits) + len(done), total, "asking before and after", {"comparisons": tuple(done)})

            def make(text: str = text) -> Comparison:
                return compare_one(self.model, text, answers(), state, self.editor.all_plans(state.edits))

            done.append(kept.get_or_make(keys.comparison(text), make))
        yield Step(total, total, "", {"comparisons": tuple(done)})
