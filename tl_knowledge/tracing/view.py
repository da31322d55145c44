"""A trace as a circuitsvis view, in notebooks and as a page; it works offline."""

from __future__ import annotations

from circuitsvis.tokens import colored_tokens

from tl_knowledge.door import public
from tl_knowledge.drawing import HtmlView
from tl_knowledge.errors import ComponentError
from tl_knowledge.tracing.result import CausalTrace
from tl_knowledge.wording import counted

__all__ = ["effect_view"]


@public
def effect_view(trace: CausalTrace, *, layer: int | None = None) -> HtmlView:
    """The prompt's tokens coloured by what restoring them gives back: violet-blue what raises the answer, red what lowers it.

    Args:
        layer: one layer; the largest effect over layers when ``None``.

    Raises:
        ComponentError: a layer that was not traced; a trace of heads or neurons, which has one more axis (plot() shows it).

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> view = tlk.tracing.effect_view(tlk.trace(model, prompt, samples=2, progress=False))
        >>> view.note.startswith("resid_post, largest over layers")
        True
    """
    if trace.units:
        raise ComponentError(f"a trace of {trace.component!r} has one value a unit, not one a token; use its plot(), or trace a state or module.")
    if layer is not None and layer not in trace.layers:
        raise ComponentError(f"layer {layer} was not traced; pass one of {list(trace.layers)}.")
    effects = trace.mean_effect.nan_to_num().T.float()
    if layer is None:
        shown = effects.gather(1, effects.abs().argmax(1, keepdim=True))[:, 0]
    else:
        shown = effects[:, trace.layers.index(layer)]
    # One bound for both signs: circuitsvis would otherwise paint the largest of either sign in full colour.
    bound = max(float(shown.abs().max()), 1e-9)
    rendered = colored_tokens(list(trace.labels), shown, min_value=-bound, max_value=bound)
    severed = f" ({' and '.join(trace.severed)} severed)" if trace.severed else ""
    where = "largest over layers" if layer is None else f"layer {layer}"
    note = (
        f"{trace.component}{severed}, {where}: indirect effect on {trace.metric.of_answer(trace.target)}, {trace.corrupted.name} corrupted; "
        f"full colour is {bound:.3f}, the total effect {float(trace.total_effect.mean()):.3f}; "
        f"{counted(len(trace.total_effect), 'noise sample')}; {trace.provenance.model}; hover for values"
    )
    return HtmlView.of(rendered, title="Tokens by indirect effect", note=note)
