# %% [markdown]
# # From a trace to a circuit
#
# A causal trace says which sites carry a fact, one by one. Here the sites become a *circuit*: what each passes on to the next, how much of the fact
# they explain together, and where to look in TransformerLens, networkx or a browser.
#
# Runs in about a minute on a laptop with the bundled model. `MODEL=gpt2` takes another.

# %%
import os

import tl_knowledge as tlk

MODEL = os.environ.get("MODEL", "factlm")
model = tlk.load_model(MODEL)
fact = tlk.Fact("Paul McCartney", "{} plays the", " piano")
prompt = tlk.Prompt.from_fact(model, fact)

# %% [markdown]
# ## The trace
#
# What the outputs of MLPs and of attention give back of the answer when the subject's tokens are noise.

# %%
traces = [tlk.trace(model, prompt, corrupt="subject", component=part, progress=False) for part in ("mlp_out", "attn_out")]
tlk.compare(*traces).plot()

# %% [markdown]
# ## The circuit
#
# The twenty sites that the answer needs most, and *exact path interventions* between them: restore A, hold every other site at its corrupted value,
# read what B becomes, write only that into the corrupted run. An arrow is as wide as what that brings back. Hover over marks and arrows.

# %%
circuit = tlk.circuits.from_trace(model, prompt, traces, limit=20)
circuit.plot()

# %% [markdown]
# On a dark background (any figure of the package):

# %%
tlk.drawing.dark(circuit.plot())

# %% [markdown]
# Everything is a table, too.

# %%
circuit.top(8)

# %% [markdown]
# ## Is it the circuit?
#
# *Faithfulness*: the clean run with everything **outside** the circuit held at its corrupted value. *Completeness*: what is lost when the circuit
# itself is held there. Restoring all sites together is a weaker claim than both. The lines show how many sites each takes.

# %%
print(f"kept alone it keeps {circuit.faithfulness:.1%}, held out it takes {circuit.completeness:.1%} of the total effect {circuit.total_effect:.3f}")
circuit.plot_growth()

# %% [markdown]
# ## What its heads read
#
# Every attention site's heads, by what each restores alone.

# %%
circuit.head_reads.head(6).round(3)

# %% [markdown]
# Their attention patterns, as a circuitsvis view that works offline: hover over a head, click to keep it.

# %%
circuit.attention_view(limit=4)

# %% [markdown]
# Several views on one page, in the notebook or saved (`.save("views.html")`). Blue raises the answer, red lowers it.

# %%
place = tlk.ROME.for_model(model).layer
tlk.drawing.ViewPage("MLP outputs by layer", [tlk.tracing.effect_view(traces[0], layer=layer) for layer in (place, place + 3)])

# %% [markdown]
# ## Inside your own TransformerLens code
#
# The circuit's sites are hook names and positions: here everything else is held at its corrupted value by hand, which is what faithfulness measures.

# %%
import torch

noise = tlk.corrupt(prompt.subject, tlk.GaussianNoise("3sd", seed=0).resolve(model))
names = [f"blocks.{layer}.hook_{part}" for layer in range(model.cfg.n_layers) for part in ("attn_out", "mlp_out")]
with model.hooks(fwd_hooks=noise):
    _, corrupted = model.run_with_cache(prompt.batch(10), names_filter=names)


def hold(name: str) -> tuple:
    """Pin a module to the corrupted run at every position that is no node of the circuit."""
    layer, part = int(name.split(".")[1]), name.split("hook_")[1]
    kept = {node.pos for node in circuit.nodes if (node.component, node.layer) == (part, layer)}
    held = [pos for pos in range(prompt.subject.first, len(prompt)) if pos not in kept]

    def pin(activation, hook):
        changed = activation.clone()
        changed[:, held] = corrupted[name][:, held]
        return changed

    return name, pin


with torch.no_grad():
    logits = model.run_with_hooks(prompt.batch(10), fwd_hooks=[hold(name) for name in names])
kept_alone = float(logits[:, -1].softmax(-1)[:, prompt.target_token].mean())
print(f"P(answer) with the circuit alone: {kept_alone:.3f}; clean {circuit.clean_probability:.3f}")

# %% [markdown]
# As TransformerLens' own nodes (keys into what its attribution patching scores), for networkx, and for Gephi, yEd or d3:

# %%
print(circuit.to_nodes()[:3])
graph = circuit.to_networkx()
print(graph)
# circuit.to_graphml("circuit.graphml"); circuit.to_json("circuit.json"); circuit.save("circuit")

# %% [markdown]
# ## From neurons, and from heads
#
# Nodes can be groups of knowledge neurons (with the attention that carries what they write), heads, or residual states.

# %%
if MODEL == "factlm":
    known = next(f for f in tlk.load_facts() if f.subject == fact.subject and f.template == fact.template)
    neurons = tlk.select_neurons(tlk.attribute_neurons(model, tlk.paraphrases(model, known), at="subject", progress=False))
    tlk.circuits.from_neurons(model, prompt, neurons, positions=[prompt.subject.last]).plot().show()
