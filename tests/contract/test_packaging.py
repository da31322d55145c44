"""What a release must agree on, and what a wheel must carry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import tl_knowledge as tlk

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tl_knowledge"


def section(text: str, name: str) -> str:
    """One table of pyproject.toml, as text: Python 3.10 has no parser of its own."""
    found = re.search(rf"^\[{re.escape(name)}\]$(.*?)^\[", text + "\n[", re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_version_is_the_same_everywhere():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{tlk.__version__}"' in section(pyproject, "project")
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == tlk.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == tlk.__version__


def test_every_package_has_the_stub_that_its_lazy_names_come_from():
    for initial in PACKAGE.glob("**/__init__.py"):
        if "lazy_loader" in initial.read_text(encoding="utf-8"):
            assert initial.with_suffix(".pyi").is_file(), initial


@pytest.mark.parametrize(
    "needed",
    [
        "py.typed",
        "factlm/model.safetensors",
        "factlm/facts.json",
        "factlm_llama/model.safetensors",
        "datasets/blimp_sample",
        "drawing/templates",
        "explore/page/assets",
    ],
)
def test_what_is_read_at_run_time_lies_in_the_package(needed):
    assert (PACKAGE / needed).exists()


def test_constraints_pin_what_pyproject_asks_for():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.search(r"^dependencies = \[$(.*?)^\]", section(pyproject, "project"), re.MULTILINE | re.DOTALL)
    assert dependencies is not None
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = re.findall(r'^    "([A-Za-z0-9_-]+)', dependencies[1], re.MULTILINE)
    assert {name.lower().replace("_", "-") for name in wanted} <= pinned
