# %% [markdown]
# # Attention and relations
#
# Which heads move a fact to the place where it is said, and are they the same from the subject's and from the relation's side? Relation tokens are
# compared with subject tokens in traces, heads and circuits.
#
# Runs in about a minute on a laptop with the bundled model. `MODEL=gpt2` takes another.

# %%
import os

import tl_knowledge as tlk

MODEL = os.environ.get("MODEL", "factlm")
model = tlk.load_model(MODEL)
prompt = tlk.Prompt.from_fact(model, tlk.Fact("Paul McCartney", "{} plays the", " piano"))
print("subject", [prompt.labels[i] for i in prompt.subject], "relation", [prompt.labels[i] for i in prompt.relation])

# %% [markdown]
# ## Two traces of one prompt
#
# Noise on the subject's tokens, and on all others. One colour range: equal colours mean equal effects.

# %%
sides = {
    side: [tlk.trace(model, prompt, corrupt=side, component=part, progress=False) for part in ("mlp_out", "attn_out")]
    for side in ("subject", "relation")
}
tlk.compare(sides["subject"][0], sides["relation"][0]).plot()

# %%
tlk.compare(sides["subject"][1], sides["relation"][1]).plot()

# %% [markdown]
# ## Every head at the last token
#
# `*_from_last`: how much it attends to a span. `moved_*`: how far corrupting that span moves its attention. `effect_*`: what restoring it alone
# brings back. `knockout`: what the clean run loses when it is silent. `direct`: what it writes towards the answer, and how much of that it read
# where; `rank` 0: it promotes no token of the vocabulary more than the answer.

# %%
heads = tlk.analyse_attention(model, prompt)
heads.top(8).round(3)

# %%
heads.top(5, by="effect_relation").round(3)

# %% [markdown]
# One figure: attention moved against effect, relation against subject. A head far up matters; one far right only looks elsewhere.

# %%
heads.plot()

# %% [markdown]
# Their patterns (offline circuitsvis): the head that carries the fact looks from the last token at the subject.

# %%
heads.attention_view(limit=4)

# %% [markdown]
# ## What is written
#
# With the final norm's scale frozen, the answer's logit is a sum over everything written into the stream at the last token.

# %%
direct = tlk.direct_logit_attribution(model, prompt)
direct.plot(limit=12)

# %% [markdown]
# By layer, and for attention by the tokens it was read from:

# %%
direct.by_layer().round(2)

# %% [markdown]
# When does the stream say it? The logit lens at every token and layer.

# %%
tlk.logit_lens(model, prompt).plot()

# %% [markdown]
# ## Two circuits over each other
#
# Violet: only when the subject is corrupted. Vermilion: only when the relation is. Black: both.

# %%
circuits = [tlk.circuits.from_trace(model, prompt, traces) for traces in sides.values()]
both = tlk.circuits.compare(*circuits, names=("subject", "relation"))
both.plot()

# %%
both.top(8).round(3)

# %% [markdown]
# ## By hand
#
# Knock one head's attention to the subject out, in your own run: nothing here needs a driver.

# %%
import torch

best = heads.top(1).iloc[0]
hooks = tlk.knock_out_attention(prompt.last, prompt.subject, layers=int(best["layer"]), heads=int(best["head"]))
with torch.no_grad():
    logits = model.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
blind = float(logits[0, -1].softmax(-1)[prompt.target_token])
print(f"head {int(best['layer'])}.{int(best['head'])} blind to the subject: P(answer) {heads.clean_probability:.3f} -> {blind:.3f}")
