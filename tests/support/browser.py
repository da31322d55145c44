"""Pages in a real browser, offline: headless Chromium draws them, and says what is in them then."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["WATCH", "browse", "chromium_or_skip"]

OFFLINE = ["--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"]
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--hide-scrollbars"]

WATCH = """<script>
const problems = [];
const report = words => { problems.push(words); document.documentElement.setAttribute("data-errors", problems.join("; ")); };
addEventListener("error", e => report(e.message));
addEventListener("unhandledrejection", e => report(String(e.reason)));
document.addEventListener("securitypolicyviolation", e => report("policy: " + e.violatedDirective + " " + e.blockedURI));
const said = console.error;
console.error = (...words) => { report(words.join(" ")); said(...words); };
for (const dialog of ["alert", "confirm", "prompt", "open"]) window[dialog] = () => report(dialog);
</script>"""
"""Writes every error, dialog and breach of the page's policy into the page. It stands before the policy, which would refuse it."""


def chromium_or_skip() -> str:
    """Where Chromium is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        message = "Chromium is not installed, so no page was opened (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def browse(chromium: str, page: Path, profile: Path, *action: str, width: int = 1300, height: int = 1900) -> str:
    """What Chromium prints after an action, such as ``--dump-dom``."""
    command = [chromium, *QUIET, *OFFLINE, f"--user-data-dir={profile}", "--virtual-time-budget=20000", f"--window-size={width},{height}", *action]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=240, check=True).stdout
