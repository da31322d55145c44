# %% [markdown]
# # Subject against relation
#
# A fact is a subject, a relation and an object. Tracing usually corrupts the *subject*. Wei et al. (2024) ask what happens when
# the *relation* is corrupted instead: **is relational knowledge stored in the same place, in the same manner?** Here that question is put to
# the model at hand, over a set of facts, with intervals and a test.
#
# `MODEL=gpt2 FACTS=1000` takes another model and more facts; facts the model does not know are left out.

# %%
import os

import tl_knowledge as tlk

MODEL, FACTS = os.environ.get("MODEL", "factlm"), int(os.environ.get("FACTS", "40"))
facts = tlk.sample_facts(tlk.load_facts("factlm" if MODEL == "factlm" else "known_1000"), FACTS)
average = tlk.trace_facts(tlk.load_model(MODEL), facts, sever=("mlp_out", "attn_out"), samples=5, progress=False)
average.total_effects().round(3)

# %% [markdown]
# ## Effects by token role
#
# Facts of different wording are averaged by what a token *is*. Bands are 95% bootstrap intervals over facts.

# %%
average.plot()

# %% [markdown]
# ## The two sides, layer by layer
#
# The same facts, traced twice. Filled points: the sides differ, by Wilcoxon's signed-rank test paired over facts, corrected for all layers,
# components and places.

# %%
average.plot_sides()

# %% [markdown]
# Where each side's effect lies: its peak, and its centre (the mean layer, weighted by effect). `difference` is subject minus relation.
# On FactLM the MLPs of both sides have their peak in layer 2, each at its own token.

# %%
average.locate_sides().round(2)

# %% [markdown]
# ## What the restored state acts through
#
# On FactLM states of layers 0 and 1 act through MLPs or not at all: they still have to be looked up. From layer 2 on the subject's needs
# little of either at its own token; the relation's goes on needing both.

# %%
average.plot_severed()

# %% [markdown]
# ## From which tokens does the last position read?
#
# Attention knockout (Geva et al. 2023): attention from the last position to a set of tokens is blocked in a window of layers.
# On FactLM the relation is read first, the subject from layer 4 on.

# %%
tlk.measure_attention_knockout(tlk.load_model(MODEL), average.facts, window=3, progress=False).plot()

# %% [markdown]
# ## One page to mail
#
# `average.to_html()` has all of this in one offline page; `tl-knowledge trace-facts --out page.html` makes it from the shell.
