# %% [markdown]
# # Trace one fact
#
# Where does a language model keep what it knows about Paul McCartney, and where does it read it out? Noise on some
# tokens makes the model lose the answer; one clean activation is written back; how much of the answer returns tells what that
# activation carries. That is *causal tracing* (Meng et al. 2022, section 2.1).
#
# Runs in under a minute on a laptop with the bundled model. `MODEL=gpt2` (any name that TransformerLens knows) takes another.

# %%
import os

import torch

import tl_knowledge as tlk

MODEL = os.environ.get("MODEL", "factlm")
model = tlk.load_model(MODEL)
fact = tlk.Fact("Paul McCartney", "{} plays the", " piano")
prompt = tlk.Prompt.from_fact(model, fact)
print("subject at", prompt.subject.positions, "of", prompt.labels)

# %% [markdown]
# ## The whole map in one call
#
# Rows are tokens, columns are layers. The subject's tokens (bold, with an asterisk) are corrupted; a cell in full colour is an activation through
# which the answer passes. Look for two places: early at the last subject token (the look-up), late at the last token (the read-out).

# %%
state = tlk.trace(model, prompt, corrupt="subject")
state.plot()

# %% [markdown]
# ## Which module does it?
#
# MLP and attention outputs, restored in windows of neighbouring layers.

# %%
mlp = tlk.trace(model, prompt, corrupt="subject", component="mlp_out")
attention = tlk.trace(model, prompt, corrupt="subject", component="attn_out")
tlk.compare(mlp, attention).plot()

# %% [markdown]
# Every result is a table, too. On FactLM the first two rows are the windows that hold layer 2 (layers 2-3 and 1-2): there the subject is looked up.

# %%
mlp.top(5)

# %% [markdown]
# ## What does the restored state act through?
#
# `sever` pins a module at the restored token to the corrupted run, in all layers: what is gone went through it. On FactLM a state of layer 0
# or 1 brings next to nothing back without MLPs, one of layer 2 nearly all: of the MLPs it needs that of layer 2. Without attention little is
# lost.

# %%
severed = [tlk.trace(model, prompt, corrupt="subject", sever=module) for module in ("mlp_out", "attn_out")]
tlk.compare(state, *severed).plot()

# %% [markdown]
# ## The same by hand
#
# Every driver is made of hook factories that compose with your own hooks.

# %%
noise = tlk.corrupt(prompt.subject, tlk.GaussianNoise("3sd", seed=0).resolve(model))
_, clean = model.run_with_cache(prompt.tokens)


def probability(hooks: list) -> float:
    """Mean probability of the answer over ten noise samples."""
    with torch.no_grad():
        logits = model.run_with_hooks(prompt.batch(10), fwd_hooks=hooks)
    return float(logits[:, -1].softmax(-1)[:, prompt.target_token].mean())


restored = noise + tlk.restore(clean, "resid_post", layers=1, positions=prompt.subject.last)
print(f"clean {probability([]):.3f}, corrupted {probability(noise):.3f}, restored {probability(restored):.3f}")
print(f"effect by hand {probability(restored) - probability(noise):.4f}, in the map {float(state.mean_effect[1, prompt.subject.last]):.4f}")

# %% [markdown]
# ## Too many sites? Screen first
#
# First-order estimates of all effects from one forward and one backward; the largest are traced exactly, and the rank correlation says
# how far to trust the others.

# %%
screened = tlk.trace(model, prompt, corrupt="subject", component="neuron", engine="screen", verify=20)
print(screened.screen)
screened.plot()
