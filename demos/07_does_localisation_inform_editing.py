# %% [markdown]
# # Does localisation inform editing?
#
# Hase et al. (2023) edited every layer and traced every layer: in GPT-J the layer alone explained 95% of ROME's success, and where tracing
# found the fact explained next to nothing more. The same study here, on FactLM, in one call.
#
# `FACTS=60` takes more facts.

# %%
import os

import tl_knowledge as tlk

FACTS = int(os.environ.get("FACTS", "10"))
model = tlk.load_model("factlm")
moments = tlk.collect_key_moments(model, tlk.load_corpus(), progress=False)
cases = tlk.load_edit_cases()[:FACTS]


# %%
def rome(layer, objective):
    """ROME in one layer; few contexts, because every case is edited in all eight."""
    return tlk.ROME(layer=layer, objective=objective, contexts=((5, 4),))


# %% [markdown]
# ## Error injection: write a false object

# %%
injection = tlk.localised.sweep_layers(model, cases, rome, moments=moments, problem="error_injection", progress=False)
injection.plot()

# %%
injection.regressions()

# %% [markdown]
# ## Fact forcing: the true object although the subject is corrupted
#
# The problem closest to what tracing measures: here tracing explained most in the paper.

# %%
forcing = tlk.localised.sweep_layers(model, cases, rome, moments=moments, problem="fact_forcing", progress=False)
forcing.plot()

# %%
forcing.regressions()

# %% [markdown]
# Read the figure as the paper does: if localisation informed editing, the R² of both would be well above the layer's alone, and the F-test would
# say so for many facts.
#
# Of these ten facts it does not for a false object (R² of the layer .73, with tracing .74, p = .29), and hardly for forcing (.54, .57, p =
# .02). ROME works in layers 2 to 5, from the look-up to where attention reads the subject; tracing restores five layers at once, so that it
# points to all layers whose window holds layer 2.
