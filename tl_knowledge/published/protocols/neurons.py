"""Protocols of knowledge neurons: facts, punctuation and grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.datasets import BLIMP_SAMPLE, MinimalPair, load_blimp, load_corpus
from tl_knowledge.models.protocol import is_masked
from tl_knowledge.neurons import (
    Adaptation,
    AttributionVariant,
    LocatedNeurons,
    NeuronSet,
    PromptGroup,
    agreement_groups,
    compare_layers,
    determiner,
    fact_groups,
    locate_neurons,
    measure_neuron_effects,
    measure_reliability,
    measure_token_effects,
    punctuation_groups,
    single_token_words,
)
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.published.protocol import Measured, Protocol, number
from tl_knowledge.published.workbench import Workbench

__all__ = [
    "AgreementProtocol",
    "LayerShareProtocol",
    "LocationProtocol",
    "NeuronEffectProtocol",
    "PunctuationProtocol",
    "ReliabilityProtocol",
    "WordProtocol",
]

PARADIGMS = {
    "determiner_noun_agreement_1": "det_n_agr_1",
    "determiner_noun_agreement_2": "det_n_agr_2",
    "determiner_noun_agreement_irregular_1": "dna_irr_1",
    "determiner_noun_agreement_irregular_2": "dna_irr_2",
    "determiner_noun_agreement_with_adjective_1": "dna_w_adj_1",
    "determiner_noun_agreement_with_adj_2": "dna_w_adj_2",
    "determiner_noun_agreement_with_adj_irregular_1": "dna_w_adj_irr_1",
    "determiner_noun_agreement_with_adj_irregular_2": "dna_w_adj_irr_2",
}
PAIRS = 100  # of a paradigm, at most
NUMBER = {"this": "singular", "that": "singular", "these": "plural", "those": "plural"}
NEUTRAL = ("the", "a", "and", "in", "is", "was", "of", "with", "English", "Paris")


@dataclass(frozen=True)
class _Located(Protocol):
    """Settings that all neuron protocols share.

    Attributes:
        threshold: of the attribution, as a share of the prompt's largest.
        shared_by: share of prompts that must have a neuron.
        adapt: whether the share moves until the count is right.
        variant: whose attribution.
        steps: of the integral.
    """

    threshold: float = 0.3
    shared_by: float = 0.5
    adapt: Adaptation = "no"
    variant: AttributionVariant = "ours"
    steps: int = 20

    def locate(self, bench: Workbench, groups: Sequence[PromptGroup], step: str = "neurons") -> LocatedNeurons:
        """The groups' neurons."""
        with bench.timed("attribution"):
            return locate_neurons(
                bench.asked,
                groups,
                threshold=self.threshold,
                shared_by=self.shared_by,
                adapt=self.adapt,
                variant=self.variant,
                steps=self.steps,
                store=bench.part(step),
                runner=bench.runner,
                workers=bench.workers,
                progress=bench.progress,
            )


@dataclass(frozen=True)
class NeuronEffectProtocol(_Located):
    """Suppress or enhance each fact's neurons: what happens to it, to unrelated facts, and under random neurons.

    Attributes:
        factor: 0 suppresses, 2 enhances.
        effect: the change of the probability, relative or absolute.
        same_prompts: whether neurons are measured on the prompts that they were attributed on, as the programs do.
    """

    factor: float = 0.0
    effect: Literal["relative", "absolute"] = "relative"
    same_prompts: bool = True

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Mean change of each kind, and of each relation's own facts."""
        effects = measure_neuron_effects(
            bench.model,
            bench.facts(),
            factor=self.factor,
            threshold=self.threshold,
            shared_by=self.shared_by,
            variant=self.variant,
            same_prompts=self.same_prompts,
            steps=self.steps,
            progress=bench.progress,
        )
        rows = [
            number(r["what"], f"{self.effect} change", 100 * r["change"], low=100 * r["low"], high=100 * r["high"], n=r["facts"])
            for r in effects.summary(effect=self.effect).to_dict(orient="records")
        ]
        own = effects.by_relation(effect=self.effect).query("what == 'own fact'")
        rows += [
            number(f"relation {r['relation']}", f"{self.effect} change", 100 * r["change"], low=100 * r["low"], high=100 * r["high"], n=r["facts"])
            for r in own.to_dict(orient="records")
        ]
        return Measured(rows, [effects.plot(effect=self.effect)])


