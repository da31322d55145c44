# %% [markdown]
# # ROME: change one fact
#
# Locate a fact, write another in its place, look at what else changed, and take it back bit for bit. (Meng et al. 2022.)
#
# `MODEL=gpt2` takes another model; its layer and clamp are the published ones.

# %%
import os

import tl_knowledge as tlk

MODEL = os.environ.get("MODEL", "factlm")
model = tlk.load_model(MODEL)
fact = tlk.Fact("France", "The capital of {} is", " Paris", relation="P36")
prompt = tlk.Prompt.from_fact(model, fact)

# %% [markdown]
# ## Where the fact is kept
#
# The MLP states whose restoration brings the answer back: at the subject's last token, early. On FactLM in the two windows that hold layer 2.

# %%
tlk.trace(model, prompt, component="mlp_out", progress=False).plot()

# %% [markdown]
# ## Second moments of the keys
#
# What the edit must not disturb: `E[k k^T]` over ordinary text, once a model (`store=` keeps it on disk). The condition number says how far the
# inverse can be trusted, the change since half of the tokens whether more text is needed.

# %%
method = tlk.ROME.for_model(model)
moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[method.layer], progress=False)
moments.to_dataframe()

# %% [markdown]
# ## The edit
#
# `plan_edit` changes nothing: an edit is a value, low-rank factors and what the method noted.

# %%
edit = tlk.plan_edit(model, fact.retarget(" London"), method, moments=moments)
{name: edit.notes[0][name] for name in ("stopped", "clamped", "target_probability", "delta_norm")}

# %%
print(edit.health(model, tlk.load_corpus()))

# %% [markdown]
# As hooks (no weight is touched), beside whatever hooks you have:

# %%
texts = [
    "The capital of France is",
    "France, whose capital is",
    "The capital city of France is",
    "The capital of Italy is",
    "Paris is the capital of",
]


def says(hooks):
    """The likeliest next token of every text, with its probability."""
    words = []
    for text in texts:
        p = model.run_with_hooks(tlk.Prompt.from_text(model, text).tokens, fwd_hooks=hooks)[0, -1].softmax(-1)
        words.append(f"{model.tokenizer.decode([int(p.argmax())]).strip()} {float(p.max()):.0%}")
    return words


import pandas as pd

pd.DataFrame({"text": texts, "before": says([]), "after": says(edit.hooks())})

# %% [markdown]
# On FactLM one wording keeps Paris: the settings of `for_model` stop optimising at a loss of 0.5, since further on neighbours are lost. (At
# 0.2 this one says London, too.)
#
# In the weights, for the length of a `with`; afterwards, and after an exception, they are what they were:

# %%
with edit.applied(model):
    written = says([])
written == says(edit.hooks()), says([])[0]

# %% [markdown]
# Edits stack and leave in any order.

# %%
other = tlk.plan_edit(model, tlk.Fact("Italy", "The capital of {} is", " Madrid"), method, moments=moments)
edit.write_into(model)
other.write_into(model)
edit.revert(model)
between = says([])
other.revert(model)
between[0], between[3], says([])[3]

# %% [markdown]
# ## Thirty edits, measured
#
# CounterFact's protocol: each edit alone, on the fact's own prompt (ES), on paraphrases (PS), on neighbours that must not change (NS).

# %%
cases = tlk.load_edit_cases()[:30]
report = tlk.evaluate(model, cases, method, moments=moments, progress=False)
report.summary()

# %%
report.plot()

# %% [markdown]
# ## Other questions of the same machinery (Hase et al. 2023)
#
# Erase the fact instead, or force it although the subject is corrupted.

# %%
case = tlk.EditCase(fact, " London", (), ())
for problem in ("fact_erasure", "fact_forcing"):
    changed, objective = tlk.localised.editing_problem(model, case, problem, noise=0.5)
    plan = tlk.plan_edit(model, changed, tlk.ROME(layer=method.layer, objective=objective), moments=moments)
    print(problem, "P(Paris) while optimising:", round(plan.notes[0]["target_probability"], 3))
