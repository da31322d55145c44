"""The fact that a tab's marks make of its prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tl_knowledge.errors import SubjectNotFoundError
from tl_knowledge.explore.state import ExplorerState
from tl_knowledge.prompts.spans import template_of

__all__ = ["fact_marked"]


def fact_marked(labels: Sequence[str], state: ExplorerState) -> tuple[str, str]:
    """Subject and template.

    Args:
        labels: the prompt's tokens, BOS counted. Some tokenizers' tokens do not say whether a space is before them.

    Raises:
        SubjectNotFoundError: no subject is marked, or its tokens are no words that stand in the prompt once.
        PromptError: the prompt has ``{}`` of its own.

    Example:
        >>> fact_marked(["BOS", "The", " capital", " of", " France", " is"], ExplorerState("The capital of France is", subject=(4, 5)))
        ('France', 'The capital of {} is')
    """
    if state.subject is None:
        raise SubjectNotFoundError("no subject is marked; click the first and, with Shift, the last token of whom or what the fact is about.")
    marked = [label.strip() for label in labels[slice(*state.subject)]]
    found = re.findall(r"\s*".join(map(re.escape, marked)), state.prompt) if any(marked) else []
    if len(found) != 1 or not found[0].strip():
        shown = "".join(labels[slice(*state.subject)]).strip()
        raise SubjectNotFoundError(f"the marked subject {shown!r} stands {len(found)} times in the prompt; mark whole words that stand there once.")
    subject = found[0].strip()
    return subject, template_of(state.prompt, subject)
