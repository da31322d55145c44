"""A learnt subspace: plain hooks, scores on other pairs, and the check for an illusion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import ComponentError
from tl_knowledge.hooks import Positions, SubspaceComponent, patch_subspace
from tl_knowledge.models.ledger import check_made_for
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_hook, output_weights
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import Result
from tl_knowledge.runs.metric import Metric
from tl_knowledge.subspaces.illusion import IllusionCheck, check_unwritten, illusion_table, written_parts
from tl_knowledge.subspaces.pairs import Pair, as_fact_pairs
from tl_knowledge.subspaces.scores import SubspaceScores, subspace_scores
from tl_knowledge.subspaces.settings import SubspaceSettings
from tl_knowledge.subspaces.trials import Site, Trials, as_prompts, read_trials, state_of
from tl_knowledge.wording import counted

__all__ = ["Subspace"]


@dataclass(frozen=True, eq=False)
class Subspace(Result):
    """Directions of a state whose interchange makes the model say the source's answer.

    Attributes:
        basis: orthonormal directions.
        component: whose states.
        layer: of which block.
        at: at the last token of which span.
        metric: what they were trained to raise.
        controls: subspaces of as many dimensions that nobody trained, by name: see `SubspaceScores`.
        validated: scores on the validation's pairs, by which the step was chosen; `score` takes pairs that nothing was chosen by.
        curve: ``step trained validation``: the metric's mean over the pairs trained on since the last row, and over the validation.
        best_step: whose basis this is.
        settings: how it was trained.
        pairs: how many it was trained on.
        fingerprint: of the weights of the model that it was trained for.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "said"
    basis: Float[torch.Tensor, "d dims"]
    component: SubspaceComponent
    layer: int
    at: str
    metric: Metric
    controls: dict[str, torch.Tensor]
    validated: SubspaceScores
    curve: pd.DataFrame
    best_step: int
    settings: SubspaceSettings
    pairs: int
    fingerprint: str
    provenance: Provenance

    @property
    def dims(self) -> int:
        """How many directions."""
        return int(self.basis.shape[1])

    def headline(self) -> str:
        """Where, from how many pairs, and what came of it."""
        learned = self.to_dataframe().set_index("subspace").loc["learned"]
        return (
            f"{self.dims} of {counted(len(self.basis), 'dim')} of {self._site}, from {counted(self.pairs, 'pair')}, step {self.best_step}; "
            f"source's answer in "
            f"{learned['said']:.0%} of {counted(int(learned['pairs']), 'validation pair')}; {self.provenance.model}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a subspace, this one and its controls, on the validation's pairs."""
        return self.validated.by_layer()

    def plot(self) -> go.Figure:
        """How often the source's answer is said on the validation's pairs, by subspace."""
        return self.validated.plot()

    def plot_curve(self) -> go.Figure:
        """The metric by step, of the pairs trained on and of the validation."""
        frame, word = self.curve, self.metric.of_answer()
        lines = [
            _line("validation", frame["step"].tolist(), frame["validation"].tolist(), 0, self.best_step),
            _line("trained on", frame["step"].tolist()[1:], frame["trained"].tolist()[1:], 1, self.best_step),
        ]
        subtitle = f"filled: step {self.best_step}, which is kept; {counted(self.dims, 'dim')} of {self._site}; {self.provenance.model}"
        return line_panels([LinePanel("", lines)], title="Training of a subspace", subtitle=subtitle, x_axis="step", y_axis=word)

    @property
    def _site(self) -> Site:
        return Site(self.component, self.layer, self.at)

    @public
    def check(self, model: AnyModel) -> HookedModel:
        """Refuse another model than it was trained for; the model. Edits that are written since do not matter.

        Raises:
            ModelStateError: other weights.
        """
        model = as_model(model)
        check_made_for(model, self.fingerprint, "subspace", f"{self.provenance.model!r} in {self.provenance.dtype}")
        return model

    @public
    def hooks(self, model: AnyModel, prompt: Prompt, *, positions: Positions) -> Hooks:
        """Hooks that put a source's part in any run: the state of a prompt's own span ``at``, at some positions of the run.

        Args:
            prompt: the source.
            positions: where in the run, one or several.

        Raises:
            PromptError: the source has no span of that name.
            ModelStateError: other weights than it was trained for.

        Example:
            >>> import tl_knowledge as tlk
            >>> model, facts = tlk.load_model("factlm"), tlk.datasets.of_relation(tlk.load_facts(), "P36")
            >>> train, validation, _ = tlk.subspaces.split_pairs(facts)
            >>> training = tlk.subspaces.SubspaceSettings(steps=2)
            >>> place = {"component": "resid_post", "layer": 2, "at": "subject"}
            >>> subspace = tlk.subspaces.learn_subspace(model, train, validation=validation, dims=8, training=training, **place, progress=False)
            >>> base, source = (tlk.Prompt.from_fact(model, fact) for fact in validation[0])
            >>> hooks = subspace.hooks(model, source, positions=base.subject.last)
            >>> logits = model.run_with_hooks(base.tokens, fwd_hooks=hooks)
        """
        state = state_of(self.check(model), prompt, self._site)
        return patch_subspace(self.basis, state, component=self.component, layer=self.layer, positions=positions)

    @public
    def score(self, model: AnyModel, pairs: Pair | Iterable[Pair], *, known_only: bool = True) -> SubspaceScores:
        """Interchanges on other pairs, in this subspace, in its controls and of the whole state.

        Args:
            pairs: a base and a source each; the interchanged run should say the source's target.
            known_only: leave out pairs of which the model does not say both answers.

        Raises:
            DataError: no pair can be used.
            ModelStateError: other weights than it was trained for.
        """
        model = self.check(model)
        return subspace_scores(model, self._trials(model, pairs, known_only), self.basis, self.controls, self.settings.seed)

    @public
    def check_illusion(self, model: AnyModel, pairs: Pair | Iterable[Pair], *, known_only: bool = True) -> IllusionCheck:
        """Is this the subspace that the model uses, or a disconnected and a dormant direction in one (Makelov et al. 2024)?

        It speaks of what ``W_out`` does not write, and of nothing after it: see `IllusionCheck`.

        Args:
            pairs: as in `score`, better some that nothing was chosen by.
            known_only: as in `score`.

        Raises:
            ComponentError: a component that is not an MLP's hidden activations: all else is in the stream or is added to it (in some models
                through a norm or a factor), and there is no matrix by which to take it apart.
            NumericalError: the unwritten part has an effect all the same, as rounding in half precision can give it.
            UnsupportedModelError: what is written is not ``W_out``'s product with these activations.
            DataError, ModelStateError: as in `score`.
        """
        if self.component != "neuron":
            raise ComponentError(
                f"{self.component!r} is part of the stream, or is added to it (in some models through a norm or a factor): no single matrix "
                "reads it, whose null space this check could take apart; learn the subspace with component='neuron', or compare it with the "
                "whole state: see score()."
            )
        model = self.check(model)
        output_hook(model, self.layer)  # finds that W_out, and nothing else, reads these activations as they are
        trials = self._trials(model, pairs, known_only)
        parts = written_parts(self.basis, output_weights(model, self.layer))
        table, read, retained = illusion_table(model, trials, self.basis, parts)
        provenance = provenance_of(model, engine="one forward a part", seed=self.settings.seed, dims=self.dims)
        check = IllusionCheck(table, parts.null_share, read, retained, self.layer, self.at, trials.left_out, provenance)
        check_unwritten(check)
        return check

    def _trials(self, model: HookedModel, pairs: Pair | Iterable[Pair], known_only: bool) -> Trials:
        return read_trials(model, as_prompts(model, as_fact_pairs(pairs)), self._site, known_only=known_only)


def _line(name: str, steps: list[int], values: list[float], style: int, best: int) -> Line:
    return Line(name, steps, values, values, values, style=style, filled=frozenset({best}))
