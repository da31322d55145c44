"""What one edit did, in CounterFact's terms: pure numbers from the candidates' negative log-likelihoods.

For every prompt two candidates are compared, the new object and the true one, by their mean negative log-likelihood per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tl_knowledge.batches import equal_groups
from tl_knowledge.facts import EditCase, Fact, Statement
from tl_knowledge.model import HookedModel
from tl_knowledge.prompts import Prompt, target_tokens
from tl_knowledge.rows import keep_positions

__all__ = ["METRICS", "CandidateScores", "case_scores", "score_candidates"]

METRICS = ("ES", "EM", "PS", "PM", "NS", "NM", "EA", "PA", "NA")
"""Efficacy, paraphrase and neighbourhood: success (S), magnitude (M), argmax accuracy (A)."""


@dataclass(frozen=True)
class CandidateScores:
    """Two candidates after one prompt.

    Attributes:
        new, true: mean negative log-likelihood per token.
        new_exact, true_exact: whether every token is the argmax, the earlier ones given.
    """

    new: float
    true: float
    new_exact: bool
    true_exact: bool


def case_scores(scores: Mapping[str, Sequence[CandidateScores]]) -> dict[str, float]:
    """One case's metrics from its prompts' scores, in percent; NaN where a kind has no prompt.

    ES and PS: the new object is the likelier; NS: the true one is. Magnitudes are differences of ``exp(-nll)`` in the same direction.

    Example:
        >>> sure = CandidateScores(new=0.0, true=5.0, new_exact=True, true_exact=False)
        >>> found = case_scores({"rewrite": [sure], "paraphrase": [sure], "neighbourhood": [sure]})
        >>> found["ES"], found["NS"], round(found["EM"])
        (100.0, 0.0, 99)
    """
    made: dict[str, float] = {}
    for letter, kind in (("E", "rewrite"), ("P", "paraphrase"), ("N", "neighbourhood")):
        rows, sign = scores.get(kind, []), -1 if kind == "neighbourhood" else 1
        exact = [row.true_exact if kind == "neighbourhood" else row.new_exact for row in rows]
        made[letter + "S"] = _percent([float(sign * (row.true - row.new) > 0) for row in rows])
        made[letter + "M"] = _percent([sign * (np.exp(-row.new) - np.exp(-row.true)) for row in rows])
        made[letter + "A"] = _percent([float(right) for right in exact])
    return made


def _percent(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values)) if len(values) else float("nan")


def score_candidates(model: HookedModel, case: EditCase) -> dict[str, list[CandidateScores]]:
    """Both candidates after every prompt of a case, by kind of prompt.

    A neighbour's true object is its own (in CounterFact the edited fact's old one; FactLM's cases fill up with others).
    """
    asked: list[tuple[str, Prompt, str]] = [("rewrite", Prompt.from_fact(model, case.fact), case.fact.target)]
    asked += [("paraphrase", Prompt.from_fact(model, fact), case.fact.target) for fact in case.paraphrases]
    asked += [("neighbourhood", _asked(model, neighbour), neighbour.target) for neighbour in case.neighbourhood]
    pairs = [(prompt, target_tokens(model, answer)) for _, prompt, true in asked for answer in (case.target_new, true)]
    found = _likelihoods(model, pairs)
    made: dict[str, list[CandidateScores]] = {kind: [] for kind in ("rewrite", "paraphrase", "neighbourhood")}
    for i, (kind, _, _) in enumerate(asked):
        (new, new_exact), (true, true_exact) = found[2 * i], found[2 * i + 1]
        made[kind].append(CandidateScores(new, true, new_exact, true_exact))
    return made


def _asked(model: HookedModel, neighbour: Fact | Statement) -> Prompt:
    return Prompt.from_fact(model, neighbour) if isinstance(neighbour, Fact) else Prompt.from_text(model, neighbour.text)


def _likelihoods(model: HookedModel, asked: Sequence[tuple[Prompt, tuple[int, ...]]]) -> list[tuple[float, bool]]:
    """Mean negative log-likelihood per token of an answer after a prompt, and whether all its tokens are argmaxes."""
    found: list[tuple[float, bool]] = [(float("nan"), False)] * len(asked)
    for group in equal_groups([(len(prompt), len(answer)) for prompt, answer in asked]):
        answers = torch.tensor([asked[i][1] for i in group], device=asked[group[0]][0].tokens.device)
        tokens = torch.cat([torch.cat([asked[i][0].tokens for i in group]), answers[:, :-1]], dim=1)
        first = len(asked[group[0]][0]) - 1
        positions = torch.arange(first, first + answers.shape[1], device=tokens.device)[None].expand(len(group), -1)
        with torch.no_grad():
            logits: torch.Tensor = model.run_with_hooks(tokens, fwd_hooks=keep_positions(positions))
        nll = -logits.double().log_softmax(-1).gather(-1, answers[..., None])[..., 0].mean(1)
        exact = (logits.argmax(-1) == answers).all(1)
        for i, value, right in zip(group, nll.tolist(), exact.tolist(), strict=True):
            found[i] = (value, right)
    return found
