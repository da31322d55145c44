"""A tab of headless Chromium that a test drives: it types, clicks, and asks what is there.

Chromium's own protocol goes through two pipes (``--remote-debugging-pipe``), so no other program or package is needed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from support.browser import QUIET

__all__ = ["Chromium", "Tab"]

LOCAL_ONLY = ["--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>;127.0.0.1", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"


class Chromium:
    """A running browser.

    Args:
        path: of the program.
        profile: a folder of its own.
    """

    def __init__(self, path: str, profile: Path) -> None:
        theirs_in, ours_out = (_high(each) for each in os.pipe())
        ours_in, theirs_out = (_high(each) for each in os.pipe())
        command = [path, *QUIET, *LOCAL_ONLY, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        launch = [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), *command]
        self._process = subprocess.Popen(launch, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in, self._rest, self._number = ours_out, ours_in, b"", 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._out)  # which ends it
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def open(self, address: str, *, width: int = 1300, height: int = 1600, dark: bool = False) -> Tab:
        """A new tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        tab = Tab(self, target, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        tab.call("Page.enable")
        tab.call("Runtime.enable")
        tab.call("Network.enable")
        tab.call("Log.enable")
        tab.look(width, height, dark=dark)
        tab.call("Page.navigate", url=address)
        return tab

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """What one command of the protocol answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        end = time.monotonic() + 60
        while time.monotonic() < end:
            answer = self._next(end - time.monotonic())
            if answer is None:
                continue
            if answer.get("id") != self._number:
                self.events.append(answer)
                continue
            assert "error" not in answer, (method, answer["error"])
            return answer["result"]
        raise TimeoutError(f"Chromium did not answer {method}")

    def listen(self, seconds: float) -> None:
        """Take what it says by itself."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            event = self._next(left)
            if event is not None:
                self.events.append(event)

    def _next(self, seconds: float) -> dict[str, Any] | None:
        if b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(seconds, 0))
            read = os.read(self._in, 1 << 20) if ready else None
            assert read != b"", "Chromium is gone"
            self._rest += read or b""
        first, found, rest = self._rest.partition(b"\0")
        if not found:
            return None
        self._rest = rest
        return json.loads(first)


class Tab:
    """One tab."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self.browser, self.target, self.session = browser, target, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command for this tab."""
        return self.browser.call(method, self.session, **parameters)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """How large it is, and whether the system is dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is there."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> None:
        """Wait until it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.value(f"Boolean({expression})"):
                return
            self.browser.listen(0.05)
        raise AssertionError(f"not within {seconds} s: {expression}\n{self.text()[-3000:]}")

    def text(self) -> str:
        """What the page says."""
        return self.value("document.body ? document.body.innerText : ''")

    def says(self, words: str, seconds: float = 30) -> None:
        """Wait for words."""
        self.wait(f"document.body && document.body.innerText.includes({json.dumps(words)})", seconds)

    def click(self, selector: str, *, shift: bool = False) -> None:
        """A real click in the middle of an element, which must be there and not covered."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, modifiers=8 if shift else 0)

    def click_at(self, x: float, y: float) -> None:
        """A real click, after the pointer came there."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, start: str, end: str) -> None:
        """Press on one element, go to another, and let go."""
        (x, y), (to_x, to_y) = self._middle(start), self._middle(end, scroll=False)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        for share in (0.5, 1.0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + share * (to_x - x), y=y + share * (to_y - y), button="left", buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=to_x, y=to_y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Put a text into a field in the place of what is there."""
        self.wait(f"document.querySelector({json.dumps(selector)})")
        self.value(f"{{ const field = document.querySelector({json.dumps(selector)}); field.focus(); field.select(); }}")
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key where the focus is."""
        codes = {"Enter": 13, "Tab": 9, " ": 32, "ArrowRight": 39, "ArrowLeft": 37}
        shared = {"key": key, "code": key if key != " " else "Space", "windowsVirtualKeyCode": codes[key], "modifiers": 8 if shift else 0}
        typed = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        self.call("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", **shared, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def picture(self, path: Path, *, whole: bool = True) -> Path:
        """Its picture as a PNG file, from the top."""
        self.value("scrollTo(0, 0)")
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def requested(self) -> list[str]:
        """Every address that it asked for so far."""
        mine = [event for event in self.browser.events if event.get("sessionId") == self.session]
        return [event["params"]["request"]["url"] for event in mine if event["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """Exceptions and errors of its programs so far."""
        self.browser.listen(0.05)
        said: list[str] = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            if event["method"] == "Runtime.exceptionThrown":
                said.append(json.dumps(event["params"]["exceptionDetails"])[:600])
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                said.append(event["params"]["entry"]["text"])
            if event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] == "error":
                said.append(json.dumps(event["params"]["args"])[:600])
        return said

    def close(self) -> None:
        """Close it."""
        self.browser.call("Target.closeTarget", targetId=self.target)

    def _middle(self, selector: str, *, scroll: bool = True) -> tuple[float, float]:
        self.wait(f"document.querySelector({json.dumps(selector)})")
        found = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if ({json.dumps(scroll)}) e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(), x = b.x + b.width / 2, y = b.y + b.height / 2, top = document.elementFromPoint(x, y);"
            " return [x, y, e === top || e.contains(top), top && top.outerHTML.slice(0, 200)]; })()"
        )
        assert found[2], f"{selector} is covered by {found[3]}"
        return found[0], found[1]


def _high(descriptor: int) -> int:
    """The same pipe under a number that 3 and 4, which Chromium reads and writes, do not collide with."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return high
