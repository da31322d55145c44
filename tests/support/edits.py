"""An edit without a method, a method trained in a moment, and obvious programs for what methods compute."""

from __future__ import annotations

import torch

import tl_knowledge as tlk
from support.models import fingerprint
from tl_knowledge.models.matrices import held_matrix, memory_like, parameters_sharing, part_of
from tl_knowledge.models.weights import output_hook, output_weights


def random_edit(model, layers, seed):
    """An edit of rank two in some layers."""
    draw = torch.Generator().manual_seed(seed)
    shape = output_weights(model, 0).shape
    factors = {
        layer: tlk.editing.LowRank(
            torch.randn(shape[0], 2, dtype=torch.float64, generator=draw), torch.randn(2, shape[1], dtype=torch.float64, generator=draw) / 9
        )
        for layer in layers
    }
    return tlk.Edit.planned(model, None, factors, notes=[{}])


def slow_value(model, rows, layer, settings):
    """The optimisation under the rows' objective, with whole forwards from the embedding, row by row."""
    site, objective = output_hook(model, layer), rows.objective
    lengths = [int(rows.scored[k, -1]) + 1 for k in range(len(rows.scored))] + [rows.essence + 1]

    def run(k, delta):
        def change(activation, *, hook):
            changed = activation.clone()
            changed[0, rows.edited[k]] = changed[0, rows.edited[k]] + delta
            return changed

        return model.run_with_hooks(rows.tokens[k : k + 1, : lengths[k]], fwd_hooks=[*noise(k), (site, change)])[0].log_softmax(-1)

    def noise(k):
        return tlk.corrupt(rows.subjects[k], objective.noise) if objective.noise is not None and rows.subjects[k] else []

    found: list = []
    model.run_with_hooks(rows.tokens[:1], fwd_hooks=[*noise(0), (site, lambda x, *, hook: found.append(x[0, rows.edited[0]].detach()))])
    start = found[0]
    delta = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.learning_rate)
    reference = run(len(lengths) - 1, delta)[rows.essence].detach()
    losses = []
    for step in range(settings.steps):
        asked = 0.0
        for k in range(len(rows.scored)):
            log_p = run(k, delta)
            each = torch.stack([log_p[position, token] for position, token in zip(rows.scored[k], rows.answer, strict=True)])
            asked = asked + (-torch.log(1 - each.sum().exp()) if objective.erase else -each.mean()) / len(rows.scored)
        now = run(len(lengths) - 1, delta)[rows.essence]
        drift = (now.exp() * (now - reference)).sum()
        loss = asked + settings.kl_factor * drift + settings.weight_decay * delta.norm() / start.norm() ** 2
        losses.append(float(loss.detach()))
        if losses[-1] < settings.stop_below or step == settings.steps - 1:
            break
        (delta.grad,) = torch.autograd.grad(loss, [delta])
        optimiser.step()
        with torch.no_grad():
            if delta.norm() > settings.clamp * start.norm():
                delta.mul_(settings.clamp * start.norm() / delta.norm())
    return delta.detach(), losses


TEXTS = ("w1 w2 w3 w4 w5", "w8 w9 w10", "w20 w21 w22 w23")
_ready: dict = {}


def training_cases(first=20, count=4):
    """Edit cases of sixty words, each of a fact of its own."""
    facts = [tlk.Fact(f"w{k} w{k + 1}", "w1 {} w4 w8", " w7 w11", paraphrases=("w2 {} w4",)) for k in range(first, first + 2 * count, 2)]
    return [tlk.EditCase(fact, f" w{k + 30}", (fact.rephrase("w2 {} w4"),), ()) for k, fact in enumerate(facts)]


def ready(method, model):
    """The method, trained in a moment where it needs that."""
    if not method.needs_training:
        return method
    key = (fingerprint(model), method)
    if key not in _ready:
        _ready[key] = method.train(model, training_cases(), TEXTS, validation=training_cases(40, 2), progress=False)
    return _ready[key]


def weight_gradient(model, place, loss):
    """The gradient of a loss with respect to a matrix as it is held; parts of fused weights lie in one memory.

    Args:
        loss: runs the model.
    """
    held = held_matrix(model, place)
    parameters = list(parameters_sharing(model, held).values())
    needed = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    memory = memory_like(held)
    for parameter, gradient, own in zip(parameters, gradients, needed, strict=True):
        parameter.requires_grad_(own)
        if gradient is not None:
            part_of(memory, parameter).add_(gradient)
    part = part_of(memory, held)
    if part.ndim == 2:
        return part
    return torch.cat(list(part), dim=0 if place.name == "W_O" else 1)
