"""Files: what is damaged is refused, what is written is whole, and a run has its folder to itself."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from support import tokenizer_of_sixty_words
from support.edits import random_edit
from support.models import BUILDERS

import tl_knowledge as tlk
from tl_knowledge.errors import DataError
from tl_knowledge.results import storage
from tl_knowledge.results.run_folder import RunFolder, taken_lock

pytestmark = pytest.mark.touches_model

FLIPS = 40
FACTS = [tlk.Fact(f"w{k} w9", "w1 {} w4 w8", f" w{k + 9}", relation="r") for k in range(3, 7)]


@pytest.fixture(scope="module")
def tiny():
    model = BUILDERS["bridge-gpt2"]()
    model.tokenizer = tokenizer_of_sixty_words()
    return model


def values_of(result) -> str:
    """Everything in a result, to compare."""
    tensors: dict = {}
    fields = storage_fields(result, tensors)
    return json.dumps(fields, default=str, sort_keys=True) + "".join(f"{name}{tensor.tolist()}" for name, tensor in sorted(tensors.items()))


def storage_fields(result, tensors):
    from tl_knowledge.results.packing import packed_fields

    return packed_fields(result, tensors)


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """A file of every kind: a trace, moments, an edit (safetensors), an average, a report, a perturbation test (parquet)."""
    folder = tmp_path_factory.mktemp("saved")
    prompt = tlk.Prompt.from_fact(tiny, FACTS[0])
    case = tlk.EditCase(FACTS[0], " w11", (FACTS[0].rephrase("w2 {} w4"),), (FACTS[1],))
    results = {
        "trace": tlk.trace(tiny, prompt, 1.0, samples=2, progress=False),
        "moments": tlk.collect_key_moments(tiny, ["w1 w2 w3 w4 w5"], layers=[1], progress=False),
        "edit": random_edit(tiny, (1,), 1),
        "average": tlk.trace_facts(tiny, FACTS, 1.0, samples=1, known_only=False, progress=False),
        "report": tlk.evaluate(tiny, case, tlk.FineTune(1, steps=1), progress=False),
        "test": tlk.tracing.perturb_embeddings(tiny, FACTS, 1.0, samples=1, progress=False),
    }
    return {name: (result, result.save(folder / name)) for name, result in results.items()}


@pytest.mark.parametrize("kind", ["trace", "moments", "edit", "average", "report", "test"])
def test_no_flipped_bit_goes_unnoticed(saved, kind, tmp_path):
    """Refused, or in bytes that nobody reads: other values never."""
    result, path = saved[kind]
    whole, expected = path.read_bytes(), values_of(type(result).load(path))
    draw, copy, refused = random.Random(kind), tmp_path / path.name, 0
    for _ in range(FLIPS):
        bit = draw.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(damaged)
        try:
            again = type(result).load(copy)
        except DataError as error:
            assert str(copy) in str(error)
            refused += 1
        else:
            assert values_of(again) == expected
    assert refused > FLIPS / 4


@pytest.mark.parametrize("kind", ["trace", "average"])
def test_a_cut_file_is_refused(saved, kind, tmp_path):
    result, path = saved[kind]
    for part in (0, 8, 100, path.stat().st_size - 1):
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes()[:part])
        with pytest.raises(DataError, match=r"cannot read|damaged"):
            type(result).load(copy)


def test_files_of_the_first_schema_are_still_read(tmp_path, monkeypatch):
    header = json.dumps({"schema": 1, "kind": "Old", "fields": {"a": 1}})
    storage.save_file({"x": torch.ones(2)}, tmp_path / "old.safetensors", metadata={"tl_knowledge": header})
    tensors, fields = storage.read_result(tmp_path / "old", "Old")
    assert fields == {"a": 1} and tensors["x"].tolist() == [1.0, 1.0]


RUN = {"facts": "x", "settings": {"samples": 1}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{", "damaged"), ("[]", "damaged"), ("{}", "damaged"), ("[" * 100_000, "damaged"), (json.dumps(RUN | {"facts": "y"}), "other facts")],
)
def test_a_damaged_run_is_refused(tmp_path, content, complaint):
    RunFolder(tmp_path / "run", RUN, "f()").close()
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(DataError, match=complaint):
        RunFolder(tmp_path / "run", RUN, "f()")


def test_stray_and_foreign_parts_are_refused(tiny, tmp_path):
    folder = tmp_path / "run"
    call = {"samples": 1, "known_only": False, "facts_per_part": 2, "progress": False}
    tlk.trace_facts(tiny, FACTS, 1.0, store=folder, **call)
    (folder / "part-1.parquet").write_bytes((folder / "part-00001.parquet").read_bytes())
    with pytest.raises(DataError, match=r"'part-1\.parquet', which is no part"):
        tlk.trace_facts(tiny, FACTS, 1.0, store=folder, **call)
    (folder / "part-1.parquet").unlink()
    (folder / "part-00001.parquet").write_bytes((folder / "part-00000.parquet").read_bytes())
    with pytest.raises(DataError, match=r"part-00001\.parquet.* has other facts than its place"):
        tlk.trace_facts(tiny, FACTS, 1.0, store=folder, **call)


def test_a_part_of_other_settings_is_refused(tiny, tmp_path):
    call = {"known_only": False, "facts_per_part": 2, "progress": False}
    for samples in (1, 3):
        tlk.trace_facts(tiny, FACTS, 1.0, store=tmp_path / str(samples), samples=samples, **call)
    (tmp_path / "1" / "part-00001.parquet").write_bytes((tmp_path / "3" / "part-00001.parquet").read_bytes())
    with pytest.raises(DataError, match="or other settings; delete it"):
        tlk.trace_facts(tiny, FACTS, 1.0, store=tmp_path / "1", samples=1, **call)
    with pytest.raises(DataError, match="traced with different settings"):
        tlk.TraceAverage.load(tmp_path / "1")


def test_a_copied_part_counts_once_or_is_refused(tiny, tmp_path):
    folder = tmp_path / "run"
    tlk.trace_facts(tiny, FACTS, 1.0, store=folder, samples=1, known_only=False, facts_per_part=2, progress=False)
    whole = (folder / "part-00000.parquet").read_bytes()
    (folder / "part-00000 (copy).parquet").write_bytes(whole)
    assert tlk.TraceAverage.load(folder).given == len(FACTS)
    (folder / "part-00001.parquet").write_bytes(whole)
    with pytest.raises(DataError, match="two parts have the same facts"):
        tlk.TraceAverage.load(folder)


def test_an_evaluation_s_part_has_the_cases_of_its_place(tiny, tmp_path, monkeypatch):
    from tl_knowledge.evaluation import driver

    monkeypatch.setattr(driver, "CASES_PER_PART", 1)
    cases = [tlk.EditCase(fact, " w11", (fact.rephrase("w2 {} w4"),), (FACTS[3],)) for fact in FACTS[:2]]
    first = tlk.evaluate(tiny, cases, tlk.FineTune(1, steps=1), store=tmp_path / "run", progress=False)
    again = tlk.evaluate(tiny, cases, tlk.FineTune(1, steps=1), store=tmp_path / "run", progress=False)
    assert again.table.equals(first.table)
    parts = [tmp_path / "run" / f"part-0000{k}.parquet" for k in (0, 1)]
    parts[1].write_bytes(parts[0].read_bytes())
    with pytest.raises(DataError, match=r"part-00001\.parquet.* has other cases than its place"):
        tlk.evaluate(tiny, cases, tlk.FineTune(1, steps=1), store=tmp_path / "run", progress=False)


def test_two_runs_on_one_folder(tmp_path):
    first = RunFolder(tmp_path / "run", RUN, "f()")
    partial = tmp_path / "run" / "part-00000.parquet.xyz.partial"
    partial.write_text("half")
    with pytest.raises(DataError, match=r"another f\(\) run is at work in .*/run'; wait for it"):
        RunFolder(tmp_path / "run", RUN, "f()")
    assert partial.exists()
    first.close()
    RunFolder(tmp_path / "run", RUN, "f()").close()
    assert not partial.exists()


def test_a_killed_run_leaves_no_lock(tmp_path):
    opened = f"RunFolder({str(tmp_path / 'run')!r}, {RUN!r}, 'f()')"
    program = f"from tl_knowledge.results.run_folder import RunFolder; import os; kept = {opened}; os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    RunFolder(tmp_path / "run", RUN, "f()").close()


def test_killed_while_a_file_is_written(tiny, tmp_path):
    """Half a part was written when the process was killed: the run goes on, and gives the same."""
    program = textwrap.dedent(
        f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from tl_knowledge.results import storage
        real = storage.pq.write_table
        written = []
        def write(table, where, **kwargs):
            real(table, where, **kwargs)
            if isinstance(where, storage.Path):
                written.append(where)
                if len(written) == 2:
                    whole = where.read_bytes()
                    where.write_bytes(whole[: len(whole) // 2])
                    os.kill(os.getpid(), 9)
        storage.pq.write_table = write
        from support.models import BUILDERS, tokenizer_of_sixty_words
        import tl_knowledge as tlk
        model = BUILDERS["bridge-gpt2"]()
        model.tokenizer = tokenizer_of_sixty_words()
        facts = [tlk.Fact(f"w{{k}} w9", "w1 {{}} w4 w8", f" w{{k + 9}}", relation="r") for k in range(3, 7)]
        tlk.trace_facts(model, facts, 1.0, samples=1, known_only=False, facts_per_part=1, store={str(tmp_path / "run")!r}, progress=False)
        """
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    names = sorted(path.name for path in (tmp_path / "run").iterdir() if path.suffix == ".parquet")
    assert names == ["part-00000.parquet"] and list((tmp_path / "run").glob("*.partial"))
    call = {"samples": 1, "known_only": False, "facts_per_part": 1, "progress": False}
    resumed = tlk.trace_facts(tiny, FACTS, 1.0, store=tmp_path / "run", **call)
    whole = tlk.trace_facts(tiny, FACTS, 1.0, **call)
    for one, other in zip(resumed.traces, whole.traces, strict=True):
        np.testing.assert_allclose(one.effect, other.effect, rtol=0, atol=1e-12)
    assert not list((tmp_path / "run").glob("*.partial"))


