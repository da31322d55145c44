"""How much work a circuit will be, counted before it is done: from its candidates, and from how many of them it may keep."""

from __future__ import annotations

from collections.abc import Sequence

from tl_knowledge.circuits.settings import CircuitSettings
from tl_knowledge.engine.forecast import counted_work
from tl_knowledge.engine.narrowing import may_narrow
from tl_knowledge.engine.rows import growing_rows_refusal
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs.contrast import Contrast
from tl_knowledge.runs.nodes import Node, stage
from tl_knowledge.runs.windows import unit_count

__all__ = ["STEPS", "circuit_work"]

STEPS = 6  # sets of sites whose shares are measured, usually
PAIRED = 100  # candidates of which it is counted how many can reach each other


def circuit_work(contrast: Contrast, candidates: Sequence[Node], settings: CircuitSettings, fixed: Sequence[Node] = ()) -> dict[str, float]:
    """Floating-point operations of each part, by name, in order.

    A run of one site runs every later block from its position on; all blocks, or all positions, where the model does not allow for less. Which sites
    are kept is not known yet: their runs count as much as a candidate's do on average, and as many of their pairs can reach each other as of the
    candidates.
    """
    model, n_layers, length = contrast.model, layer_count(contrast.model), contrast.tokens.shape[1]
    nodes = [*fixed, *candidates] or list(contrast.sources)
    whole, everywhere = bool(growing_rows_refusal(model)), not may_narrow(model)
    each = sum(_passes(node, n_layers, length, whole, everywhere) for node in nodes) / len(nodes)
    kept = min(settings.limit, len(candidates)) + len(fixed)
    some = nodes[:: max(1, len(nodes) // PAIRED)]
    reaching = sum(stage(a) < stage(b) and a.pos <= b.pos for a in some for b in some) / len(some) ** 2
    pairs = kept * (1 + reaching * kept + len(contrast.sources)) + len(contrast.sources)
    heads = kept * unit_count(model, "head") * sum(node.component == "attn_out" for node in nodes) / len(nodes)
    rounds = 2 if settings.rank == "either" else 1
    runs = {
        "sites": (rounds * len(candidates), each),
        "edges": (pairs, each),
        "needs": (pairs, each if whole or everywhere else kept / 4),  # all else is held: about half of the sites, half a block each
        "shares": (3 * STEPS, length * n_layers / (1 if whole else 2)),
        "heads": (heads + kept, each),
    }
    return {name: counted_work(model, contrast.samples * count * passes, contrast.samples * count) for name, (count, passes) in runs.items()}


def _passes(node: Node, n_layers: int, length: int, whole: bool, everywhere: bool) -> float:
    """How often a token goes through a block in a run that changes one site."""
    return (length if whole or everywhere else length - node.pos) * (n_layers if whole else n_layers - node.layer - 0.5)
