"""Programs that a test kills with signal 9, in a process of their own; and the same text in this one, where all is imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import torch

__all__ = ["kill_once", "run_here"]


def kill_once(program: str, *arguments: object, ready: Callable[[], bool], seconds: float = 240) -> None:
    """Start a program and kill it as soon as it is `ready`; it must still run then."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + seconds
    while not (there := ready()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert there, f"it was not ready to be killed after {seconds:g} seconds"
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def run_here(program: str, *arguments: object) -> None:
    """The same program to its end."""
    command, threads = sys.argv, torch.get_num_threads()
    sys.argv = ["-c", *map(str, arguments)]
    torch.set_num_threads(1)
    try:
        exec(program, {"__name__": "__main__"})
    finally:
        sys.argv = command
        torch.set_num_threads(threads)
