"""Export: rows whole, in order, with their gdig object; deterministic and atomic."""

from __future__ import annotations

import datetime
import json
import os
import resource
import subprocess
import sys
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdig.data.check_output import check_output
from gdig.data.corpus import open_corpus
from gdig.data.dataset_info import write_entry
from gdig.data.export import export
from gdig.data.read_back import read_rows
from gdig.errors import ConfigError, CorpusError
from gdig.selection.chosen_rows import read_chosen_rows

ROWS = [
    {"text": "机场 \u2028 \"x\"", "date": "2024-01-02", "n": 1, "meta": {"a": [1, 2.0, None]}},
    {"text": "b", "n": 1.0},
    {"n": 2**70, "text": "c", "gdig": {"old": True}},
]  # fmt: skip


def columns(n):
    return [{"row": np.int64(i), "score": np.float32(0.5) / (i + 1), "cluster": None} for i in range(n)]


@pytest.fixture
def corpus_of(tmp_path):
    def make(rows, name="pool"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return open_corpus([path], cache_dir=tmp_path / "cache")

    return make


@pytest.fixture
def parquet_of(tmp_path):
    def make(table):
        pq.write_table(table, tmp_path / "pool.parquet")
        return open_corpus([tmp_path / "pool.parquet"], cache_dir=tmp_path / "cache")

    return make


def test_jsonl_holds_the_rows_exactly_in_the_order_given(tmp_path, corpus_of):
    out = tmp_path / "new" / "folder" / "out.jsonl"
    export(corpus_of(ROWS), np.array([2, 0, 1]), columns(3), out)
    lines = out.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "" and len(lines) == 3
    expected = [
        {"n": 2**70, "text": "c", "gdig": {"row": 0, "score": 0.5, "cluster": None}},
        {**ROWS[0], "gdig": {"row": 1, "score": 0.25, "cluster": None}},
        {**ROWS[1], "gdig": {"row": 2, "score": float(np.float32(0.5) / 3), "cluster": None}},
    ]
    assert lines == [json.dumps(row, ensure_ascii=False) for row in expected]
    assert sorted(out.parent.iterdir()) == [out]


def test_half_a_surrogate_pair_survives(tmp_path, corpus_of):
    export(corpus_of([{"text": "\ud83d é"}]), [0], [{}], tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8")) == {"text": "\ud83d é", "gdig": {}}


def test_uuids_of_parquet_become_text(tmp_path, parquet_of):
    value = uuid.UUID(int=7)
    export(parquet_of(pa.table({"id": pa.array([value.bytes], pa.uuid())})), [0], [{}], tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"id": str(value), "gdig": {}}


def test_dates_of_parquet_become_iso_text_and_bytes_an_error(tmp_path, parquet_of):
    when = datetime.datetime(2024, 1, 2, 3, 4, 5, 6)
    export(parquet_of(pa.table({"when": [when]})), [0], [{"rank": 0}], tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"when": when.isoformat(), "gdig": {"rank": 0}}
    with pytest.raises(CorpusError, match=r"pool\.parquet, row 1: field 'image': .* write a \.parquet file"):
        export(parquet_of(pa.table({"image": [None, b"\xff"]})), [0, 1], columns(2), tmp_path / "bad.jsonl")
    assert not (tmp_path / "bad.jsonl").exists() and not list(tmp_path.glob(".*"))


def test_what_the_first_row_of_a_file_has_no_place_for_is_told_beforehand(tmp_path, parquet_of, corpus_of):
    images = parquet_of(pa.table({"image": [b"\xff", b"\xfe"]}))
    with pytest.raises(CorpusError, match=r"pool\.parquet, row 0: field 'image': .* write a \.parquet file"):
        check_output(images, tmp_path / "bad.jsonl")
    check_output(images, tmp_path / "good.parquet")
    texts = corpus_of([{"text": "a"}, {"text": "b"}])
    seen = []
    check_output(texts, tmp_path / "good.jsonl.gz", lambda row, content: seen.append(row) or content)
    assert seen == [0]
    check_output(texts, tmp_path / "good.jsonl", lambda row, content: seen.append(row) or content, lambda row: row > 0)
    assert seen == [0, 1], "the first row that may be chosen"
    assert not list(tmp_path.glob("*good*")) and not list(tmp_path.glob("*bad*"))


BYTES = {
    "binary": (pa.binary(), b"\xff"),
    "large binary": (pa.large_binary(), b"\xff"),
    "fixed binary": (pa.binary(1), b"\xff"),
    "binary view": (pa.binary_view(), b"\xff"),
    "image": (pa.struct({"path": pa.string(), "bytes": pa.binary()}), {"path": "a.png", "bytes": b"\xff"}),
    "images": (pa.list_(pa.struct({"bytes": pa.binary()})), [{"bytes": b"\xff"}]),
    "map": (pa.map_(pa.string(), pa.binary()), [("a", b"\xff")]),
    "duration": (pa.duration("s"), datetime.timedelta(seconds=1)),
}


@pytest.mark.parametrize("case", BYTES)
def test_nulls_do_not_hide_what_json_has_no_place_for(tmp_path, parquet_of, case):
    kind, value = BYTES[case]
    corpus = parquet_of(pa.table({"x": pa.array([None] * 2_000 + [value], kind)}))
    with pytest.raises(CorpusError, match=r"pool\.parquet, row 2000: field 'x': .* write a \.parquet file"):
        check_output(corpus, tmp_path / "out.jsonl")
    check_output(corpus, tmp_path / "out.parquet")


def test_a_type_for_bytes_without_bytes_has_a_place(tmp_path, parquet_of):
    """As pictures that are named by their path alone; a UUID is text, and the field gdig is replaced."""
    image = pa.array([{"path": "a.png", "bytes": None}] * 40, pa.struct({"path": pa.string(), "bytes": pa.binary()}))
    ids = pa.array([uuid.UUID(int=7).bytes] * 40, pa.uuid())
    corpus = parquet_of(pa.table({"image": image, "id": ids, "gdig": [b"\xff"] * 40}))
    check_output(corpus, tmp_path / "out.jsonl")
    export(corpus, range(40), columns(40), tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["image"] == {"path": "a.png", "bytes": None}


def test_a_pool_that_neither_file_holds_is_told_of_the_formats(tmp_path):
    """One file has bytes, and the kinds of `prompt` clash behind a null."""
    turns = [{"role": "user", "content": "a"}]
    pq.write_table(pa.table({"prompt": ["a"], "image": [b"\xff"]}), tmp_path / "texts.parquet")
    pq.write_table(pa.table({"prompt": [None, turns]}), tmp_path / "turns.parquet")
    corpus = open_corpus([tmp_path / "texts.parquet", tmp_path / "turns.parquet"], cache_dir=tmp_path / "cache")
    for name in ("out.jsonl", "out.parquet"):
        with pytest.raises(CorpusError, match=r"or choose a format \(messages or tokens\), which gives all rows"):
            check_output(corpus, tmp_path / name)
        check_output(corpus, tmp_path / name, lambda row, content: {"messages": turns})


@pytest.mark.parametrize("name", ["O.JSONL", "O.Jsonl.GZ", "O.PARQUET"])
def test_capital_letters_in_the_ending_do_not_matter(tmp_path, corpus_of, name):
    export(corpus_of(ROWS), [0], columns(1), tmp_path / name)
    assert [row["text"] for row in read_rows(tmp_path / name)] == [ROWS[0]["text"]]
    assert [column["row"] for column in read_chosen_rows(tmp_path / name, 1).columns] == [0]
    assert write_entry(tmp_path / name, "messages") is None, "LLaMA-Factory does not read it"


def test_parquet_of_json_rows_takes_the_types_of_all_rows(tmp_path, corpus_of):
    """More rows than one chunk, with fields that only the last chunk has."""
    rows = [{"i": i, "text": "2024-01-02"} for i in range(2_500)]
    rows[2_400] = {"i": 0.5, "text": None, "late": {"x": ["y"]}}
    export(corpus_of(rows), range(2_500), columns(2_500), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == ["i", "text", "late", "gdig"]
    assert table.column("i").to_pylist() == [row["i"] for row in rows]
    assert table.column("text").to_pylist() == [row["text"] for row in rows]
    assert table.column("late").to_pylist() == [row.get("late") for row in rows]
    assert [value["row"] for value in table.column("gdig").to_pylist()] == list(range(2_500))


def test_parquet_of_parquet_keeps_its_types(tmp_path, parquet_of):
    table = pa.table({
        "small": pa.array([1, None, 3], pa.int8()),
        "when": pa.array([0, 1, 2], pa.timestamp("ms", tz="UTC")),
        "gdig": pa.array(["old"] * 3),
        "blob": pa.array([b"\xff", b"", None]),
    })  # fmt: skip
    export(parquet_of(table), [2, 0], columns(2), tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.drop_columns("gdig") == table.drop_columns("gdig").take([2, 0])
    assert out.column("gdig").to_pylist() == [{"row": 0, "score": 0.5, "cluster": None},
                                              {"row": 1, "score": 0.25, "cluster": None}]  # fmt: skip


def test_rows_that_do_not_fit_into_columns(tmp_path, corpus_of):
    for name, rows in {"mixed": [{"x": 1}, {"x": "one"}], "big": [{"x": 2**70}], "half": [{"x": "\ud83d"}]}.items():
        with pytest.raises(CorpusError, match=r"do not fit into Parquet columns: .*'x'.*write a \.jsonl file"):
            export(corpus_of(rows, name), range(len(rows)), columns(len(rows)), tmp_path / "out.parquet")
    # Types that clash between chunks, each of one type by itself.
    rows = [{"x": 1}] * 1024 + [{"x": "one"}]
    with pytest.raises(CorpusError, match="do not fit into Parquet columns"):
        export(corpus_of(rows), range(1025), columns(1025), tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*.parquet")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_bytes_are_the_same_every_time_and_replace_what_was_there(tmp_path, corpus_of, suffix):
    out = tmp_path / f"out{suffix}"
    out.write_text("old")
    (tmp_path / "same file").hardlink_to(out)
    written = []
    for _ in range(2):
        export(corpus_of(ROWS[:2]), [1, 0], columns(2), out)
        written.append(out.read_bytes())
    assert written[0] == written[1] != b"old"
    assert (tmp_path / "same file").read_text() == "old"  # replaced at once by a rename, not written over
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask  # as any file that a program writes


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_full_disk_leaves_the_old_file(tmp_path, corpus_of, suffix):
    """A limit on the size of files stands in for the full disk: the write fails half-way in the same manner."""
    corpus = corpus_of([{"text": f"{i * 7919:x}" * 20} for i in range(2_000)])
    out = tmp_path / f"out{suffix}"
    out.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CorpusError, match=rf"out\{suffix}: cannot be written"):
            export(corpus, range(2_000), columns(2_000), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert out.read_text() == "old" and not list(tmp_path.glob(".*"))


def test_what_a_killed_process_left_is_removed(tmp_path, corpus_of):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    abandoned, running = tmp_path / f".out.jsonl.{gone.pid}.tmp", tmp_path / f".out.jsonl.{os.getppid()}.tmp"
    other = tmp_path / f".other.jsonl.{gone.pid}.tmp"
    for file in (abandoned, running, other):
        file.write_text("half")
    export(corpus_of(ROWS), [0], columns(1), tmp_path / "out.jsonl")
    assert not abandoned.exists() and running.exists() and other.exists()


def test_bad_arguments(tmp_path, corpus_of):
    with pytest.raises(ConfigError, match=r"output: expected a name ending in \.jsonl, .*\.parquet, got '.*out\.csv'"):
        export(corpus_of(ROWS), [0], columns(1), tmp_path / "out.csv")
    with pytest.raises(ValueError, match="1 rows but 2 columns"):
        export(corpus_of(ROWS), [0], columns(2), tmp_path / "out.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"out\.jsonl: cannot be written"):
        export(corpus_of(ROWS), [0], columns(1), tmp_path / "file" / "out.jsonl")
