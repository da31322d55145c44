"""Runs on Ray workers end with the bytes of runs in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.places import FACTLM_LAYER

import tl_knowledge as tlk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all of the file; its workers and this process have one thread each, so that sums are in one order."""
    ray = pytest.importorskip("ray", reason="Ray is not installed, so the Ray runner was not run (pip install 'tl-knowledge[ray]')")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False, object_store_memory=100 * 2**20)
    try:
        yield
    finally:
        ray.shutdown()
        torch.set_num_threads(threads)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))}


@pytest.mark.parametrize(("protocol", "gone"), [("sequential", []), ("batch", ["part-00001.parquet"])])
def test_growth_on_ray(tmp_path, protocol, gone):
    """Also of a run that was stopped: only what is missing is sent out."""
    methods = {"FT": tlk.FineTune(layer=FACTLM_LAYER, steps=3), "FT+L": tlk.editing.FineTuneConstrained(layer=FACTLM_LAYER, steps=3)}
    call = {"sizes": [1, 2], "protocol": protocol, "progress": False}
    here = tlk.evaluation.measure_growth("factlm", tlk.load_edit_cases()[:2], methods, store=tmp_path / "here", **call)
    there = tmp_path / "there"
    if gone:
        tlk.evaluation.measure_growth("factlm", tlk.load_edit_cases()[:2], methods, store=there, **call)
        for name in gone:
            (there / name).unlink()
    far = tlk.evaluation.measure_growth("factlm", tlk.load_edit_cases()[:2], methods, store=there, runner="ray", **call)
    assert len(files_of(there)) == 5 and files_of(there) == files_of(tmp_path / "here")
    assert far.save(tmp_path / "far").read_bytes() == here.save(tmp_path / "near").read_bytes()


def test_a_fact_sets_circuit_on_ray(tmp_path):
    call = {"samples": 2, "limit": 5, "facts_per_part": 2, "progress": False}
    facts = tlk.load_facts("factlm")[:4]
    here = tlk.circuits.from_facts("factlm", facts, store=tmp_path / "here", **call)
    far = tlk.circuits.from_facts("factlm", facts, store=tmp_path / "there", runner="ray", **call)
    assert len(files_of(tmp_path / "there")) == 5 and files_of(tmp_path / "there") == files_of(tmp_path / "here")
    assert far.save(tmp_path / "far").read_bytes() == here.save(tmp_path / "near").read_bytes()


def test_a_fact_sets_heads_in_another_metric_on_ray(tmp_path):
    call = {"metric": "logit_difference", "against": " London", "components": ["head", "mlp_out"], "layers": [4], "samples": 2, "facts_per_part": 2}
    facts = tlk.load_facts("factlm")[:4]
    here = tlk.trace_facts("factlm", facts, store=tmp_path / "here", progress=False, **call)
    far = tlk.trace_facts("factlm", facts, store=tmp_path / "there", runner="ray", progress=False, **call)
    assert len(files_of(tmp_path / "there")) > 2 and files_of(tmp_path / "there") == files_of(tmp_path / "here")
    assert far.save(tmp_path / "far").read_bytes() == here.save(tmp_path / "near").read_bytes()
