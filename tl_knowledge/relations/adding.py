"""Add a vector to the residual stream: how a relation's edit, and a relation's vector, are run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks, as_positions
from tl_knowledge.door import public
from tl_knowledge.errors import ComponentError
from tl_knowledge.hooks.writing import check_not_alone
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.wording import counted

__all__ = ["add_vector"]


@public
def add_vector(vector: Float[torch.Tensor, " d_model"], *, layer: int, positions: int | Iterable[int]) -> Hooks:
    """Add a vector to what leaves a block, at some positions of every row.

    Args:
        vector: what is added.
        layer: the block.
        positions: one or several, negative ones from the end.

    Returns:
        One hook, on ``hook_resid_post``.

    Raises:
        ComponentError: no position; on running, a vector of another width, or a position outside the prompt, or any
            position at a step of ``generate`` with a cache.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> hooks = tlk.relations.add_vector(torch.zeros(model.cfg.d_model), layer=3, positions=-1)
        >>> bool((model.run_with_hooks("Rome is", fwd_hooks=hooks) == model("Rome is")).all())
        True
    """
    at, lengths = list(as_positions(positions)), list[int]()
    if not at:
        raise ComponentError("no position was given to add the vector at; pass at least one.")

    def add(states: torch.Tensor, *, hook: object) -> torch.Tensor:
        if len(vector) != states.shape[-1]:
            raise ComponentError(f"a vector of {counted(len(vector), 'number')} does not fit states of {states.shape[-1]}; it is of another model.")
        check_not_alone(states, at, lengths)
        outside = [position for position in at if not -states.shape[1] <= position < states.shape[1]]
        if outside:
            raise ComponentError(
                f"position {outside[0]} is outside the {counted(states.shape[1], 'token')} that run; pass positions inside the prompt."
            )
        changed = states.clone()
        changed[:, at] += vector.to(states)
        return changed

    return [(block_output(layer), add)]
