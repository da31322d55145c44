"""An edit as circuitsvis views, in notebooks and as a page; they work offline."""

from __future__ import annotations

import torch
from circuitsvis.logits import token_log_probs

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.drawing import HtmlView, ViewPage
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.routed import RoutedEdit
from tl_knowledge.engine.forward import run_model
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, model_name
from tl_knowledge.prompts.prompt import Prompt, check_fits

__all__ = ["edit_view"]

TOP = 10


@public
def edit_view(model: AnyModel, prompt: Prompt, edit: Edit | RoutedEdit) -> ViewPage:
    """Log-probabilities of a text's tokens before and after an edit; hovering shows the most probable ones.

    Args:
        prompt: what is read; its target, where it has one, follows it and is scored with it. The first token is predicted from nothing and
            not shown.

    Raises:
        ModelStateError: the edit is written into the model, so there is no "before".
        ModelError, PromptError: arguments that do not fit.
    """
    model = as_model(model)
    edit.check_not_written(model)
    check_fits(model, prompt, multi_token=True)
    tokens = torch.cat([prompt.tokens[0], prompt.tokens.new_tensor(prompt.answer)])
    views = [_log_probabilities(model, tokens, hooks, f"{when} the edit") for when, hooks in (("Before", []), ("After", edit.hooks()))]
    return ViewPage("Token log-probabilities", views)


def _log_probabilities(model: HookedModel, tokens: torch.Tensor, hooks: Hooks, title: str) -> HtmlView:
    with torch.no_grad():
        # The last token is only predicted; running it would need a longer context than the prompt's.
        logits: torch.Tensor = run_model(model, tokens[None, :-1], hooks)
    log_p = logits[0].float().log_softmax(-1).cpu()
    padded = torch.cat([log_p, log_p[-1:]])  # circuitsvis drops the last row

    def to_string(token: int) -> str:
        return str(model.tokenizer.decode([token])) if model.tokenizer else str(token)

    rendered = token_log_probs(tokens.cpu(), padded, to_string, top_k=min(TOP, log_p.shape[1]))
    return HtmlView.of(
        rendered, title=title, note=f"the redder, the more probable given the tokens before it; hover for log-probabilities; {model_name(model)}"
    )
