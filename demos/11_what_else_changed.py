# %% [markdown]
# # I edited one fact. What else changed?
#
# Whether an edit took is one question. This asks the others: the subject's other facts, what follows from the new fact, questions over two facts,
# texts about the subject, the model itself, and whether the old answer is really gone. First of one edit, question by question; then of ROME, MEMIT,
# AlphaEdit and fine-tuning side by side.
#
# Runs in about two minutes on a laptop with the bundled model, whose facts the questions are made of.

# %%
import pandas as pd

import tl_knowledge as tlk
from tl_knowledge import datasets, evaluation

pd.set_option("display.max_colwidth", 70)
model, facts = tlk.load_model("factlm"), tlk.load_facts()
known = {"facts": facts, "relations": datasets.load_relations(), "reverse": evaluation.INVERSE_TEMPLATES}

# %% [markdown]
# ## One edit
#
# A case whose new object has facts of its own, so that something should follow: `chained_edit_cases` brings questions over two facts
# (Zhong et al. 2023), `with_ripples` the logical neighbours of the edit (Cohen et al. 2024).

# %%
cases = datasets.with_ripples(datasets.chained_edit_cases(**known, limit=10), **known)
case = cases[1]
method = tlk.ROME.for_model(model)
moments = tlk.collect_key_moments(model, tlk.load_corpus(), progress=False)
edit = tlk.plan_edit(model, case.rewrite, method, moments=moments, progress=False)
print(f"{case.fact.text}{case.fact.target}, edited to{case.target_new}; {len(case.tests)} tests")

# %% [markdown]
# ## Every question, before and after
#
# Questions whose conditions the unedited model does not meet are left out: nothing is asked of an edit that the model never knew.

# %%
measures = [
    evaluation.subject_facts(facts),
    evaluation.ripple_scores(),
    evaluation.multi_hop_scores(),
    evaluation.EssenceDrift(datasets.subject_texts(cases, facts=facts)),
    evaluation.ExtractionAttacks(),
]
moved = evaluation.measure_consequences(model, case, edit, measures=measures)
moved.questions()

# %% [markdown]
# Lines go from the unedited model (open) to the edited one (filled). The intervals are of the few questions of each kind that this one edit has.

# %%
moved.plot()

# %% [markdown]
# ## Measures that ask nothing
#
# Perplexity of texts about the subject (essence drift, Meng et al. 2022), and whether the *old* object can still be had from the states of the edited
# model or in other words (Patil et al. 2024).

# %%
summary = moved.summary()
summary[summary["questions"] == 0][["moved", "unedited", "edited"]].round(2)

# %% [markdown]
# ## Four methods
#
# One edit says little about the next. The same over several edits, each alone, beside the unedited model; besides, the model's grammar (BLiMP), the
# perplexity of ordinary text, and how far the next token has moved after prompts about somebody else.

# %%
subjects = {each.fact.subject for each in cases}
unrelated = [fact.text for fact in facts if fact.subject not in subjects][::200]
measures.append(evaluation.GeneralAbility(datasets.load_blimp(datasets.BLIMP_SAMPLE)[::10], tlk.load_corpus(limit=5), unrelated))
reports = {}
for name in ("ROME", "MEMIT", "AlphaEdit", "FT"):
    chosen = tlk.editing.method_for_model(model, name.lower())
    reports[name] = tlk.evaluate(model, cases, chosen, moments=moments, measures=measures, progress=False)
table = tlk.score_table(*reports.values(), names=tuple(reports))
table.plot_moved()

# %% [markdown]
# ## The same as numbers
#
# Means over edits in percent, with 95% bootstrap intervals; ten edits make wide ones. `docs/consequences.md` has more edits and more editors.

# %%
scores = ("reliability", "subject_kept", "ripple", "multi_hop", "essence_drift", "blimp", "perplexity_rise", "next_token_KL", "extracted")
table.summary(*scores).set_index("model").T

# %% [markdown]
# ## What it means
#
# All four write the fact, and of most edits the old object can still be extracted. What FactLM loses is close to the edit: the same subject's
# other facts, and with fine-tuning its neighbours; grammar and ordinary text hardly move. FactLM was built with every fact of a subject
# behind one key, so that an edit there takes the others along: how much a larger model loses has to be measured on it.
#
# From the shell:
# `tl-knowledge evaluate --dataset factlm_chains --method rome --method ft --measures subject-facts --measures ripples --measures extraction`.
