"""``benchmarks/peers.py``: what it runs side by side computes the same numbers, in float64, and its table says so, or that they differ.

The loops that it writes out run here on every machine; pyvene, nnsight and knowledge-neurons where the extra ``peers`` is installed.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from support.benchmarks import imported

peers = imported("peers")
programs, tables, works = (imported(f"side_by_side.{name}") for name in ("programs", "table", "work"))

pytestmark = pytest.mark.touches_model
LOOPS = [(task, name) for task, each in programs.TASKS.items() for name in each.programs if name.startswith("Meng")]
PACKAGES = [(task, name) for task, each in programs.TASKS.items() for name in each.programs if not name.startswith(("Meng", programs.OURS))]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two layers of random weights; few steps, in which the optimisations do not stop."""
    folder = works.write_network(tmp_path_factory.mktemp("network"), "tiny", 3)
    made = works.load_work(folder, steps=(4, 3), dtype=torch.float64)
    return replace(made, facts=made.facts[:3], samples=3, steps=4)


@pytest.fixture(scope="module")
def ours(work):
    return {task: programs.program(task, programs.OURS)(work) for task in programs.TASKS}


def assert_same(work, task, name, ours, apart=1e-9):
    before = {key: value.clone() for key, value in work.network.state_dict().items()}
    given = programs.program(task, name)(work)
    assert given.shape == ours[task].shape and float(ours[task].abs().max()) > 1e-6
    assert programs.difference(given, ours[task]) < apart
    assert all(torch.equal(value, before[key]) for key, value in work.network.state_dict().items())
    assert not any(module._forward_hooks for module in work.network.modules())


@pytest.mark.parametrize(("task", "name"), LOOPS)
def test_the_written_out_loops_give_our_numbers(work, ours, task, name):
    assert_same(work, task, name, ours)


@pytest.mark.parametrize(("task", "name"), PACKAGES)
def test_the_packages_give_our_numbers(work, ours, task, name):
    module = name.split(",")[0].replace("-", "_")
    pytest.importorskip(module, reason=f"{module} is not installed: pip install -e '.[peers]'")
    assert_same(work, task, name, ours, apart=1e-7 if task == "neurons" else 1e-9)  # knowledge-neurons' path has its points in single precision


def test_everything_states_the_same_prompt(work):
    assert work.tokens.tolist() == work.prompt.tokens.tolist()
    assert tuple(work.subject) == tuple(work.prompt.subject) and work.answer == work.prompt.target_token


def test_products_are_counted(work):
    given, flops = programs.counted(lambda _: torch.ones(2, 3) @ torch.ones(3, 5), work)
    assert given.shape == (2, 5) and flops == 2 * 2 * 3 * 5
    q = torch.randn(2, 4, 7, 16)
    _, flops = programs.counted(lambda _: torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True), work)
    assert flops == 2 * 2 * (2 * 4 * 7 * 7 * 16)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_a_program_of_more_memory_is_seen_to_take_more(work):
    little, much = (programs.peak_of(lambda _, size=size: torch.ones(size, 2**18), work, work) for size in (1, 64))
    assert 50 < much - little < 80  # 63 MiB of float32


def test_the_command_writes_its_table(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tiny: begin, by benchmarks/peers.py -->\nold\n<!-- tiny: end -->\nafter\n")
    asked = ["--shapes", "tiny", "--layers", "2", "--tasks", "states", "--repeats", "1", "--no-memory", "--leave-out", "pyvene", "nnsight"]
    assert peers.main([*asked, "--write", str(page)]) == 0
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert written.count("GFLOP") == 2 and "2 layers, d_model 16" in written and "pyvene, " not in written.split("|---")[1]
    assert written.splitlines()[2] in capsys.readouterr().out


def test_numbers_that_differ_are_said(monkeypatch, capsys):
    rome = programs.program("states", "Meng et al.'s loop")
    monkeypatch.setattr(peers, "program", lambda task, name: (lambda work: 1.1 * rome(work)) if name != programs.OURS else rome)
    asked = ["--shapes", "tiny", "--layers", "2", "--tasks", "states", "--repeats", "0", "--no-memory", "--leave-out", "pyvene", "nnsight"]
    assert peers.main(asked) == 1
    assert "1e-01: NOT THE SAME" in capsys.readouterr().out


def test_a_package_that_is_not_there_is_said(monkeypatch, capsys):
    monkeypatch.setitem(programs.TASKS["states"].programs, "pyvene, clean states given", "with_no_such_package:trace_states")
    asked = ["--shapes", "tiny", "--layers", "2", "--tasks", "states", "--repeats", "0", "--no-memory", "--leave-out", "pyvene, its", "nnsight"]
    assert peers.main(asked) == 0
    assert "| pyvene, clean states given | ModuleNotFoundError: No module named 'side_by_side.with_no_such_package' |" in capsys.readouterr().out


def test_a_page_without_the_markers_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="does not have the lines '<!-- tiny: begin"):
        tables.write_between(page, "tiny", "text")
    assert page.read_text() == "nothing\n"
