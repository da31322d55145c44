"""Codebooks written out in plain Python, and small edits that are hooks."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

import tl_knowledge as tlk
from tl_knowledge.editing import GRACE, TransformerPatcher
from tl_knowledge.engine.recording import record
from tl_knowledge.models.mlp_maps import mlp_map

FACTS = [
    tlk.Fact("w3 w9", "w1 {} w4 w8", " w9 w2"),
    tlk.Fact("w5", "w1 {} w4 w8", " w30"),
    tlk.Fact("w30 w31", "w2 {} w8 w6", " w11"),
    tlk.Fact("w20 w21", "w2 {} w8", " w30"),
]
OTHER = tlk.Fact("w40 w41", "w44 {} w45", " w1")
QUICK = replace(GRACE.small(), steps=4)
MATRICES = ["W_in", "W_out"]
NEURONS = replace(TransformerPatcher.small(), steps=6)


TOKENS = torch.randint(0, 57, (3, 6), generator=torch.Generator().manual_seed(5))


def random_edits(model, matrix, count=4, facts=2):
    """Edits with keys near what the map reads of some of those tokens, some of them near each other, and any values."""
    place, draw = mlp_map(model, matrix, 1), torch.Generator().manual_seed(3)
    inputs = record(model, TOKENS, [], [place.query])[place.query].flatten(0, -2)
    radius = float((inputs - inputs.roll(1, 0)).norm(dim=-1).mean()) / 3
    width = record(model, TOKENS, [], [place.output])[place.output].shape[-1]
    like = tlk.plan_edit(model, FACTS[0], replace(QUICK, steps=1, matrix=matrix))
    edits = []
    for number in range(count):
        at = torch.randint(0, 9, (facts,), generator=draw)
        off = torch.randn(facts, inputs.shape[1], generator=draw, dtype=inputs.dtype)
        keys = inputs[at] + radius * 0.8 * off / off.norm(dim=-1, keepdim=True)
        values = torch.randn(facts, width, generator=draw, dtype=inputs.dtype)
        edits.append(replace(like, keys=keys, values=values, labels=tuple(f"label {(number + i) % 3}" for i in range(facts)), radius=radius))
    return edits


def applies(edit, model):
    """Apply an edit for one run."""
    with edit.applied(model):
        model(torch.tensor([[1, 2, 3]]))


def plain_codebook(entries):
    """Algorithm 1 of Hartvigsen et al. 2023 over lists of numbers: ``[key, value, label, radius]`` for each key that there is in the end.

    Args:
        entries: ``(key, value, label, radius)`` in their order.
    """
    book: list[list] = []
    for key, value, label, radius in entries:
        if not book:
            book.append([key, value, label, radius])
            continue
        distances = [math.dist(key, other[0]) for other in book]
        distance = min(distances)
        nearest = book[distances.index(distance)]
        if distance <= 1e-5 * math.hypot(*key):
            nearest[1], nearest[2] = value, label
        elif distance > radius + nearest[3]:
            book.append([key, value, label, radius])
        elif label == nearest[2]:
            nearest[1] = value
            if distance > nearest[3]:
                nearest[3] = 1.01 * distance
        else:
            nearest[3] = distance / 2
            book.append([key, value, label, distance / 2])
    return book


def slow_lookup(book, query):
    """The value for one query, or nothing, key by key."""
    if not book:
        return None
    distances = [math.dist(query, entry[0]) for entry in book]
    nearest = book[distances.index(min(distances))]
    return nearest[1] if min(distances) <= nearest[3] else None


def slow_codebook_hooks(place, book):
    """A codebook as hooks that look at one position after the other."""
    read: dict[str, torch.Tensor] = {}

    def change(outputs, *, hook):
        changed = outputs.clone()
        flat, queries = changed.view(-1, changed.shape[-1]), read["queries"].reshape(-1, read["queries"].shape[-1])
        for position in range(len(flat)):
            value = slow_lookup(book, queries[position].tolist())
            if value is not None:
                flat[position] = torch.tensor(value, dtype=flat.dtype)
        return changed

    return [(place.query, lambda x, *, hook: read.__setitem__("queries", x.detach())), (place.output, change)]


def entries_of(edit):
    """An edit's own keys and values, as `plain_codebook` takes them."""
    entries = zip(edit.keys.double(), edit.values.double(), edit.labels, strict=True)
    return [(key.tolist(), value.tolist(), label, edit.radius) for key, value, label in entries]
