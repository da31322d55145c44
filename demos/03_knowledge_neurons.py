# %% [markdown]
# # Knowledge neurons
#
# Which neurons raise the probability of a fact's answer, and what happens to the fact when they are suppressed or enhanced? (Dai et al. 2022;
# Wen and Bai.) Everything here is hooks: it composes with whatever else you do to the model.
#
# `MODEL=gpt2 FACTS=200` takes another model and more facts; facts that the model does not know are left out.

# %%
import os

import tl_knowledge as tlk

MODEL, FACTS = os.environ.get("MODEL", "factlm"), int(os.environ.get("FACTS", "60"))
model = tlk.load_model(MODEL)
everything = tlk.load_facts("factlm")
facts = tlk.sample_facts(tlk.known_facts(model, everything), FACTS)

# %% [markdown]
# ## One fact
#
# Integrated gradients of the answer's probability, all layers in one forward and one backward. Every row is one token behind frozen keys and
# values, so this costs about as much as running the prompt a few times.

# %%
wordings = ["The capital of France is", "The capital city of France is", "France, whose capital is"]
prompts = [tlk.Prompt.from_text(model, text, target=" Paris") for text in wordings]
scores = tlk.attribute_neurons(model, prompts, progress=False)
scores.plot()

# %% [markdown]
# The integral's error: the scores of a layer should add up to what the layer contributes. With more `steps` than the 20 of the papers it gets
# smaller.

# %%
scores.completeness_gap.max()

# %% [markdown]
# What the three wordings share are the fact's *refined* neurons.

# %%
neurons = tlk.select_neurons(scores, threshold=0.2, shared_by=0.7)
list(neurons)

# %% [markdown]
# `suppress`, `enhance` and `scale` are plain hook lists.


# %%
def p_paris(hooks):
    """Probability of " Paris" after the third wording."""
    logits = model.run_with_hooks(prompts[2].tokens, fwd_hooks=hooks)
    return round(float(logits[0, -1].softmax(-1)[prompts[2].target_token]), 3)


{
    "clean": p_paris([]),
    "suppressed": p_paris(neurons.suppress(positions=-1)),
    "enhanced": p_paris(neurons.enhance(2.0, positions=-1)),
    "random neurons suppressed": p_paris(neurons.random_control(seed=0).suppress(positions=-1)),
}

# %% [markdown]
# Which tokens drive them (circuitsvis, with its program inside: it works offline; `.save("view.html")` makes a page).

# %%
tlk.neurons.neuron_view(model, prompts, neurons)

# %% [markdown]
# ## Many facts
#
# A group for each fact: its paraphrases. The fact's own wording is kept for the measurement below.

# %%
located = tlk.locate_neurons(model, tlk.neurons.fact_groups(model, facts, own_wording=False), shared_by=0.5, progress=False)
located.statistics().round(2).head(12)

# %% [markdown]
# Wen and Bai, figure 5: in GPT-2 the first layer holds a high share of the neurons. FactLM's first two layers are narrow and hold next to
# none; layer 2, which looks facts up, holds four fifths.

# %%
located.plot()

# %% [markdown]
# Do facts of one relation share their neurons more than facts of two? (the diagonal: different facts of one relation)

# %%
located.plot_overlap()

# %% [markdown]
# ## Suppress and enhance, beside random neurons and unrelated facts
#
# Wen and Bai, figures 3 and 4. A change that random neurons cause too would be no finding, nor would one that hits every fact alike.

# %%
effects = {factor: tlk.neurons.measure_neuron_effects(model, facts, factor=factor, located=located, progress=False) for factor in (0.0, 2.0)}
effects[0.0].summary().round(4)

# %%
effects[2.0].summary().round(4)

# %%
effects[0.0].plot()

# %% [markdown]
# ## The same at the subject's last token
#
# The papers look at the position that predicts the answer. Causal tracing finds FactLM's facts at the last token of the *subject*; the same
# attribution and the same experiment there (`at="subject"`): the fact loses more, and other facts less.

# %%
at_subject = tlk.locate_neurons(model, tlk.neurons.fact_groups(model, facts, own_wording=False), shared_by=0.5, at="subject", progress=False)
carried = tlk.neurons.measure_neuron_effects(model, facts, factor=0.0, located=at_subject, progress=False)
carried.summary().round(4)

# %%
carried.plot()

# %% [markdown]
# ## In-context prompts
#
# Wen and Bai, section 3.2, put four other facts of the relation before the fact, to raise the base probability. FactLM knows its facts without
# that, and was trained on short paragraphs: the context costs it a tenth of the probability.

# %%
objects = {relation: len({fact.target for fact in everything if fact.relation == relation}) for relation in {fact.relation for fact in facts}}
enough = [fact for fact in facts if objects[fact.relation] > 4]  # four other objects, none of them the answer
gain = tlk.neurons.measure_context_gain(model, enough, pool=everything)
gain.summary().round(4)
