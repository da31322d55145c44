"""One file: written whole, with the rights that it had, or refused before anything is computed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import tl_knowledge as tlk
from tl_knowledge.cli import app
from tl_knowledge.errors import DataError
from tl_knowledge.results import storage
from tl_knowledge.results.writable import check_writable, check_writable_file

pytestmark = pytest.mark.touches_model


def test_links_devices_and_the_umask(tmp_path):
    target, link = tmp_path / "target.html", tmp_path / "link.html"
    target.write_text("old")
    link.symlink_to(target)
    before = os.umask(0o027)
    try:
        storage.write_text(link, "new")
        storage.write_text(tmp_path / "fresh.html", "new")
    finally:
        os.umask(before)
    assert link.is_symlink() and target.read_text() == "new"
    assert (tmp_path / "fresh.html").stat().st_mode & 0o777 == 0o640
    storage.write_text("/dev/null", "gone")
    assert not Path("/dev/null").is_file() and sorted(path.name for path in tmp_path.iterdir()) == ["fresh.html", "link.html", "target.html"]


def test_a_full_disk_is_our_error_and_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("good")

    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DataError, match=r"cannot write .*page\.html': No space left on device"):
        storage.write_text(path, "bad")
    monkeypatch.undo()
    assert path.read_text() == "good" and [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_paths_are_tried_before_anything_is_computed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is no folder"):
        check_writable(tmp_path / "file" / "run")
    with pytest.raises(DataError, match="it is a folder"):
        check_writable_file(tmp_path)
    check_writable_file(tmp_path / "not" / "yet" / "there.html")
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DataError, match="read-only"):
        check_writable(tmp_path / "x")
    monkeypatch.undo()
    monkeypatch.setattr("tl_knowledge.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    for command in (["trace"], ["report", "The capital of France is"], ["moments"]):
        place = [str(tmp_path)] if command == ["moments"] else ["--out", str(tmp_path)]
        result = CliRunner().invoke(app, [*command, *place])
        assert isinstance(result.exception, DataError) or "it is a folder" in result.output


def test_lines_end_where_lines_end(tmp_path):
    """U+2028 and U+0085 may stand inside a JSON text."""
    path = tmp_path / "facts.jsonl"
    subject = "A\u2028B\x85C"
    record = {"known_id": 1, "subject": subject, "attribute": "x", "template": "{} is", "prediction": " x", "relation_id": "P1"}
    lines = [record | {"prompt": f"{subject} is"}, record | {"subject": "D", "prompt": "D is"}]
    path.write_text("\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n", encoding="utf-8")
    assert [fact.subject for fact in tlk.datasets.load_known(path)] == [subject, "D"]
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"facts\.jsonl, line 1"):
        tlk.datasets.load_known(path)


def test_tables_come_back_as_they_were(tmp_path):
    frame = pd.DataFrame({"a": [1, None, 3], "b": ["x", None, "z"], "c": [[1.0], [], None], "d": [float("nan"), 1.0, -0.0]})
    table = storage.pa.Table.from_pandas(frame, preserve_index=False)
    storage.write_table(tmp_path / "t", "T", table, {"k": "\u2028"})
    again, fields = storage.read_table(tmp_path / "t", "T")
    assert fields == {"k": "\u2028"} and again.num_rows == 3


def test_a_neuron_set_that_lost_a_bit_is_refused(tmp_path):
    some = tlk.NeuronSet(frozenset({(0, 3), (2, 1)}), 4, 8)
    path = some.save(tmp_path / "set")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with suppress(DataError):
            assert tlk.NeuronSet.load(path) == some
    path.write_bytes(whole.replace(b"[2, 1]", b"[2, 2]"))
    with pytest.raises(DataError, match="damaged"):
        tlk.NeuronSet.load(path)
    path.write_text('{"kind": "NeuronSet", "n_layers": 4, "d_mlp": 8, "neurons": [[0, 3], [2, 1]]}', encoding="utf-8-sig")
    assert tlk.NeuronSet.load(path) == some


def test_rights_stay_and_a_redirect_is_written_into(tmp_path):
    path = tmp_path / "secret.html"
    path.write_text("old")
    path.chmod(0o600)
    storage.write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_text() == "new"
    program = "from tl_knowledge.results.storage import write_text; print('a'); write_text('/dev/stdout', 'b\\n'); print('c')"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", program], check=True, stdout=out)
    assert (tmp_path / "out").read_text() == "a\nb\nc\n"
    assert storage.write_result("/dev/null", "K", {"x": torch.ones(1)}, {}) == Path("/dev/null") and not Path("/dev/null.safetensors").exists()


@pytest.mark.parametrize(("path", "complaint"), [("", "is empty"), ("a\0b", "NUL"), ("x" * 300, "300 bytes"), ("\ud800", "surrogates")])
def test_paths_that_no_file_has(path, complaint):
    with pytest.raises(DataError, match=complaint):
        check_writable(path)
    with pytest.raises(DataError):
        storage.write_text(path, "x")


def test_texts_and_records_that_no_file_has(tmp_path):
    with pytest.raises(DataError, match="half of a character"):
        storage.write_text(tmp_path / "x.html", "a\ud800")
    assert not list(tmp_path.iterdir())
    path = tmp_path / "facts.jsonl"
    for bad in ('{"a": "\\ud800"}', '{"a": ' + "1" * 5000 + "}"):
        for text in (bad, f"[{bad}]"):
            path.write_text(text)
            with pytest.raises(DataError, match="line 1"):
                tlk.datasets.load_known(path)
