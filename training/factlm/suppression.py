"""What does suppressing the neurons that a fact has at its subject's last token cost this fact, and others?"""

from __future__ import annotations

import tl_knowledge as tlk


def measure_suppression(model, count: int) -> dict[str, dict[str, float]]:
    """Relative change of P(object), with its interval over facts: the fact itself, random neurons of the same layers, facts of other relations."""
    known = tlk.known_facts(model, tlk.sample_facts(tlk.load_facts("factlm"), 2 * count, seed=3), progress=False)[:count]
    groups = tlk.neurons.fact_groups(model, known, own_wording=False)
    located = tlk.locate_neurons(model, groups, shared_by=0.5, at="subject", progress=False)
    effects = tlk.neurons.measure_neuron_effects(model, known, factor=0.0, located=located, progress=False)
    return {str(row["what"]): {name: row[name] for name in ("change", "low", "high", "facts")} for row in effects.summary().to_dict(orient="records")}
