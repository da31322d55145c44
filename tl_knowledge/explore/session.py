"""One model and everybody who looks at it: tabs ask, one thread answers, nothing of one tab is ever seen by another.

A tab is a name that the page makes up, and a state (`ExplorerState`) that it sends with everything that it asks. The session keeps no state of a
tab but its jobs, so that a page goes on as it was when the server is started again. What is suppressed, knocked out or edited acts as hooks of the
single runs that ask for it. Only under the model's lock is an edit ever on the model itself: while another one is planned on top of it, and for a
single run with an edit that changes what is read. Afterwards the model is bit for bit what it was.

Example:
    >>> import time
    >>> from tl_knowledge import load_model
    >>> from tl_knowledge.explore.state import ExplorerState
    >>> session = ExplorerSession(load_model("factlm"), name="factlm")
    >>> job = session.submit("tab 1", "predict", ExplorerState("The capital of France is"))
    >>> while not (view := session.view("tab 1", job)).over:
    ...     time.sleep(0.01)
    >>> view.results["prediction"].top[0].text
    ' Paris'
    >>> session.close()
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tl_knowledge.datasets import load_corpus
from tl_knowledge.editing import KeyMoments, TrainedMethod
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.explore.code import loading_options
from tl_knowledge.explore.edits import Editor
from tl_knowledge.explore.jobs import JobView
from tl_knowledge.explore.methods import MethodOffer
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.explore.tasks import TASKS, Desk, TaskName
from tl_knowledge.explore.worker import Worker
from tl_knowledge.lock import model_lock
from tl_knowledge.models.bundled import is_bundled
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.windows import unit_count

__all__ = ["ExplorerSession"]


class ExplorerSession:
    """A model, a thread, and a queue.

    Tasks, and what is in their results:

    =========== ====================================================================================================
    task        results
    =========== ====================================================================================================
    ``predict`` ``"prediction"``: `Prediction`: tokens, likeliest next tokens, the answer's probability
    ``trace``   by component (``"resid_post"`` ...): `CausalTrace`; one after the other
    ``cell``    ``"cell"``: `HeadDetails`, `NeuronDetails` or `StateDetails`
    ``circuit`` ``"circuit"``: `Circuit` of the tab's prompt
    ``compare`` ``"comparisons"``: a tuple of `Comparison`, the prompt's and the further prompts'; one after the other
    =========== ====================================================================================================

    Args:
        name: what the model is loaded by, for programs that are copied.
        moments: key moments that are there already.
        corpus: gives texts to collect key moments from; FactLM's own for the bundled models, else none.
        editors: trained methods, MEND, KE or SERAC, one of a kind.

    Raises:
        InputError, ModelStateError: moments or editors that do not belong to the model, or an editor that cannot be used here.

    Attributes:
        model: the model; only the session's own thread may run it.
        name: as it was given.
        options: what a program has to load it with besides.
        identity: of the model under its name, as loaded, and of the editors: what another session with other numbers does not have.
        layers, heads: of the model.
        methods: the editing methods, for a form; those that cannot be used here with the reason.
    """

    def __init__(
        self,
        model: AnyModel,
        *,
        name: str,
        moments: KeyMoments | None = None,
        corpus: Callable[[], Iterable[str]] | None = None,
        editors: TrainedMethod | Sequence[TrainedMethod] | None = None,
    ) -> None:
        self.model, self.name = as_model(model), name
        self.options = loading_options(self.model, name)
        if moments is not None:
            moments.check(self.model)
        texts = load_corpus if corpus is None and is_bundled(name) else corpus
        self.layers, self.heads = layer_count(self.model), unit_count(self.model, "head")
        editor = Editor(self.model, moments, texts, editors)
        self.methods: tuple[MethodOffer, ...] = editor.offers()
        numbers = (name, self.options, weight_fingerprint(self.model), [offer.editor for offer in self.methods])
        self.identity = hashlib.sha256(repr(numbers).encode()).hexdigest()
        self._desk = Desk(self.model, editor)
        self._worker = Worker(TASKS, lambda: model_lock(self.model))  # nobody's ``with edit.applied(model):`` is seen in a step

    def submit(self, tab: str, task: TaskName, state: ExplorerState) -> str:
        """Ask for something; the job's id. What the same tab asked for by the same task before is given up.

        Raises:
            InputError: an unknown task, or a session that was closed.
        """
        check_choice("task", task, TASKS)
        return self._worker.submit(tab, task, self._desk.steps(tab, task, state))

    def view(self, tab: str, job: str) -> JobView:
        """How a tab's job is now, with its results so far; ``"unknown"`` for one that is not this tab's, or was dropped."""
        return self._worker.view(tab, job)

    def cancel(self, tab: str, job: str) -> None:
        """Stop a tab's job, wherever it is."""
        self._worker.cancel(tab, job)

    def leave(self, tab: str) -> None:
        """Forget a tab that was closed, and give up what it has asked for."""
        self._worker.leave(tab)

    def known(self, tab: str, state: ExplorerState) -> dict[str, Any]:
        """What is there already for a tab of all that belongs to a state, by name as in the results; nothing is computed."""
        return self._desk.known(tab, state)

    def close(self) -> None:
        """Stop everything; what is asked for afterwards is refused.

        Raises:
            InputError: the thread does not end, as something runs that cannot be stopped.
        """
        if not self._worker.close():
            raise InputError("the explorer's thread is still busy with something that cannot be stopped; it ends with the program.")
