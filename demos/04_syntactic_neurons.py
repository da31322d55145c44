# %% [markdown]
# # Syntactic neurons
#
# Are the neurons that attribution finds about *knowledge*? Wen and Bai (end punctuation) and Niu et al. 2024 (determiner-noun agreement,
# in BLiMP) put the same questions to grammar. If the same method finds neurons of the same kind there, it does not tell knowledge from anything else.
#
# `MODEL=gpt2 BLIMP=nyu-mll/blimp` takes another model and the whole of BLiMP; without, the sample that comes with the package.

# %%
import os
import re

import tl_knowledge as tlk

MODEL, BLIMP = os.environ.get("MODEL", "factlm"), os.environ.get("BLIMP", str(tlk.datasets.BLIMP_SAMPLE))
model = tlk.load_model(MODEL)

# %% [markdown]
# ## End punctuation (Wen and Bai, table 2)
#
# Sentences cut off before their last mark; the model is to predict it.

# %%
sentences = [s for s in re.split(r"(?<=[.!?])\s+", " ".join(tlk.load_corpus())) if len(s.split()) < 9]
marks = tlk.neurons.punctuation_groups(model, sentences, limit=60)
punctuation = tlk.locate_neurons(model, marks, threshold=0.3, shared_by=0.5, progress=False)
punctuation.table.round(3)

# %%
{name: list(punctuation[name]) for name in punctuation.table["name"]}

# %% [markdown]
# ## Determiner-noun agreement (Niu et al. 2024)
#
# "Raymond is selling this ..." wants a noun; the groups are the four determiners. `|KN|`, `tau` and `R1^2` stand beside those of facts. As in
# Niu et al.'s program the share starts at 0.7 and moves until two to five neurons are left.

# %%
PARADIGMS = ["determiner_noun_agreement_1", "determiner_noun_agreement_irregular_1"]
PARADIGMS += ["determiner_noun_agreement_with_adjective_1", "determiner_noun_agreement_with_adj_irregular_1"]
pairs = [pair for paradigm in PARADIGMS for pair in tlk.datasets.load_blimp(BLIMP, paradigm=paradigm, limit=100)]
groups = tlk.neurons.agreement_groups(model, pairs, by=tlk.neurons.determiner, limit=25)
agreement = tlk.locate_neurons(model, groups, shared_by=0.7, adapt="group", progress=False)
agreement.statistics().round(2)

# %%
facts = tlk.sample_facts(tlk.known_facts(model, tlk.load_facts()), 60)
factual = tlk.locate_neurons(model, facts, shared_by=0.7, adapt="group", progress=False)
statistics = factual.statistics()
statistics[["KN", "tau", "R1^2"]].mean().round(2)

# %% [markdown]
# Do grammar and facts lie in the same layers? In FactLM they do: nearly all neurons of either are in layer 2.

# %%
tlk.neurons.compare_layers({"facts": factual, "agreement": agreement, "punctuation": punctuation}).plot()

# %% [markdown]
# ## Singular and plural neurons
#
# What the sentences with "this" and "that" share, and those with "these" and "those"; of nouns that are one token of the model, so that a word
# has a probability of its own.

# %%
NUMBER = {"this": "singular", "that": "singular", "these": "plural", "those": "plural"}
OTHER = {"singular": "plural", "plural": "singular"}


def number_of(pair):
    """The number of the pair's determiner."""
    return NUMBER[tlk.neurons.determiner(pair)]


regular = [pair for pair in pairs if pair.paradigm in PARADIGMS[:2]]
regular = [pair for pair in regular if len(tlk.neurons.single_token_words(model, [pair.word_good, pair.word_bad])) == 2]
prompts = {n: [tlk.Prompt.from_text(model, p.prefix, target=f" {p.word_good}") for p in regular if number_of(p) == n] for n in OTHER}
both = [tlk.neurons.PromptGroup("number", n, tuple(p)) for n, p in prompts.items()]
number = tlk.locate_neurons(model, both, shared_by=0.7, adapt="group", progress=False)
number.table.round(3)

# %% [markdown]
# Every word's probability after the determiner, with and without them. Red: significant in a paired t-test over prompts, corrected for the
# number of words. Neurons of *number* would lower the nouns of their own number and leave or raise the others.
# The effect is `(after - before) / min(after, before)`, so that a fall may be more than 1: at -1 the probability is half of what it was, at +1
# twice it.

# %%
words = {n: sorted({p.word_good if number_of(p) == n else p.word_bad for p in regular}) for n in OTHER}
words["neutral"] = tlk.neurons.single_token_words(model, ["the", "a", "and", "in", "is", "was", "of", "with", "English", "Paris"])
effects = {n: tlk.neurons.measure_token_effects(model, prompts[n], words, number[n]) for n in OTHER}
effects["plural"].plot(name="the plural neurons")

# %%
effects["singular"].plot(name="the singular neurons")

# %%
effects["plural"].summary().round(3)

# %%
effects["singular"].summary().round(3)

# %% [markdown]
# On FactLM the singular neurons do: without them, after "this" and "that", singular nouns fall (-0.18) and plural ones rise (+0.71). The
# plural neurons do not: without them, after "these" and "those", the *singular* nouns fall (-1.04) more than the plural ones (-0.28). Without
# either, words that are no nouns gain most. So of two sets that were found in the same way, one looks like number and the other like "a noun
# comes next", which is what Niu et al. warn of.

# %% [markdown]
# ## Do they decide? (Niu et al. 2024, "KN edit effect")
#
# The neurons of each pair's own determiner are suppressed at every position; the pair is decided rightly when the good sentence stays more
# probable. They find that suppressing the neurons is not enough to overturn the model's choice.

# %%
reliability = tlk.neurons.measure_reliability(model, pairs, agreement, by=tlk.neurons.determiner)
reliability.summary().round(3)

# %%
reliability.plot()