def test_fields_that_are_missing_are_our_error(tmp_path):
    storage.write_result(tmp_path / "m", "KeyMoments", {}, {"tokens": 3})
    with pytest.raises(DataError, match="does not have the fields of this version's KeyMoments"):
        tlk.KeyMoments.load(tmp_path / "m")


def test_moments_are_those_of_their_name(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="it is a file"):
        tlk.collect_key_moments(tiny, ["w1 w2"], store=tmp_path / "file", progress=False)
    call = {"store": tmp_path / "store", "progress": False}
    tlk.collect_key_moments(tiny, ["w1 w2 w3"], layers=[0, 1], **call)
    first, second = sorted((tmp_path / "store").glob("*-layer*"))
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match="another layer"):
        tlk.collect_key_moments(tiny, ["w1 w2 w3"], layers=[0], **call)


def test_two_collections_wait_for_each_other(tiny, tmp_path):
    call = {"layers": [0], "store": tmp_path, "progress": False}
    first = tlk.collect_key_moments(tiny, ["w1 w2 w3"], **call)
    (kept,) = tmp_path.glob("*-layer0.safetensors")
    lock = taken_lock(kept.with_name(kept.name.replace("-layer0.safetensors", ".lock")))
    second = Thread(target=lambda: tlk.collect_key_moments(tiny, ["w1 w2 w3"], **call))
    second.start()
    second.join(timeout=1)
    assert second.is_alive()
    lock.release()
    second.join(timeout=30)
    assert not second.is_alive() and torch.equal(tlk.KeyMoments.load(kept).moments[0], first.moments[0])
