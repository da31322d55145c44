"""Codebooks and neurons written out in plain Python, for edits that are hooks."""

from __future__ import annotations

import math

import torch


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
