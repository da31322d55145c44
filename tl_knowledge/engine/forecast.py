"""How long work will take, said before it is done: floating-point operations counted from the model's shape, over the rate that it reaches here.

The rate is measured on one forward, and again on every part of the work that is done, so that what is said of the rest follows the machine.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch

from tl_knowledge.arrays import Tokens
from tl_knowledge.engine.fused import fused_activations
from tl_knowledge.engine.progress import DELAY, progress_bar, progress_watched
from tl_knowledge.engine.recording import run_until
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.models.hook_names import UNEMBED_IN
from tl_knowledge.models.protocol import HookedModel, layer_count

__all__ = ["PartsBar", "counted_work", "duration", "measured_rate", "parts_bar"]

ROWS, TOKENS = 8, 1024  # of the forward that is timed, at most: enough for products of matrices to run as in a batch
UNITS = ((90.0, 1.0, "s"), (90.0 * 60, 60.0, "min"), (float("inf"), 3600.0, "h"))


def counted_work(model: HookedModel, passes: int | float, answers: int | float) -> float:
    """Floating-point operations of matrix products.

    Args:
        passes: how often a token goes through a block.
        answers: how many positions are unembedded.

    Example:
        >>> import tl_knowledge as tlk
        >>> counted_work(tlk.load_model("factlm"), passes=1, answers=0)  # 8 d^2 of attention, 4 d d_mlp of the MLP
        393216.0
    """
    config = model.cfg
    width, d_mlp = int(config.d_model), int(config.d_mlp or 0)
    matrices = 3 if getattr(config, "gated_mlp", False) else 2
    block = 8 * width**2 + 2 * matrices * width * d_mlp
    return float(passes * block + answers * 2 * width * int(config.d_vocab))


def measured_rate(model: HookedModel, tokens: Tokens) -> float:
    """Floating-point operations a second that this model reaches here and now: of one forward of some copies of a prompt ``[1 pos]``, its second."""
    rows = tokens.expand(max(1, min(ROWS, TOKENS // tokens.shape[1])), -1)
    last: Any = torch.tensor([[tokens.shape[1] - 1]], device=tokens.device)
    work = counted_work(model, rows.numel() * layer_count(model), 0)
    seconds = 0.0
    for _ in range(2):
        start = perf_counter()
        with fused_activations(model):
            run_until(model, rows, keep_positions(last), UNEMBED_IN)
        if tokens.is_cuda:
            torch.cuda.synchronize(tokens.device)
        seconds = perf_counter() - start
    return work / seconds


def duration(seconds: float) -> str:
    """A time as it is said of something that is not known exactly.

    Example:
        >>> [duration(seconds) for seconds in (0.3, 4.4, 38.0, 130.0, 8000.0)]
        ['about 1 s', 'about 4 s', 'about 40 s', 'about 2 min', 'about 2 h']
    """
    size, unit = next((size, unit) for below, size, unit in UNITS if seconds < below)
    count = max(1, round(seconds / size))
    return f"about {count if count < 20 else round(count, -1)} {unit}"


class PartsBar:
    """Work in parts of unequal length, each said with the time that is left.

    Args:
        work: of every part, by its name, in the order in which they are done.
        rate: at first.
    """

    def __init__(self, bar: Any, what: str, work: Mapping[str, float], rate: float) -> None:
        self.bar, self.what, self.work, self.rate = bar, what, work, rate
        self.started = perf_counter()
        self.done = 0.0

    @property
    def seconds_left(self) -> float:
        """Of all parts that are not done, at the rate of those that are."""
        return (sum(self.work.values()) - self.done) / self.rate

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """One part is done inside of the ``with``."""
        spent, left = perf_counter() - self.started, self.seconds_left
        self.bar.set_description(f"{self.what}: {name}, {duration(left)} left", refresh=spent + left > DELAY)
        yield
        self.done += self.work[name]
        if self.done:
            self.rate = self.done / (perf_counter() - self.started)
        self.bar.update()


@contextmanager
def parts_bar(model: HookedModel, tokens: Tokens, *, what: str, work: Mapping[str, float], progress: bool, leave: bool = True) -> Generator[PartsBar]:
    """A progress bar of parts that says at once how long all of them will take, if that is more than two seconds.

    Args:
        tokens: ``[1 pos]``, a prompt such as those that are run.
        work: floating-point operations of each part (`counted_work`), by name.
        progress: whether to show it at all; where nobody sees it, nothing is measured beforehand.
    """
    rate = measured_rate(model, tokens) if progress or progress_watched() else 1.0
    whole = sum(work.values()) / rate
    with progress_bar(what=f"{what} ({duration(whole)})", unit="part", progress=progress, total=len(work), leave=leave, seconds=whole) as bar:
        yield PartsBar(bar, what, work, rate)
