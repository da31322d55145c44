"""circuitsvis views of traces and edits; they work offline, in notebooks and as pages."""

from __future__ import annotations

import torch
from circuitsvis.logits import token_log_probs
from circuitsvis.tokens import colored_tokens

from tl_knowledge.arrays import Hooks
from tl_knowledge.drawing import HtmlView, ViewPage
from tl_knowledge.editing import Edit
from tl_knowledge.errors import ComponentError, ModelStateError
from tl_knowledge.model import HookedModel, check_model, describe_model
from tl_knowledge.prompts import Prompt, check_fits
from tl_knowledge.tracing import CausalTrace

__all__ = ["edit_view", "effect_view"]

TOP = 10


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
        >>> view = tlk.effect_view(tlk.trace(model, prompt, samples=2, progress=False))
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
        f"{trace.component}{severed}, {where}: indirect effect on P({trace.target.strip()!r}), {trace.corrupted.name} corrupted; "
        f"full colour is {bound:.3f}, the total effect {float(trace.total_effect.mean()):.3f}; "
        f"{len(trace.total_effect)} noise samples; {trace.provenance.model}; hover for values"
    )
    return HtmlView.of(rendered, title="Tokens by indirect effect", note=note)


def edit_view(model: HookedModel, edit: Edit, prompt: Prompt) -> ViewPage:
    """Log-probabilities of a text's tokens before and after an edit; hovering shows the most probable ones.

    Args:
        prompt: what is read; its target, where it has one, stands behind it and is scored with it. The first token is predicted from nothing
            and not shown.

    Raises:
        ModelStateError: the edit is written into the model, so there is no "before".
        ModelError, PromptError: arguments that do not fit.
    """
    check_model(model)
    if edit.is_written_into(model):
        raise ModelStateError("the edit is written into this model, so there is no unedited run; edit.revert(model) first.")
    check_fits(model, prompt, multi_token=True)
    tokens = torch.cat([prompt.tokens[0], prompt.tokens.new_tensor(prompt.answer)])
    name = describe_model(model)["model"]
    views = [_log_probabilities(model, tokens, hooks, f"{when} the edit", name) for when, hooks in (("Before", []), ("After", edit.hooks()))]
    return ViewPage("Token log-probabilities", views)


def _log_probabilities(model: HookedModel, tokens: torch.Tensor, hooks: Hooks, title: str, name: str) -> HtmlView:
    with torch.no_grad():
        # The last token is only predicted; running it would need a longer context than the prompt's.
        logits: torch.Tensor = model.run_with_hooks(tokens[None, :-1], fwd_hooks=hooks)
    known = logits[0].float().log_softmax(-1).cpu()
    padded = torch.cat([known, known[-1:]])  # circuitsvis drops the last row

    def to_string(token: int) -> str:
        return str(model.tokenizer.decode([token])) if model.tokenizer else str(token)

    rendered = token_log_probs(tokens.cpu(), padded, to_string, top_k=min(TOP, known.shape[1]))
    return HtmlView.of(rendered, title=title, note=f"the redder, the more probable given the tokens before it; hover for log-probabilities; {name}")
