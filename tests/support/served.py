"""`tl-knowledge explore` as a program of its own, which a test can kill and start again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

__all__ = ["ServedExplorer"]


class ServedExplorer:
    """The explorer on a port; 0 takes one that is free, which it keeps when it is started again.

    Args:
        folder: where it writes what it says.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port, self._said = port, folder / "explorer.txt"
        self.start()

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self, *options: str) -> None:
        """Start it and wait until it answers.

        Args:
            options: of the command, besides.
        """
        command = [sys.executable, "-m", "tl_knowledge", "explore", "--no-browser", "--port", str(self.port), "--device", "cpu", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self._said.open("w") as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
        end = time.monotonic() + 180
        while time.monotonic() < end:
            words = self._said.read_text()
            assert self._process.poll() is None, words
            if "Ctrl+C" in words:
                self.port = int(words.partition("http://127.0.0.1:")[2].partition("/")[0])
                with urllib.request.urlopen(self.address, timeout=30) as answer:
                    assert answer.status == 200
                return
            time.sleep(0.1)
        raise AssertionError(f"the explorer did not start: {self._said.read_text()}")

    def kill(self) -> None:
        """End it without a word, as a crash would."""
        self._process.kill()
        self._process.wait()
