"""Fingerprints of input files and folders."""

from __future__ import annotations

import os
import time

import pytest

from gdig.data import fingerprint
from gdig.data.fingerprint import fingerprint_file, fingerprint_paths
from gdig.errors import CorpusError
from tests.test_corpus import ROWS, write_jsonl


def test_fingerprints_follow_the_content(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    first = fingerprint_file(path)
    assert first == fingerprint_file(path) and first["size"] == 3
    path.write_bytes(b"two")
    assert fingerprint_file(path)["hash"] != first["hash"]
    with pytest.raises(CorpusError, match="missing: cannot be read"):
        fingerprint_file(tmp_path / "missing")


def test_only_the_hash_of_a_file_that_has_settled_is_remembered(tmp_path, monkeypatch):
    """A file written twice within a tick of the clock has the same times both times."""
    path, hashed = tmp_path / "a.bin", []
    path.write_bytes(b"one")
    monkeypatch.setattr(fingerprint, "_hash", lambda *_: hashed.append(1) or "hash")
    now = time.time()
    for seconds_later, times_hashed in ((0, 1), (1, 2), (10, 3), (10, 3), (0, 3)):
        monkeypatch.setattr(fingerprint.time, "time", lambda later=seconds_later: now + later)
        fingerprint_file(path)
        assert len(hashed) == times_hashed


def test_a_large_file_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("gdig.data.fingerprint.WHOLE_UP_TO", 1000)
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200 << 20)
    os.utime(path, ns=(1, 1))
    before = fingerprint_file(path)["hash"]
    for offset, noticed in ((0, True), ((200 << 20) - 1, True), (65536 + 1000, False)):
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(b"x")
        os.utime(path, ns=(1, 1))
        after = fingerprint_file(path)["hash"]
        assert (after != before) == noticed
        before = after
    os.utime(path, ns=(2, 2))
    assert fingerprint_file(path)["hash"] != before


def test_a_file_of_the_system_without_a_size_is_not_waited_for(tmp_path):
    """A model may be a folder of links to such files; /proc/kmsg waits for the next message of the kernel."""
    (tmp_path / "empty").touch()
    (tmp_path / "config.json").symlink_to("/proc/version")
    if not (tmp_path / "config.json").exists():
        pytest.skip("no /proc here")
    assert (tmp_path / "config.json").read_bytes()
    assert fingerprint_file(tmp_path / "config.json") == fingerprint_file(tmp_path / "empty")


def test_fingerprints_of_folders_leave_out_what_does_not_matter(tmp_path):
    model = tmp_path / "model"
    counted = ("model.safetensors", "config.json", "sub/b.txt")
    left_out = ("optimizer.pt", "rng_state_0.pth", "trainer_state.json", "checkpoint-10/model.safetensors", ".git/HEAD")
    for name in (*counted, *left_out, "__pycache__/m.pyc", "cache-12.arrow"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
    assert list(fingerprint_paths([model])) == ["config.json", "model.safetensors", "sub/b.txt"]
    write_jsonl(tmp_path / "pool.jsonl", ROWS)
    both = fingerprint_paths([tmp_path / "pool.jsonl", model])
    assert list(both) == ["pool.jsonl", "model/config.json", "model/model.safetensors", "model/sub/b.txt"]
    assert fingerprint_paths([]) == {}
