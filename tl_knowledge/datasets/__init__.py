"""Facts, edit cases and corpora by name. This release ships FactLM's own."""

from tl_knowledge.datasets.bundled import load_corpus, load_edit_cases, load_facts, load_relations, paraphrases

__all__ = ["load_corpus", "load_edit_cases", "load_facts", "load_relations", "paraphrases"]