@dataclass(frozen=True)
class LayerShareProtocol(_Located):
    """Where knowledge neurons lie, by layer."""

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Each layer's share of the neurons, and how many a fact has."""
        located = self.locate(bench, fact_groups(bench.model, bench.facts()))
        comparison = compare_layers({bench.model.cfg.model_name: located})
        shares = located.layer_distribution()
        rows = [number(f"layer {r['layer']}", "share", 100 * r["share"], n=len(located.sets)) for r in shares.to_dict(orient="records")]
        return Measured([*rows, _mean_count(located)], [comparison.plot()])


@dataclass(frozen=True)
class LocationProtocol(_Located):
    """How many neurons a fact has, how widely its prompts share them, and how much one pattern explains, by relation."""

    @override
    def measure(self, bench: Workbench) -> Measured:
        """``|KN|``, tau and R1^2 of every relation, and how many neurons pairs of facts share."""
        located = self.locate(bench, fact_groups(bench.model, bench.facts()))
        rows = [_mean_count(located), *_statistics(located)]
        rows += _shared_by_pairs(located)
        return Measured(rows, [located.plot(), located.plot_overlap()])


@dataclass(frozen=True)
class PunctuationProtocol(_Located):
    """Neurons that predict a sentence's last mark.

    Attributes:
        sentences: of a mark, at most.
    """

    sentences: int = 200

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Each mark's neurons: how many, and the one that leads."""
        texts = load_corpus() if bench.own_data else load_corpus("wikitext", limit=20_000)
        sentences = [s for s in re.split(r"(?<=[.!?,;])\s+", " ".join(texts)) if 3 < len(s.split()) < 25]
        groups = punctuation_groups(bench.model, sentences, limit=min(self.sentences, bench.limit))
        located = self.locate(bench, groups)
        rows = [
            number(f"mark {r['name']}", column, float(r[column]), n=int(r["prompts"]))
            for r in located.table.to_dict(orient="records")
            for column in ("neurons", "share", "probability")
        ]
        shared = set.intersection(*(set(neurons) for neurons in located.sets))
        rows.append(number("all marks", "shared neurons", len(shared), n=len(groups)))
        notes = [f"neurons of {str(name)!r}: {_listed(located[str(name)])}" for name in located.table["name"]]
        absent = [mark for mark in (".", ",", "!", "?", ";") if mark not in set(located.table["name"])]
        return Measured(rows, [located.plot()], notes + ([f"no sentence ends in {' '.join(absent)}"] if absent else []))


@dataclass(frozen=True)
class AgreementProtocol(_Located):
    """Neurons of determiner-noun agreement: their statistics by paradigm."""

    threshold: float = 0.2
    shared_by: float = 0.7
    adapt: Adaptation = "group"

    @override
    def measure(self, bench: Workbench) -> Measured:
        """``|KN|``, tau and R1^2 of every paradigm that the model can be asked about."""
        pairs, notes = agreement_pairs(bench)
        located = self.locate(bench, agreement_groups(bench.model, pairs, by=determiner, limit=bench.limit))
        rows = [row | {"row": PARADIGMS.get(row["row"], row["row"])} for row in _statistics(located)]
        return Measured(rows, [located.plot()], notes)


