"""A codebook: keys with a radius, and the value that stands in a linear map's output near each (Hartvigsen et al. 2023, algorithm 1)::

    distance of a new key to the nearest one        its label     then
    further than both radii together                any           a new key, with the radius it came with
    nearer                                          another       a new key; both radii become half of the distance
    nearer                                          the same      no new key: the old one's radius grows to reach it, its value is the new one
    0                                               any           the old key's value and label are the new ones

The last line is not in the paper, whose two radii of 0 would leave the old value in place. A radius that grows goes 1% beyond what it has to
reach, so that rounding does not decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

__all__ = ["Codebook"]

REACH = 1.01
SAME = 1e-5
"""Keys that are nearer than this part of their length are the same one."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """Keys, values, radii and labels, in the order they came.

    Attributes:
        keys: inputs of the map.
        values: outputs of the map.
        radii: euclidean, in float64.
        labels: what each value makes the model say.
    """

    keys: Float[torch.Tensor, "key d_in"]
    values: Float[torch.Tensor, "key d_out"]
    radii: Float[torch.Tensor, " key"]
    labels: tuple[str, ...]

    @classmethod
    def empty(cls, key: Float[torch.Tensor, " d_in"], value: Float[torch.Tensor, " d_out"]) -> Codebook:
        """A codebook for keys and values like these."""
        return cls(key.new_zeros(0, len(key)), value.new_zeros(0, len(value)), key.new_zeros(0, dtype=torch.float64), ())

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, key: Float[torch.Tensor, " d_in"], label: str, radius: float) -> tuple[int, float | None]:
        """Where a key would go: the number of the key that will hold its value, and its distance to the nearest one (``None`` without any)."""
        if not len(self):
            return 0, None
        distances = (self.keys.double() - key.double()).norm(dim=-1)
        nearest = int(distances.argmin())
        distance = float(distances[nearest])
        if _is_same(distance, key):
            return nearest, 0.0
        near = distance <= radius + float(self.radii[nearest])
        return nearest if near and label == self.labels[nearest] else len(self), distance

    def with_entry(self, key: Float[torch.Tensor, " d_in"], value: Float[torch.Tensor, " d_out"], label: str, radius: float) -> Codebook:
        """The codebook after one more key and its value (the table above)."""
        number, distance = self.place(key, label, radius)
        keys, values, radii, labels = self.keys, self.values, self.radii.clone(), list(self.labels)
        if number < len(self):  # the old key stands for the new one
            values, labels[number] = values.clone(), label
            values[number] = value.to(values)
            if distance is not None and distance > float(radii[number]):
                radii[number] = REACH * distance
            return Codebook(keys, values, radii, tuple(labels))
        own = radius
        if distance is not None:
            nearest = int((keys.double() - key.double()).norm(dim=-1).argmin())
            if distance <= radius + float(radii[nearest]):
                own = distance / 2
                radii[nearest] = own
        keys, values = torch.cat([keys, key[None].to(keys)]), torch.cat([values, value[None].to(values)])
        return Codebook(keys, values, torch.cat([radii, radii.new_tensor([own])]), (*labels, label))

    def nearest(self, queries: Float[torch.Tensor, "*pos d_in"]) -> tuple[Int[torch.Tensor, "*pos"], Bool[torch.Tensor, "*pos"]]:
        """For each query the number of the nearest key, and whether it is within its radius."""
        wide = torch.promote_types(queries.dtype, torch.float32)
        flat = queries.reshape(-1, queries.shape[-1]).to(wide)
        distances = torch.cdist(flat, self.keys.to(flat), compute_mode="donot_use_mm_for_euclid_dist")
        closest = distances.min(dim=1)
        within = closest.values.double() <= self.radii.to(closest.values.device)[closest.indices]
        return closest.indices.view(queries.shape[:-1]), within.view(queries.shape[:-1])

    def applied(
        self, queries: Float[torch.Tensor, "*pos d_in"], outputs: Float[torch.Tensor, "*pos d_out"], trained: tuple[int, torch.Tensor] | None = None
    ) -> Float[torch.Tensor, "*pos d_out"]:
        """The map's outputs, with the value of the nearest key wherever a query is within its radius; the same bits elsewhere.

        Args:
            trained: the number of a key, and the value to take for it.
        """
        if not len(self):
            return outputs
        number, within = self.nearest(queries)
        if not bool(within.any()):
            return outputs
        chosen = self.values.to(outputs)[number]
        if trained is not None:
            chosen = torch.where((number == trained[0])[..., None], trained[1].to(outputs), chosen)
        return torch.where(within[..., None], chosen, outputs)


def _is_same(distance: float, key: torch.Tensor) -> bool:
    return distance <= SAME * float(key.double().norm())
