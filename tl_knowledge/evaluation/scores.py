"""What one edit did, in the field's terms: pure numbers from the candidates' likelihoods before and after.

For every prompt two candidates are compared, the new object and the true one, each teacher-forced token by token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.engine.reading import logits_at
from tl_knowledge.errors import check_choice
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, answered_from
from tl_knowledge.prompts.facts import EditCase, Fact, Statement
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.prompts.targets import target_tokens

__all__ = ["COUNTERFACT", "Answer", "Candidates", "HaseVariant", "Reading", "case_scores", "hase_scores", "read_answers", "read_candidates"]

COUNTERFACT = ("ES", "EM", "PS", "PM", "NS", "NM", "EA", "PA", "NA")
"""Efficacy, paraphrase and neighbourhood: success (S), magnitude (M), argmax accuracy (A)."""


@dataclass(frozen=True)
class Answer:
    """One candidate after one prompt.

    Attributes:
        nll: mean negative log-likelihood per token.
        tokens: the candidate's.
        predicted: the argmax at every token's place, the candidate's earlier tokens given.
    """

    nll: float
    tokens: tuple[int, ...]
    predicted: tuple[int, ...]

    @property
    def exact(self) -> bool:
        """Whether every token is the argmax."""
        return self.tokens == self.predicted

    @property
    def share(self) -> float:
        """Part of the tokens that are the argmax."""
        return agreement(self.tokens, self.predicted)

    @property
    def probability(self) -> float:
        """Of the whole candidate."""
        return math.exp(-self.nll * len(self.tokens))


@dataclass(frozen=True)
class Candidates:
    """The new and the true object after one prompt."""

    new: Answer
    true: Answer


Reading: TypeAlias = Mapping[str, Sequence[Candidates]]
"""Candidates by kind of prompt: ``"rewrite"``, ``"paraphrase"``, ``"neighbourhood"``."""

HaseVariant: TypeAlias = Literal["ours", "hase2023"]
"""How Hase et al.'s scores are taken:

========== ======================== ================================= ==================================
variant    prompts of each kind     an edit that made things worse    a neighbour's ``p`` is
========== ======================== ================================= ==================================
ours       all, in the mean         counts, below 0                   the neighbour's own object's
hase2023   the first                counts as 2e-8, for erasure as 0  the object's that the edit writes
========== ======================== ================================= ==================================