@dataclass(frozen=True)
class ReliabilityProtocol(AgreementProtocol):
    """Does suppressing a pair's neurons overturn which sentence is the likelier?"""

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Right before and after, by paradigm."""
        pairs, notes = agreement_pairs(bench)
        located = self.locate(bench, agreement_groups(bench.model, pairs, by=determiner, limit=bench.limit))
        there = set(located.table["relation"])
        reliability = measure_reliability(bench.model, [p for p in pairs if p.paradigm in there], located, by=determiner, progress=bench.progress)
        rows: list[dict[str, Any]] = []
        for r in reliability.summary().to_dict(orient="records"):
            name = PARADIGMS.get(str(r["paradigm"]), str(r["paradigm"]))
            rows += [number(name, column, 100 * float(r[key]), n=int(r["pairs"])) for column, key in (("pre-edit", "before"), ("post-edit", "after"))]
        return Measured(rows, [reliability.plot()], notes)


@dataclass(frozen=True)
class WordProtocol(AgreementProtocol):
    """What suppressing the singular and the plural neurons does to words of each number."""

    @override
    def measure(self, bench: Workbench) -> Measured:
        """The mean effect by category of words, for both neuron sets."""
        pairs, notes = agreement_pairs(bench)
        usable = [p for p in pairs if len(single_token_words(bench.model, [p.word_good, p.word_bad])) == 2]
        prompts = {n: self._prompts(bench, usable, n) for n in ("singular", "plural")}
        located = self.locate(bench, [PromptGroup("number", n, tuple(p)) for n, p in prompts.items()])
        words: dict[str, list[str]] = {
            n: sorted({p.word_good if NUMBER[determiner(p)] == n else p.word_bad for p in usable}) for n in ("singular", "plural")
        }
        words["neutral"] = single_token_words(bench.model, NEUTRAL)
        rows: list[dict[str, Any]] = []
        figures: list[go.Figure] = []
        for n in ("singular", "plural"):
            if not len(located[n]):
                notes.append(f"no {n} neurons")
                continue
            effects = measure_token_effects(bench.model, prompts[n], words, located[n], progress=bench.progress)
            rows += [
                number(f"{n} neurons suppressed: {r['category']} words", "effect", r["effect"], low=r["low"], high=r["high"], n=r["words"])
                for r in effects.summary().to_dict(orient="records")
            ]
            figures.append(effects.plot(name=f"the {n} neurons"))
        return Measured(rows, figures, notes)

    def _prompts(self, bench: Workbench, pairs: Sequence[MinimalPair], n: str) -> list[Prompt]:
        return [Prompt.from_text(bench.model, p.prefix or "", target=f" {p.word_good}") for p in pairs if NUMBER[determiner(p)] == n][: bench.limit]


def agreement_pairs(bench: Workbench) -> tuple[list[MinimalPair], list[str]]:
    """Determiner-noun pairs of every paradigm that the model can be asked about, and what was left out."""
    source = str(BLIMP_SAMPLE) if bench.own_data else bench.place or bench.data.place
    asked = {name: short for name, short in PARADIGMS.items() if is_masked(bench.model) or name.endswith("_1")}
    pairs: list[MinimalPair] = []
    for paradigm in asked:
        pairs += load_blimp(str(source), paradigm=paradigm, limit=PAIRS)
    left = [short for name, short in PARADIGMS.items() if name not in asked]
    return pairs, [f"paradigms {', '.join(left)} need a masked model"] if left else []


def _statistics(located: LocatedNeurons) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for r in located.statistics().to_dict(orient="records"):
        rows += [number(str(r["relation"]), column, float(r[column]), n=int(r["groups"])) for column in ("KN", "tau", "R1^2")]
    return rows


def _mean_count(located: LocatedNeurons) -> dict[str, Any]:
    return number("all facts", "neurons a fact", float(located.table["neurons"].mean()), n=len(located.sets))


def _shared_by_pairs(located: LocatedNeurons) -> list[dict[str, Any]]:
    """How many neurons two facts share, of one relation and of two (Dai et al. 2022, table 3)."""
    relations, sets = list(located.table["relation"]), [set(neurons) for neurons in located.sets]
    shared: dict[bool, list[int]] = {True: [], False: []}
    for i, j in combinations(range(len(sets)), 2):
        shared[relations[i] == relations[j]].append(len(sets[i] & sets[j]))
    names = {True: "two facts of one relation", False: "two facts of two relations"}
    return [number(names[same], "neurons in common", sum(counts) / len(counts), n=len(counts)) for same, counts in shared.items() if counts]


def _listed(neurons: NeuronSet) -> str:
    return ", ".join(f"layer {layer} index {index}" for layer, index in list(neurons)[:5]) or "none"
