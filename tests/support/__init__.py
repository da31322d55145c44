"""What several test files share; a test file never imports another one."""

from support.models import (
    BUILDERS,
    MASKED_BUILDERS,
    VOCABULARY,
    bert_directory,
    build,
    fingerprint,
    hooks_left,
    t5_directory,
    tokenizer_of_sixty_words,
)

__all__ = [
    "BUILDERS",
    "MASKED_BUILDERS",
    "VOCABULARY",
    "bert_directory",
    "build",
    "fingerprint",
    "hooks_left",
    "t5_directory",
    "tokenizer_of_sixty_words",
]
