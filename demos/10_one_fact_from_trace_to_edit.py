# %% [markdown]
# # One fact, from trace to edit
#
# Trace it, edit it where the trace points, and see through what the edit acts and how the fact's circuit changes; then all of it as one page to mail.
#
# Runs in about a minute on a laptop with the bundled model. `MODEL=gpt2` takes another.

# %%
import os

import tl_knowledge as tlk

MODEL = os.environ.get("MODEL", "factlm")
model = tlk.load_model(MODEL)
fact = tlk.Fact("Paul McCartney", "{} plays the", " piano")
prompt = tlk.Prompt.from_fact(model, fact)


def traces(of: tlk.Prompt) -> list[tlk.CausalTrace]:
    """MLP and attention outputs, subject corrupted."""
    return [tlk.trace(model, of, component=part, progress=False) for part in ("mlp_out", "attn_out")]


maps = traces(prompt)
before = tlk.circuits.from_trace(model, prompt, maps)
maps[0].top(3)

# %% [markdown]
# ## Edit it
#
# ROME rewrites one MLP so that the subject's key gets another value; the second moments say what must not be disturbed.

# %%
method = tlk.ROME.for_model(model)
moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[method.layer], progress=False)
edit = tlk.plan_edit(model, fact.retarget(" violin"), method, moments=moments)
edited = tlk.Prompt.from_fact(model, fact.retarget(" violin"))
tlk.editing.edit_view(model, edited, edit)

# %% [markdown]
# ## Through what does it act?
#
# The edited run in the clean run's place, the unedited one in the corrupted run's; what the edited MLP writes is the source. Effects are in the
# logarithm of the new answer's probability: an edit acts through several sites at once, which the probability itself does not show one by one.

# %%
through = tlk.circuits.from_edit(model, edited, edit)
through.plot()

# %% [markdown]
# ## The fact's circuit before and after
#
# The old answer in the unedited model, the new answer in the edited one; afterwards the weights are bit for bit what they were.

# %%
with edit.applied(model):
    after = tlk.circuits.from_trace(model, edited, traces(edited))
tlk.circuits.compare(before, after, names=("before the edit", "after the edit")).plot()

# %%
tlk.circuits.compare(before, after, names=("before", "after")).top(8).round(3)

# %% [markdown]
# ## All of it on one page
#
# Traces of both sides with modules severed, neurons, circuit, attention and the edit, with notes on how to read them; self-contained and offline.
# From the shell: `tl-knowledge report "Paul McCartney plays the" --subject "Paul McCartney" --target " piano" --edit-to " violin"`.

# %%
report = tlk.report_fact(model, fact, edit_to=" violin", method=method, moments=moments, samples=5, progress=False)
print(f"{len(report.to_html()) / 1e6:.1f} MB; report.save_html('report.html') writes it")
