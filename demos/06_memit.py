# %% [markdown]
# # Many facts at once: MEMIT, EMMET, AlphaEdit
#
# One edit for many facts, and how long edits last as more are made.
#
# `FACTS=100` takes more facts.

# %%
import os

import tl_knowledge as tlk

FACTS = int(os.environ.get("FACTS", "18"))
model = tlk.load_model("factlm")
moments = tlk.collect_key_moments(model, tlk.load_corpus(), progress=False)
cases = tlk.load_edit_cases()[:FACTS]

# %% [markdown]
# ## One plan for all
#
# Every fact's value is optimised in one batch, each with its own loss and stop; each layer takes its part by regularised least squares.

# %%
memit = tlk.MEMIT.for_model(model)
edit = tlk.plan_edit(model, [case.rewrite for case in cases], memit, moments=moments)
edit.to_dataframe()

# %%
print(edit.health(model, tlk.load_corpus()))

# %% [markdown]
# On FactLM every value reaches its clamp, the longest it may be, and layer 3 changes by more than its own norm; ordinary text is read nearly as
# before (perplexity).

# %% [markdown]
# ## Three methods on the same cases, at once
#
# Each row with its 95% interval over cases, beside the unedited model.

# %%
methods = {"MEMIT": memit, "EMMET": tlk.EMMET.for_model(model), "AlphaEdit": tlk.AlphaEdit.for_model(model)}
reports = [tlk.evaluate(model, cases, method, moments=moments, protocol="batch", progress=False) for method in methods.values()]
table = tlk.score_table(*reports, names=tuple(methods))
table.to_dataframe()

# %%
table.plot()

# %% [markdown]
# Is the difference between two of them more than chance? A paired test on the same cases, corrected for the number of scores.

# %%
reports[0].compare(reports[1]).to_dataframe().round(3)

# %% [markdown]
# ## As more edits are made
#
# Fresh weights for every size; the edits stay in the model, six cases a plan.

# %%
sizes = sorted({6, FACTS // 2, FACTS})
growth = tlk.evaluation.measure_growth(model, cases, methods, sizes, moments=moments, batch_size=6, progress=False)
growth.plot()
