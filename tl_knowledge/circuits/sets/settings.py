"""How a fact set's circuit was built, as a value; and what its nodes are."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.circuits.settings import Rank, check_words
from tl_knowledge.door import public
from tl_knowledge.errors import ComponentError, CorruptionError, check_choice
from tl_knowledge.models.hook_names import NodeComponent
from tl_knowledge.runs.arguments import sample_count
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.nodes import Node
from tl_knowledge.runs.roles import ROLES, SIDES, Role, Side

__all__ = ["SITES", "FactSetSettings", "RoleNode"]

SITES: tuple[NodeComponent, ...] = ("resid_post", "mlp_out", "attn_out")


@public
@dataclass(frozen=True)
class RoleNode:
    """A component of one layer at a token's role: in every fact, the sites at the tokens that have the role there.

    Attributes:
        component: ``"mlp_out"``, ``"attn_out"`` or ``"resid_post"``.
        layer: the block.
        role: of the token, for example ``"last subject token"``; some roles stand for several tokens, or for none.

    Example:
        >>> RoleNode("mlp_out", 0, "last subject token").name
        'MLP 0 at the last subject token'
    """

    component: NodeComponent
    layer: int
    role: Role

    def __post_init__(self) -> None:
        check_choice("component", self.component, SITES, ComponentError)
        check_choice("role", self.role, ROLES, ComponentError)

    @property
    def name(self) -> str:
        """The node in words."""
        return f"{Node(self.component, self.layer, 0).name} at the {self.role}"


@dataclass(frozen=True)
class FactSetSettings:
    """Everything that decides the numbers of a fact set's circuit but the model and the facts.

    Attributes:
        corrupt: the corrupted side; its roles are those of the nodes.
        components: what could be a node.
        limit: how many nodes, at most.
        rank: what they were ranked by.
        metric: what effects and needs are measured in.
        noise: how embeddings were corrupted; its own seed is not set, because every fact has one.
        samples: noise draws.
        seed: of the set: each fact's noise comes from it and the fact's text.
        known_only: whether facts that the model does not predict were left out.

    Raises:
        ComponentError, CorruptionError: one of them out of range.
    """

    corrupt: Side
    components: tuple[NodeComponent, ...]
    limit: int
    rank: Rank
    metric: Metric
    noise: Noise
    samples: int
    seed: int
    known_only: bool

    def __post_init__(self) -> None:
        check_choice("corrupt", self.corrupt, SIDES, CorruptionError)
        if not self.components:
            raise ComponentError("components=() leaves no node; pass 'mlp_out', 'attn_out' or both.")
        for component in self.components:
            if component in ("head", "neuron"):
                raise ComponentError(f"a fact set's circuit is of states or modules, not {component}s; take these fact by fact, with from_trace().")
            check_choice("components", component, SITES, ComponentError)
        if "resid_post" in self.components and len(self.components) > 1:
            raise ComponentError("'resid_post' holds what modules write, so that both cannot be nodes; pass components='resid_post' alone.")
        check_words(self.limit, self.rank, 0.0)
        sample_count(self.samples, self.noise)