The second line is what the program does (``experiments/evaluate.py``).
"""

HARDLY = 1e-12  # of a probability that is divided by
LEAST_HASE = 2e-8


def agreement(first: Sequence[int], second: Sequence[int]) -> float:
    """Part of two equally long token sequences that agrees."""
    return float(np.mean([a == b for a, b in zip(first, second, strict=True)]))


def case_scores(before: Reading, after: Reading) -> dict[str, float]:
    """One case's scores in percent; NaN where a kind has no prompt. With ``after = before`` they are the unedited model's.

    - CounterFact (Meng et al. 2022, section 3.2): ``ES EM PS PM NS NM`` and the exact matches ``EA PA NA``.
    - Wei et al. (2024), equation 6: ``reliability``: the new object is the argmax, whole. ``generality``: the same on paraphrases alone;
      ``joint_generality``, their equation 7: on the paraphrase *and* on the edited prompt.
    - EasyEdit and zsRE: ``token_reliability``, ``token_generality``, ``token_specificity``: the part of the object's tokens that are the argmax
      (the true object's on neighbours); ``locality``: the part of neighbours' tokens where the argmax has not changed.
    - Hase et al. (2023), section 5: ``hase_rewrite``, ``hase_paraphrase``, ``hase_neighbourhood``, ``hase_erasure``; as their program takes them
      (`HaseVariant`): ``hase2023_rewrite``, ``hase2023_paraphrase``, ``hase2023_neighbourhood``, ``hase2023_overall``, ``hase2023_erasure``.

    Example:
        >>> sure = Candidates(Answer(0.0, (4,), (4,)), Answer(5.0, (3,), (4,)))
        >>> scores = case_scores({}, {"rewrite": [sure], "neighbourhood": [sure]})
        >>> scores["ES"], scores["NS"], round(scores["EM"]), scores["reliability"]
        (100.0, 0.0, 99, 100.0)
    """
    scores = _counterfact(after)
    rewrite, paraphrase, near = (after.get(kind, []) for kind in ("rewrite", "paraphrase", "neighbourhood"))
    scores |= {"reliability": scores["EA"], "generality": scores["PA"]}
    written = bool(rewrite) and all(row.new.exact for row in rewrite)
    scores["joint_generality"] = _percent([float(written and row.new.exact) for row in paraphrase])
    scores["token_reliability"] = _percent([row.new.share for row in rewrite])
    scores["token_generality"] = _percent([row.new.share for row in paraphrase])
    scores["token_specificity"] = _percent([row.true.share for row in near])
    pairs = list(zip(before.get("neighbourhood", []), near, strict=False))
    scores["locality"] = _percent([agreement(b.true.predicted, a.true.predicted) for b, a in pairs])
    return scores | _hase(before, after)


def _counterfact(after: Reading) -> dict[str, float]:
    """ES and PS: the new object is the likelier; NS: the true one is. Magnitudes are differences of ``exp(-nll)`` in the same direction.

    Where both are the same (zsRE's right answers) there is nothing to compare.
    """
    scores: dict[str, float] = {}
    for letter, kind in (("E", "rewrite"), ("P", "paraphrase"), ("N", "neighbourhood")):
        rows, sign = after.get(kind, []), -1 if kind == "neighbourhood" else 1
        apart = [row for row in rows if row.new.tokens != row.true.tokens]
        scores[letter + "S"] = _percent([float(sign * (row.true.nll - row.new.nll) > 0) for row in apart])
        scores[letter + "M"] = _percent([sign * (np.exp(-row.new.nll) - np.exp(-row.true.nll)) for row in apart])
        scores[letter + "A"] = _percent([float((row.true if kind == "neighbourhood" else row.new).exact) for row in rows])
    return scores


def _hase(before: Reading, after: Reading) -> dict[str, float]:
    """Hase et al.'s scores in percent, ours and the program's."""
    ours, theirs = hase_scores(before, after), hase_scores(before, after, variant="hase2023")
    erased, erased_2023 = (hase_scores(before, after, variant=variant, erase=True)["rewrite"] for variant in ("ours", "hase2023"))
    scores = {f"hase_{name}": ours[name] for name in ("rewrite", "paraphrase", "neighbourhood")} | {"hase_erasure": max(erased, 0.0)}
    scores |= {f"hase2023_{name}": value for name, value in theirs.items()} | {"hase2023_erasure": erased_2023}
    return {name: 100 * value for name, value in scores.items()}


@public
def hase_scores(before: Reading, after: Reading, *, variant: HaseVariant = "ours", erase: bool = False) -> dict[str, float]:
    """What an edit did, in the scores of Hase et al. (2023, section 5): parts of 1, NaN where a kind has no prompt.

    ``rewrite`` and ``paraphrase`` say how much of the way to 1 the new object's probability went, ``(p' - p) / (1 - p)``; for erasure how much of
    the true object's is gone, ``(p - p') / p``. ``neighbourhood`` is ``1 - |p' - p| / (.5 + |p - .5|)``, and ``overall`` the mean of the three.

    Args:
        before, after: candidates by kind of prompt, on the unedited and on the edited model, in the same order.
        variant: ``"ours"``, or ``"hase2023"`` for the program's.
        erase: score the erasure of the true object.

    Raises:
        InputError: an unknown variant.

    Example:
        >>> def says(p): return Candidates(Answer(-math.log(p), (4,), (4,)), Answer(-math.log(1 - p), (3,), (4,)))
        >>> before, after = {"rewrite": [says(0.2)], "paraphrase": [says(0.5)]}, {"rewrite": [says(0.6)], "paraphrase": [says(0.4)]}
        >>> [round(hase_scores(before, after, variant=v)["rewrite"], 9) for v in ("ours", "hase2023")]
        [0.5, 0.5]
        >>> [round(hase_scores(before, after, variant=v)["paraphrase"], 9) for v in ("ours", "hase2023")]
        [-0.2, 2e-08]
    """
    check_choice("variant", variant, HaseVariant)
    program = variant == "hase2023"

    def mean(kind: str, score: Callable[[Candidates, Candidates], float], least: float = -math.inf) -> float:
        pairs = list(zip(before.get(kind, []), after.get(kind, []), strict=False))
        values = [score(old, new) for old, new in (pairs[:1] if program else pairs)]
        return float(np.mean([max(value, least) if program else value for value in values])) if values else float("nan")

    def kept(old: Candidates, new: Candidates) -> float:
        p, now = (answer.new.probability if program else answer.true.probability for answer in (old, new))
        return 1 - abs(now - p) / (0.5 + abs(p - 0.5))

    changed, least = (_erased, 0.0) if erase else (_risen, LEAST_HASE)
    scores = {
        "rewrite": mean("rewrite", changed, least),
        "paraphrase": mean("paraphrase", changed, least),
        "neighbourhood": mean("neighbourhood", kept),
    }
    return scores | {"overall": float(np.mean(list(scores.values())))}


def _risen(old: Candidates, new: Candidates) -> float:
    return (new.new.probability - old.new.probability) / max(1 - old.new.probability, HARDLY)


def _erased(old: Candidates, new: Candidates) -> float:
    return (old.true.probability - new.true.probability) / max(old.true.probability, HARDLY)


def _percent(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values)) if len(values) else float("nan")


def read_candidates(model: HookedModel, case: EditCase) -> dict[str, list[Candidates]]:
    """Both candidates after every prompt of a case, by kind of prompt.

    A neighbour's true object is its own (in CounterFact the edited fact's old one; FactLM's cases fill up with others).
    """
    prompts: list[tuple[str, Prompt, str]] = [("rewrite", Prompt.from_fact(model, case.fact), case.fact.target)]
    prompts += [("paraphrase", Prompt.from_fact(model, fact), case.fact.target) for fact in case.paraphrases]
    prompts += [("neighbourhood", _prompt_of(model, neighbour), neighbour.target) for neighbour in case.neighbourhood]
    answers = read_answers(model, [(prompt, target_tokens(model, answer)) for _, prompt, true in prompts for answer in (case.target_new, true)])
    candidates: dict[str, list[Candidates]] = {kind: [] for kind in ("rewrite", "paraphrase", "neighbourhood")}
    for i, (kind, _, _) in enumerate(prompts):
        candidates[kind].append(Candidates(answers[2 * i], answers[2 * i + 1]))
    return candidates


def _prompt_of(model: HookedModel, neighbour: Fact | Statement) -> Prompt:
    return Prompt.from_fact(model, neighbour) if isinstance(neighbour, Fact) else Prompt.from_text(model, neighbour.text)


@public
def read_answers(model: AnyModel, pairs: Sequence[tuple[Prompt, tuple[int, ...]]], *, hooks: Hooks | None = None) -> list[Answer]:
    """Answers after prompts, teacher-forced; those of equal lengths run together.

    A masked model answers at its mask, with one token; an encoder with a decoder in its decoder, after the start token (and without ``</s>``).

    Args:
        pairs: each prompt with the tokens of an answer.
        hooks: of the runs; they see the rows of a group.

    Raises:
        TargetError, PromptError: an answer of several tokens at a mask, or what does not fit the model.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> tlk.evaluation.read_answers(model, [(prompt, prompt.answer)])[0].exact
        True
    """
    model = as_model(model, masked=True, encoder_decoder=True)
    for prompt, answer in pairs:
        check_fits(model, replace(prompt, answer=answer), multi_token=True)
    answers: dict[int, Answer] = {}
    keys = [(len(prompt), prompt.last.last, len(answer), answered_from(model, prompt.tokens)) for prompt, answer in pairs]
    for group in equal_groups(keys):
        targets = torch.tensor([pairs[i][1] for i in group], device=pairs[group[0]][0].tokens.device)
        tokens = torch.cat([torch.cat([pairs[i][0].tokens for i in group]), targets[:, :-1]], dim=1)
        first = pairs[group[0]][0].last.last
        logits = logits_at(model, tokens, range(first, first + targets.shape[1]), hooks or [])
        nll = -logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0].mean(1)
        for i, value, predicted in zip(group, nll.tolist(), logits.argmax(-1).tolist(), strict=True):
            answers[i] = Answer(value, tuple(pairs[i][1]), tuple(predicted))
    return [answers[i] for i in range(len(pairs))]
