"""Restored runs, attribution and edits written out as whole forwards with the model's own hooks, and nothing of this package's engines."""

from __future__ import annotations

import torch


def by_position(change, length):
    """A hook function that sees ``[batch pos d]``, on a model that lays its tokens flat too."""

    def hooked(activation, *, hook):
        last = activation.shape[1:] if activation.ndim == 2 else activation.shape[2:]
        changed = change(activation.reshape(-1, length, *last))
        return None if changed is None else changed.reshape(activation.shape)

    return hooked


def recorded(model, tokens, name):
    """One activation ``[batch pos d]``."""
    box = []
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(name, by_position(lambda x: box.append(x.clone()), tokens.shape[1]))])
    return box[0]


def run_with(model, tokens, changes):
    """Logits under some changes."""
    return model.run_with_hooks(tokens, fwd_hooks=[(name, by_position(change, tokens.shape[1])) for name, change in changes])


def put(pos, value):
    """Write a value at some positions."""

    def change(activation):
        changed = activation.clone()
        changed[:, pos] = value
        return changed

    return change


def add(pos, value):
    """Add a value at a position."""

    def change(activation):
        changed = activation.clone()
        changed[:, pos] = changed[:, pos] + value
        return changed

    return change


def restored_effect(model, prompt, noise, component, layer, pos, *, unit=None):
    """Mean effect of restoring one site, over two samples."""
    entering = recorded(model, prompt.tokens, "hook_embed").expand(2, -1, -1)
    span, batch = tuple(prompt.subject), prompt.tokens.expand(2, -1)
    noisy = ("hook_embed", put(list(span), noise.corrupted(entering, span)))
    name = f"blocks.{layer}.{'mlp.hook_post' if component == 'neuron' else 'hook_' + component}"
    clean = recorded(model, prompt.tokens, name)[0, pos]

    def restore(activation):
        changed = activation.clone()
        if unit is None:
            changed[:, pos] = clean
        else:
            changed[:, pos, unit] = clean[unit]
        return changed

    with torch.no_grad():
        after, before = (run_with(model, batch, changes)[:, -1].softmax(-1)[:, 5] for changes in ([noisy, (name, restore)], [noisy]))
    return float((after - before).mean())


def attributed(model, tokens, answer, layer, steps):
    """Integrated gradients of one layer's neurons at the last position, ``[d_mlp]``."""
    name = f"blocks.{layer}.mlp.hook_post"
    clean = recorded(model, tokens, name)[0, -1]
    total = torch.zeros_like(clean)
    for k in range(1, steps + 1):
        point = (clean * k / steps).requires_grad_(True)
        probability = run_with(model, tokens, [(name, put(-1, point))])[0, -1].softmax(-1)[answer]
        total += torch.autograd.grad(probability, point)[0]
    return clean * total / steps
