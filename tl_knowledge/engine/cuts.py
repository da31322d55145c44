"""Work in a row cut into groups of neighbours that run together: the cheapest of all ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["cheapest_cuts"]


def cheapest_cuts(count: int, costs: Callable[[int], Iterable[float]]) -> list[range]:
    """The cheapest way to cut so many things, in their order, into groups; of equally cheap ones that with the smallest first groups.

    Found from the last thing to the first, by the cheapest way to cut all those behind a group.

    Args:
        costs: what a group costs that begins at a thing, with nothing more in it, with one more, and so on to the last thing.

    Example:
        >>> apart = [0, 1, 7, 8]
        >>> cheapest_cuts(4, lambda first: (3 + place - apart[first] for place in apart[first:]))
        [range(0, 2), range(2, 4)]
    """
    least: list[tuple[float, int]] = [(0.0, 0)]  # of the last so many: the cost, and how many of them go together first
    for first in reversed(range(count)):
        least.append(min((cost + least[count - first - size][0], size) for size, cost in enumerate(costs(first), start=1)))
    groups, first = list[range](), 0
    while first < count:
        groups.append(range(first, first + least[count - first][1]))
        first = groups[-1].stop
    return groups
