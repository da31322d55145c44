"""An edit without a method, a method trained in a moment, and obvious programs for what methods compute."""

from __future__ import annotations

from functools import partial

import torch

import tl_knowledge as tlk
from support.models import fingerprint
from tl_knowledge.models.matrices import as_held, held_matrix, memory_like, parameters_sharing, part_of
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


def slow_value(model, rows, layer, settings, sites=None):
    """The optimisation under the rows' objective, with whole forwards from the embedding, row by row; several sites change together."""
    sites, objective = sites or [output_hook(model, layer)], rows.objective
    lengths = [int(rows.scored[k, -1]) + 1 for k in range(len(rows.scored))] + [rows.essence + 1]

    def run(k, deltas):
        def changing(delta):
            def change(activation, *, hook):
                changed = activation.clone()
                changed[0, rows.edited[k]] = changed[0, rows.edited[k]] + delta
                return changed

            return change

        changes = [(site, changing(delta)) for site, delta in zip(sites, deltas, strict=True)]
        return model.run_with_hooks(rows.tokens[k : k + 1, : lengths[k]], fwd_hooks=[*noise(k), *changes])[0].log_softmax(-1)

    def noise(k):
        return tlk.corrupt(rows.subjects[k], objective.noise) if objective.noise is not None and rows.subjects[k] else []

    found: dict = {}

    def catch(site):
        return site, lambda x, *, hook: found.__setitem__(site, x[0, rows.edited[0]].detach())

    model.run_with_hooks(rows.tokens[:1], fwd_hooks=[*noise(0), *map(catch, sites)])
    starts = [found[site] for site in sites]
    deltas = [torch.zeros_like(start, requires_grad=True) for start in starts]
    optimiser = torch.optim.Adam(deltas, lr=settings.learning_rate)
    reference = run(len(lengths) - 1, deltas)[rows.essence].detach()
    losses, weight = [], 1.0
    for step in range(settings.steps):
        asked, likeliest = 0.0, True
        for k in range(len(rows.scored)):
            log_p = run(k, deltas)
            each = torch.stack([log_p[position, token] for position, token in zip(rows.scored[k], rows.answer, strict=True)])
            likeliest &= all(int(log_p[position].argmax()) == token for position, token in zip(rows.scored[k], rows.answer.tolist(), strict=True))
            asked = asked + (-torch.log(1 - each.sum().exp()) if objective.erase else -each.mean()) / len(rows.scored)
        now = run(len(lengths) - 1, deltas)[rows.essence]
        drift = settings.kl_factor * (now.exp() * (now - reference)).sum()
        decay = sum(delta.norm() / start.norm() ** 2 for delta, start in zip(deltas, starts, strict=True))
        loss = weight * asked + drift + settings.weight_decay * decay
        losses.append(float(loss.detach()))
        weight = settings.likeliest_factor if likeliest else 1.0
        settled = likeliest and settings.stop_drift is not None and float(drift.detach()) <= settings.stop_drift
        if losses[-1] < settings.stop_below or settled or step == settings.steps - 1:
            break
        for delta, gradient in zip(deltas, torch.autograd.grad(loss, deltas), strict=True):
            delta.grad = gradient
        optimiser.step()
        with torch.no_grad():
            for delta, start in zip(deltas, starts, strict=True):
                if delta.norm() > settings.clamp * start.norm():
                    delta.mul_(settings.clamp * start.norm() / delta.norm())
    return torch.cat(deltas).detach(), losses


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


def loss_of(model, prompt):
    tokens = torch.cat([prompt.tokens[0], torch.tensor(prompt.answer)])
    log_p = model(tokens[None, :-1])[0].log_softmax(-1)
    return -sum(log_p[len(prompt) - 1 + k, token] for k, token in enumerate(prompt.answer)) / len(prompt.answer)


def slow_training(model, prompts, places, factors, change_of, rate, steps, after=lambda: None):
    """Adam on some factors whose changes are written into the weights at every step: the changes in the end, and the losses.

    Args:
        change_of: each place's change, made of the factors.
        after: what is done to the factors after a step.
    """
    before = [held_matrix(model, place).detach().clone() for place in places]
    optimiser, losses = torch.optim.Adam(factors, lr=rate), []
    for _ in range(steps):
        changes = [change_of(place) for place in places]
        with torch.no_grad():
            for place, change, start in zip(places, changes, before, strict=True):
                held_matrix(model, place).copy_(start + as_held(change, start, place))
        optimiser.zero_grad()
        for prompt in prompts:
            gradients = [weight_gradient(model, place, partial(loss_of, model, prompt)) for place in places]
            sum((change * gradient).sum() for change, gradient in zip(changes, gradients, strict=True)).div(len(prompts)).backward(retain_graph=True)
        losses.append(sum(float(loss_of(model, prompt).detach()) for prompt in prompts) / len(prompts))
        optimiser.step()
        after()
    with torch.no_grad():
        for place, start in zip(places, before, strict=True):
            held_matrix(model, place).copy_(start)
    return [change_of(place).detach() for place in places], losses
