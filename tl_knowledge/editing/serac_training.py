"""How SERAC is trained: the counterfactual model to answer behind an edit, the encoder to know which prompts are in an edit's scope."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from more_itertools import always_iterable

from tl_knowledge.door import public
from tl_knowledge.editing.demonstrations import fact_key
from tl_knowledge.editing.scope import ScopeEncoder, similarities
from tl_knowledge.editing.serac_weights import SeracSettings, TrainedSerac, Weights, new_modules, trained_serac, weights_of
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, ModelStateError, NumericalError, check_given
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, model_device
from tl_knowledge.models.reread import own_start
from tl_knowledge.prompts.facts import EditCase, Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits, target_tokens
from tl_knowledge.results.digest import digest, values_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.results.storage import read_result, write_result

__all__ = ["edit_context", "own_tokens", "train_serac"]

STATE = "training"
ADAM = ("exp_avg", "exp_avg_sq", "step")
LEAST = 1e-6  # of ``1 - sim``, whose logarithm is taken


@dataclass(frozen=True)
class Example:
    """An edit, a question in its scope and one outside."""

    edit: Fact
    inside: Fact
    outside: str


@public
def train_serac(
    model: AnyModel,
    cases: Iterable[EditCase],
    method: SeracSettings | None = None,
    *,
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> TrainedSerac:
    """Train a SERAC for a model on edits that will not be evaluated with it (Mitchell et al. 2022b, section 3 and equation 6).

    The loss is ``answer_weight * NLL(target | edit, question) + scope_weight * (BCE(sim(edit, question), 1) + BCE(sim(edit, other), 0))``; the
    question is the edit's prompt or a paraphrase, the other one a neighbour, or another case's prompt, half of them of the same relation. The
    weights with the smallest loss on the cases that are held out are kept. The model is not changed.

    Args:
        cases: at least two.
        method: how it is trained; small encoders from scratch want a larger ``learning_rate`` than the published 1e-5.
        store: a folder; a training that was killed goes on from its last look there.
        progress: show a bar.

    Raises:
        DataError: fewer than two cases, or a folder of another training.
        ModelStateError: edits are in the model.
        NumericalError: a loss that is not finite.

    Example:
        >>> import tl_knowledge as tlk
        >>> settings = tlk.editing.SeracSettings(steps=2, check_every=1, accumulate=1, batch_size=2, held_out=0.5)
        >>> trained = tlk.editing.train_serac("factlm", tlk.load_edit_cases()[:4], settings, progress=False)
        >>> trained.losses["step"].tolist()
        [1, 2]
    """
    model, settings = as_model(model), method or SeracSettings()
    given = check_given(always_iterable(cases, EditCase), "case", "pass edit cases that will not be evaluated")
    if len(given) < 2:
        raise DataError("one case cannot be both trained on and held out; pass at least two.")
    if has_written_edits(model):
        raise ModelStateError("edits are in the model, and a SERAC is trained for one without; revert(model) them first.")
    shuffled = random.Random(settings.seed).sample(given, len(given))
    count = min(max(1, round(settings.held_out * len(given))), len(given) - 1)
    run = {"cases": digest([asdict(case) for case in given]), "weights": unedited_fingerprint(model), "settings": values_of(settings)}
    with ExitStack() as stack:
        folder = None if store is None else stack.enter_context(closing(RunFolder(store, run, "train_serac()")))
        training = _Training(model, settings, shuffled[count:], shuffled[:count], None if folder is None else folder.directory / STATE)
        bar = stack.enter_context(progress_bar(what="train SERAC", unit="step", total=settings.steps, progress=progress))
        training.run(bar)
    return trained_serac(model, settings, training.best, [fact_key(case.fact) for case in given], training.losses)


class _Training:
    """A training at work."""

    def __init__(
        self, model: HookedModel, settings: SeracSettings, cases: Sequence[EditCase], held_out: Sequence[EditCase], state: Path | None
    ) -> None:
        self.model, self.settings, self.cases, self.state = model, settings, cases, state
        self.modules = new_modules(model, settings)
        self.parameters = {f"{i}.{name}": p.requires_grad_(True) for i, module in enumerate(self.modules) for name, p in module.named_parameters()}
        self.optimiser = torch.optim.Adam(list(self.parameters.values()), lr=settings.learning_rate)
        self.by_relation: dict[str | None, list[EditCase]] = {}
        for case in cases:
            self.by_relation.setdefault(case.fact.relation, []).append(case)
        self.looked_at = [self._example(case, random.Random(f"{settings.seed}/held out/{i}")) for i, case in enumerate(held_out)]
        self.step, self.since, self.losses = 0, 0.0, list[tuple[int, float, float]]()
        self.best: Weights = weights_of(self.modules)

    def run(self, bar: Any) -> None:
        """Train until the steps are done, or nothing has become better for so long."""
        settings = self.settings
        if self.state is not None and self.state.with_suffix(".safetensors").is_file():
            self._resume(self.state)
            bar.update(self.step)
        while self.step < settings.steps and not self._out_of_patience():
            self.optimiser.zero_grad()
            for part in range(settings.accumulate):
                draw = random.Random(f"{settings.seed}/{self.step}/{part}")
                loss = self._loss([self._example(draw.choice(self.cases), draw) for _ in range(settings.batch_size)]) / settings.accumulate
                if not bool(loss.isfinite()):
                    raise NumericalError(f"SERAC's loss is {float(loss)} at step {self.step}; lower the learning rate.")
                loss.backward()
                self.since += loss.item()
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.clip)
            self.optimiser.step()
            self.step += 1
            bar.update(1)
            if self.step % settings.check_every == 0 or self.step == settings.steps:
                self._look()

    def _look(self) -> None:
        """Loss on what is held out; the best weights are kept."""
        batches = [self.looked_at[i : i + self.settings.batch_size] for i in range(0, len(self.looked_at), self.settings.batch_size)]
        with torch.no_grad():
            held_out = sum(float(self._loss(batch)) * len(batch) for batch in batches) / len(self.looked_at)
        before = self.losses[-1][0] if self.losses else 0
        if not self.losses or held_out < min(row[2] for row in self.losses):
            self.best = weights_of(self.modules)
        self.losses.append((self.step, self.since / (self.step - before), held_out))
        self.since = 0.0
        if self.state is not None:
            self._keep(self.state)

    def _out_of_patience(self) -> bool:
        held_out = [row[2] for row in self.losses]
        return len(held_out) > self.settings.patience and min(held_out[-self.settings.patience :]) >= min(held_out[: -self.settings.patience])

    def _example(self, case: EditCase, draw: random.Random) -> Example:
        """An edit with a question in its scope, and one outside."""
        edit = case.rewrite
        inside = draw.choice([edit, *(edit.rephrase(fact.template) for fact in case.paraphrases)])
        near = [each.text for each in case.neighbourhood]
        same = [other for other in self.by_relation.get(case.fact.relation, []) if other.fact.subject != case.fact.subject]
        others = same if same and draw.random() < 0.5 else [other for other in self.cases if fact_key(other.fact) != fact_key(case.fact)]
        if near and (not others or draw.random() < 0.5):
            return Example(edit, inside, draw.choice(near))
        other = draw.choice(others or [case]).fact
        return Example(edit, inside, draw.choice([other, *(other.rephrase(template) for template in other.paraphrases)]).text)

    def _loss(self, examples: Sequence[Example]) -> Float[torch.Tensor, ""]:
        encoder, other = self.modules
        return self.settings.answer_weight * self._answer_loss(other, examples) + self.settings.scope_weight * self._scope_loss(encoder, examples)

    def _answer_loss(self, other: HookedModel, examples: Sequence[Example]) -> Float[torch.Tensor, ""]:
        """Mean negative log-likelihood of the targets' tokens behind edit and question; rows are filled up behind their ends, which nothing reads."""
        rows, answers = list[torch.Tensor](), list[tuple[int, ...]]()
        for example in examples:
            prompt = Prompt.from_fact(self.model, example.inside)
            check_fits(self.model, prompt, multi_token=True)
            row, start = prompt.tokens[0], own_start(self.model, prompt.tokens[0])
            context = edit_context(self.model, example.edit, self.settings.separator)
            rows.append(torch.cat([row[:start], context, row[start:], row.new_tensor(prompt.answer[:-1])]))
            answers.append(prompt.answer)
        logits: torch.Tensor = other(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
        losses = list[torch.Tensor]()
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            scored = logits[i, len(row) - len(answer) : len(row)].log_softmax(-1)
            losses.append(-scored.gather(-1, row.new_tensor(answer)[:, None]).mean())
        return torch.stack(losses).mean()

    def _scope_loss(self, encoder: ScopeEncoder, examples: Sequence[Example]) -> Float[torch.Tensor, ""]:
        """Cross-entropy of the similarities, those that should be 1 and those that should be 0 each in their mean."""
        texts = [text for each in examples for text in (each.edit.text, each.inside.text, each.outside)]
        vectors = encoder([own_tokens(self.model, Prompt.from_text(self.model, text)) for text in texts])
        edits, inside, outside = vectors[0::3], vectors[1::3], vectors[2::3]
        near = ((edits - inside) ** 2).sum(-1)  # minus the logarithm of the similarity
        apart = 1 - similarities(edits, outside).diagonal()
        return near.mean() - apart.clamp_min(LEAST).log().mean()

    def _keep(self, path: Path) -> None:
        tensors = {f"now.{name}": p.detach() for name, p in self.parameters.items()} | {f"best.{name}": each for name, each in self.best.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"{word}.{name}": value for word, value in self.optimiser.state[parameter].items()}  # none where nothing reads it
        write_result(path, "SeracTraining", tensors, {"step": self.step, "losses": [list(row) for row in self.losses]})

    @torch.no_grad()
    def _resume(self, path: Path) -> None:
        tensors, fields = read_result(path, "SeracTraining")
        self.step, self.losses = fields["step"], [(int(a), float(b), float(c)) for a, b, c in fields["losses"]]
        self.best = {name: tensors[f"best.{name}"].to(model_device(self.model)) for name in self.best}
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"now.{name}"])
            there = {word: tensors[f"{word}.{name}"] for word in ADAM if f"{word}.{name}" in tensors}
            self.optimiser.state[parameter] = {word: value if word == "step" else value.to(parameter) for word, value in there.items()}


def edit_context(model: HookedModel, fact: Fact, separator: str) -> Int[torch.Tensor, " pos"]:
    """An edit as the counterfactual model reads it: prompt, target, separator."""
    tokens = [*Prompt.from_fact(model, fact).tokens[0].tolist(), *target_tokens(model, fact.target)]
    start = own_start(model, torch.tensor(tokens))
    return torch.tensor([*tokens[start:], *model.tokenizer(separator, add_special_tokens=False)["input_ids"]], device=model_device(model))


def own_tokens(model: HookedModel, prompt: Prompt) -> Int[torch.Tensor, " pos"]:
    """A prompt without its BOS token."""
    return prompt.tokens[0, own_start(model, prompt.tokens[0]) :]
