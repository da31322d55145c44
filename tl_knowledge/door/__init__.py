"""The door of the package: what is passed to a public function is checked here, once, before anything is computed."""

from tl_knowledge.door.admission import converts, public
from tl_knowledge.door.words import shown

__all__ = ["converts", "public", "shown"]
