"""Facts, edit cases, minimal pairs and corpora: FactLM's own, and loaders of the field's data sets."""

from tl_knowledge.datasets.blimp import BLIMP_SAMPLE, load_blimp
from tl_knowledge.datasets.bundled import load_corpus, load_edit_cases, load_relations, paraphrases
from tl_knowledge.datasets.catalogue import FACT_SETS, load_facts
from tl_knowledge.datasets.context import in_context, with_context
from tl_knowledge.datasets.counterfact import load_counterfact
from tl_knowledge.datasets.filters import known_facts, of_relation, predicted_tokens, sample_facts, single_token_facts
from tl_knowledge.datasets.known import load_known
from tl_knowledge.datasets.lre import load_lre
from tl_knowledge.datasets.pararel import load_context_pararel, load_pararel
from tl_knowledge.datasets.zsre import load_zsre

__all__ = [
    "BLIMP_SAMPLE",
    "FACT_SETS",
    "in_context",
    "known_facts",
    "load_blimp",
    "load_context_pararel",
    "load_corpus",
    "load_counterfact",
    "load_edit_cases",
    "load_facts",
    "load_known",
    "load_lre",
    "load_pararel",
    "load_relations",
    "load_zsre",
    "of_relation",
    "paraphrases",
    "predicted_tokens",
    "sample_facts",
    "single_token_facts",
    "with_context",
]
