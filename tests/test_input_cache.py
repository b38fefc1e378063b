"""The cache of input files: used again, made again, never half; and files that change."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from gdig.data.cache import cached_folder
from gdig.data.corpus import open_corpus
from gdig.errors import CorpusError
from tests.test_corpus import ROWS, write_jsonl, write_parquet


@pytest.fixture
def opened(tmp_path):
    return lambda *paths: open_corpus(paths, cache_dir=tmp_path / "cache")


def test_a_second_open_does_not_read_the_rows_again(tmp_path, opened, monkeypatch):
    path, parquet = write_jsonl(tmp_path / "a.jsonl", ROWS), write_parquet(tmp_path / "a.parquet", ROWS)
    opened(path, parquet).rows(0, 20)

    def refuse(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr("gdig.data.json_rows.build_index", refuse)
    monkeypatch.setattr("gdig.data.parquet_rows._convert", refuse)
    assert opened(path, parquet).rows(5, 15) == ROWS[5:] + ROWS[:5]


@pytest.mark.parametrize("writer, name", [(write_jsonl, "a.jsonl"), (write_parquet, "a.parquet")])
def test_a_changed_file_is_read_anew_even_with_the_same_size_and_time(tmp_path, opened, writer, name):
    path = writer(tmp_path / name, [{"a": "1"}, {"b": "22"}] if name == "a.jsonl" else [{"a": "1"}, {"a": "22"}])
    os.utime(path, ns=(10**18, 10**18))
    size = path.stat().st_size
    opened(path)
    rows = [{"a": "22"}, {"b": "1"}] if name == "a.jsonl" else [{"a": "22"}, {"a": "1"}]
    writer(path, rows)
    os.utime(path, ns=(10**18, 10**18))
    assert path.stat().st_size == size
    assert opened(path).rows(0, 2) == rows


def test_a_file_that_changes_while_it_is_open_is_noticed(tmp_path, opened):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    corpus = opened(path)
    path.write_bytes(path.read_bytes()[:-30])
    for read in (lambda: corpus.rows(0, 1), lambda: corpus.take([9])):
        with pytest.raises(CorpusError, match=r"a\.jsonl: the file changed since it was opened"):
            read()
    path.unlink()
    with pytest.raises(CorpusError, match=r"a\.jsonl: cannot be read"):
        corpus.rows(0, 1)


def test_a_damaged_cache_entry_is_made_again(tmp_path, opened):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    opened(path)
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / "starts").write_bytes((entry / "starts").read_bytes()[:16])
    assert opened(path).rows(0, 10) == ROWS


def test_a_full_disk_leaves_no_cache_entry(tmp_path, opened):
    """A limit on the size of files stands in for the full disk: the write fails half-way in the same manner."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"i": i} for i in range(5_000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CorpusError, match=r"cache of input files cannot be written: .*XDG_CACHE_HOME"):
            opened(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "cache").iterdir())
    assert len(opened(path)) == 5_000


def test_a_kill_during_the_conversion_leaves_no_broken_entry(tmp_path):
    program = (
        "import os, signal, sys, pathlib; from gdig.data.cache import cached_folder\n"
        "def build(folder):\n"
        "    (folder / 'data').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "cached_folder(pathlib.Path(sys.argv[1]), 'kind', pathlib.Path(sys.argv[2]), build)"
    )
    source, cache = write_jsonl(tmp_path / "a.jsonl", ROWS), tmp_path / "cache"
    assert subprocess.run([sys.executable, "-c", program, cache, source]).returncode == -9
    (abandoned,) = cache.iterdir()
    for file in (*abandoned.iterdir(), abandoned):
        os.utime(file, (0, 0))  # a day and more ago
    folder = cached_folder(cache, "kind", source, lambda folder: (folder / "data").write_text("whole") and None)
    assert (folder / "data").read_text() == "whole"
    assert list(cache.iterdir()) == [folder]


def test_two_processes_may_open_the_same_file_at_once(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"i": i} for i in range(20_000)])
    program = (
        "import sys; from gdig.data.corpus import open_corpus\n"
        "corpus = open_corpus([sys.argv[1]], cache_dir=sys.argv[2])\n"
        "assert [row['i'] for row in corpus.rows(0, len(corpus))] == list(range(20_000))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", program, path, tmp_path / "cache"]) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1
