"""The browser that these tests open their pages in."""

from __future__ import annotations

import pytest
from support.browser import chromium_or_skip


@pytest.fixture(scope="session")
def chromium() -> str:
    """Its path; without one the tests are skipped, and fail in CI."""
    return chromium_or_skip()
