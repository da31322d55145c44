"""``python -m tl_knowledge``."""

from tl_knowledge.cli import main

main()
