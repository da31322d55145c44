"""Every piece of code on every page runs as it stands, pasted from the page's top into an empty folder."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import jupytext
import pytest
import typer
from support.snippets import ROOT, blocks_of, commands_of, pages, run_python
from typer.testing import CliRunner

from tl_knowledge.cli import app
from tl_knowledge.editing import METHODS

# How many blocks of each page are shown and not run; each says why, in a comment above it. Not to grow unnoticed.
NOT_RUN = {
    "CONTRIBUTING.md": 1,
    "docs/command_line.md": 1,
    "docs/consequences.md": 1,
    "docs/explorer.md": 1,
    "docs/fact_sets.md": 1,
    "docs/from_easyedit.md": 1,
    "docs/from_knowledge_neurons.md": 1,
    "docs/from_pyvene.md": 1,
    "docs/from_rome.md": 2,
    "docs/neurons.md": 2,
    "docs/reports.md": 1,
    "docs/reproduce.md": 1,
}

PYTHON_PAGES = [page for page in pages() if any(block.language == "python" for block in blocks_of(page))]
SHELL_BLOCKS = [block for page in pages() for block in blocks_of(page) if block.language == "bash"]
OTHER_COMMANDS = {"pip", "make", "cd", ".venv/bin/pytest", ".venv/bin/pre-commit", "python"}


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(page)


def test_the_models_card_is_its_page():
    assert (ROOT / "tl_knowledge" / "factlm" / "README.md").read_bytes() == (ROOT / "docs" / "factlm.md").read_bytes()


def test_what_is_not_run_is_listed_here():
    shown = Counter(block.page for page in pages() for block in blocks_of(page) if block.reason)
    assert dict(shown) == NOT_RUN


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_every_command_of_a_page_exists_and_takes_its_options(block, monkeypatch):
    registered = [line for other in blocks_of(block.page) if other.language == "text" for line in other.source.splitlines()]
    for name, where in re.findall(r'^"(\w+)": "(\S+:\w+)",$', "\n".join(registered), re.MULTILINE):
        monkeypatch.setitem(METHODS, name, where)  # the page says to write this line into the registry first
    commands = typer.main.get_command(app).commands
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    for first, *words in commands_of(block):
        if first == "make":
            assert set(words) <= set(targets), words
        elif first == "tl-knowledge" and words[0] not in ("--help", "--version", "COMMAND"):
            commands[words[0]].make_context(words[0], words[1:])
        else:
            assert first in OTHER_COMMANDS | {"tl-knowledge"}, first
        if first.endswith("pytest"):
            assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [block for block in SHELL_BLOCKS if not block.reason and "tl-knowledge " in block.source], ids=lambda block: f"{block.page}:{block.line}"
)
def test_the_commands_of_a_page_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for first, *words in commands_of(block):
        if first != "tl-knowledge":
            continue
        ran = CliRunner().invoke(app, words, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        for written in re.findall(r"--(?:out|table|save) (\S+)", " ".join(words)):
            assert Path(written).exists(), written


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=lambda page: page.stem)
def test_a_tutorial_has_the_code_of_its_demo(page):
    """`make gallery` writes tutorials from executed notebooks; a demo that was changed since has another code than its page."""
    cells = jupytext.read(ROOT / "demos" / f"{page.stem}.py").cells
    shown = [block.source.split() for block in blocks_of(str(page.relative_to(ROOT))) if block.language == "python"]
    assert shown == [cell.source.split() for cell in cells if cell.cell_type == "code"]
