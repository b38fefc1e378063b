"""Corpora: every kind of file, the exact rows, where they lie, the cache, and what bad input gets."""

from __future__ import annotations

import datetime
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdig.data import fingerprint, json_index, json_list, json_rows
from gdig.data.cache import cached_folder
from gdig.data.corpus import open_corpus
from gdig.data.fingerprint import fingerprint_file, fingerprint_paths
from gdig.errors import CorpusError
from tests.support.profiles import examples

ROWS = [{"prompt": f"问题 {i}", "completion": f"answer {i}", "n": i} for i in range(10)]


@pytest.fixture
def opened(tmp_path):
    return lambda *paths, **options: open_corpus(paths, cache_dir=tmp_path / "cache", **options)


def write_jsonl(path: Path, rows, newline="\n") -> Path:
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + newline for row in rows).encode())
    return path


def write_parquet(path: Path, rows) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_folder(path: Path, rows) -> Path:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


def write_list(path: Path, rows) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    return path


WRITERS = {"a.jsonl": write_jsonl, "a.json": write_list, "a.parquet": write_parquet, "a_folder": write_folder}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_gives_the_same_rows(tmp_path, opened, name):
    corpus = opened(WRITERS[name](tmp_path / name, ROWS))
    assert len(corpus) == 10
    assert corpus.fields_of(0) == ("prompt", "completion", "n")
    assert corpus.rows(0, 10) == ROWS
    assert corpus.rows(3, 3) == []
    assert corpus.rows(3, 6) == ROWS[3:6]
    assert corpus.take([9, 0, 9]) == [ROWS[9], ROWS[0], ROWS[9]]
    assert list(corpus.stream([4, 2])) == [ROWS[4], ROWS[2]]


def test_rows_run_through_files_of_mixed_kinds_in_the_order_given(tmp_path, opened):
    paths = [writer(tmp_path / name, [{**row, "n": 100 * k + row["n"]} for row in ROWS])
             for k, (name, writer) in enumerate(WRITERS.items())]  # fmt: skip
    corpus = opened(*paths[::-1])
    assert [row["n"] for row in corpus.rows(0, 40)] == [100 * k + i for k in (3, 2, 1, 0) for i in range(10)]
    assert [row["n"] for row in corpus.rows(8, 22)] == [308, 309, *range(200, 210), 100, 101]
    assert [row["n"] for row in corpus.take([39, 0, 15, 39])] == [9, 300, 205, 9]
    assert corpus.where(39) == f"{tmp_path}/a.jsonl, row 9 (line 10)"
    assert corpus.where(15) == f"{tmp_path}/a.parquet, row 5"
    assert corpus.paths == tuple(paths[::-1])
    for bad in (-1, 40):
        with pytest.raises(IndexError, match="40 rows"):
            corpus.take([bad])


def test_globs_are_sorted_and_a_name_with_brackets_is_a_file(tmp_path, opened):
    for name in ("b2", "b10", "b1"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"name": name}])
    assert [row["name"] for row in opened(tmp_path / "b*.jsonl").rows(0, 3)] == ["b1", "b10", "b2"]
    write_jsonl(tmp_path / "c[1].jsonl", [{"name": "brackets"}])
    assert opened(tmp_path / "c[1].jsonl").rows(0, 1) == [{"name": "brackets"}]


def test_json_rows_come_exactly_as_written(tmp_path, opened):
    """What typed columns lose: missing keys, dates as text, mixed types, late fields, large numbers, nulls."""
    rows = [
        {"text": "a", "date": "2024-01-02T03:04:05Z", "x": 1},
        {"text": "b", "x": 1.0, "y": None},
        {"text": "c", "x": "one", "y": [1, "two", None, {"deep": [[]]}]},
        {"text": "", "x": 2**70, "y": {}, "1": True},
        *({"text": str(i)} for i in range(2000)),
        {"text": "late", "nested": {"only": {"here": 0.1}}, "x": [1.5]},
    ]
    corpus = opened(write_jsonl(tmp_path / "odd.jsonl", rows), write_list(tmp_path / "odd.json", rows))
    got = corpus.rows(0, len(corpus))
    assert json.dumps(got) == json.dumps(rows + rows)  # also the order of keys, and 1 against 1.0 and True
    assert json.dumps(list(corpus.stream(range(len(rows))))) == json.dumps(rows)


def test_arrow_values_keep_their_types(tmp_path, opened):
    rows = [
        {"when": datetime.datetime(2024, 1, 2), "blob": b"\xff", "ids": [1, 2]},
        {"when": None, "blob": b"", "ids": []},
    ]
    corpus = opened(write_parquet(tmp_path / "a.parquet", rows), write_folder(tmp_path / "f", rows))
    assert corpus.rows(0, 4) == rows + rows


def test_parquet_dictionary_columns_and_many_batches(tmp_path, opened):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"lang": pa.array(["zh", "en"] * 10_000).dictionary_encode(), "n": range(20_000)})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=3_000)
    corpus = opened(tmp_path / "d.parquet")
    assert corpus.take([0, 8191, 8192, 19_999]) == table.take([0, 8191, 8192, 19_999]).to_pylist()
    assert corpus.rows(8_000, 9_000) == table.slice(8_000, 1_000).to_pylist()


def test_the_line_is_right_with_blank_lines_bom_and_crlf(tmp_path, opened):
    path = tmp_path / "odd.jsonl"
    path.write_bytes(b'\xef\xbb\xbf\r\n{"a": "\xe2\x80\xa8"}\r\n\r\n  \r\n\t{"a": "2"} \r\n{"a": "3"}')
    corpus = opened(path)
    assert corpus.rows(0, 3) == [{"a": "\u2028"}, {"a": "2"}, {"a": "3"}]
    assert [corpus.where(i) for i in range(3)] == [f"{path}, row {i} (line {line})" for i, line in enumerate((2, 5, 6))]


def test_a_json_file_may_hold_a_bom_or_one_object_a_line(tmp_path, opened):
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf [ {"a": "1"} ,\r\n{"a": "2"}\n]\n')
    write_jsonl(tmp_path / "lines.json", [{"a": "3"}, {"a": "4"}])
    corpus = opened(tmp_path / "bom.json", tmp_path / "lines.json")
    assert [row["a"] for row in corpus.rows(0, 4)] == ["1", "2", "3", "4"]
    assert corpus.where(1) == f"{tmp_path}/bom.json, row 1"
    assert corpus.where(3) == f"{tmp_path}/lines.json, row 1 (line 2)"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), min_size=1, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_a_list_is_found_whatever_the_window(tmp_path, rows, chunk, indent, ascii_only):
    """Oracle: json.loads of the whole file. The scanner's window is a few bytes, so every cut is met."""
    path = tmp_path / "list.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "surrogatepass") if ascii_only else text.encode("utf-8", "replace"))
    expected = json.loads(path.read_bytes())
    content = path.read_bytes()
    starts = list(json_list.item_starts(path, path, chunk))
    assert [json_rows._decode_row(content[start:].decode())[0] for start in starts] == expected


ODD_LINES = {
    "nan": b"NaN", "infinity": b"-Infinity", "beyond a double": b"1e400", "71 bits": b"1180591620717411303424",
    "310 digits": b"1" * 310, "4301 digits": b"1" * 4301, "long fraction": b"0." + b"1" * 5000,
    "lone surrogate": rb'"\ud83d"', "lone surrogate in a key": rb'{"\udc00": 1}', "repeated key": b'1, "a": 2',
    "control character": b'"\x01"', "delete": b'"\x7f"', "surrogate as UTF-8": b'"\xed\xa0\x80"',
    "two bytes for NUL": b'"\xc0\x80"', "NUL": b"1\0", "form feed": b"\x0c1", "leading zero": b"01",
    "no fraction": b"1.", "minus zero": b"-0",
    "trailing comma": b"1,", "no comma": b"[1 2]", "400 deep": b"[" * 400 + b"]" * 400,
    "1010 deep": b"[" * 1010 + b"]" * 1010, "braces in text": b'"' + b"{" * 2000 + b'"', "BOM": b"\xef\xbb\xbf1",
}  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=2)), max_size=3)


def json_reads_an_object(line: bytes) -> bool:
    try:
        return type(json.loads(line.decode())) is dict
    except (ValueError, RecursionError):
        return False


def is_accepted(path: Path, line: bytes) -> bool:
    path.write_bytes(b"{}\n" + line + b"\n")
    try:
        return len(list(json_index._line_starts(path, path))) == 2
    except CorpusError:
        return False


@pytest.mark.parametrize("case", ODD_LINES)
def test_a_line_is_accepted_exactly_when_json_reads_an_object(tmp_path, case):
    """The rows are read by `json`, so the check must neither refuse nor accept anything else."""
    line = b'{"a": ' + ODD_LINES[case] + b"}"
    assert is_accepted(tmp_path / "a.jsonl", line) == json_reads_an_object(line)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(st.text(), JSON_VALUES, max_size=3), edits=EDITS, ascii_only=st.booleans())
def test_a_damaged_line_is_accepted_exactly_when_json_reads_an_object(tmp_path, row, edits, ascii_only):
    line = json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    for place, piece in edits:
        place %= len(line) + 1
        line = line[:place] + piece.replace(b"\n", b"") + line[place + (len(piece) > 1) :]
    assert is_accepted(tmp_path / "a.jsonl", line) == (json_reads_an_object(line) or not line.strip(b" \t\r"))


BAD_LINES = {
    "cut short": (b'{"a": "1"}\n{"a": "2', "line 2, column 7: not valid JSON: Unterminated string"),
    "single quotes": (b"\n{'a': 1}\n", "line 2, column 2: not valid JSON: Expecting property name"),
    "two on a line": (b'{"a": 1} {"a": 2}\n', "line 1, column 10: not valid JSON: Extra data"),
    "a list": (b'[{"a": 1}]\n', "line 1: expected a JSON object, got a list"),
    "a string": (b'{"a": 1}\n"x"\n', "line 2: expected a JSON object, got a string"),
    "a number": (b"{}\n12\n", "line 2: expected a JSON object, got a number"),
    "null": (b"null\n", "line 1: expected a JSON object, got null"),
    "true": (b"true\n", "line 1: expected a JSON object, got true or false"),
    "latin-1": (b'{"a": "1"}\n{"a": "\xe9t\xe9"}\n', "line 2: not UTF-8: byte 0xe9"),
    "deep": (b"[" * 100_000 + b"\n", "line 1: not readable JSON"),
    "endless number": (b'{"a": ' + b"1" * 5000 + b"}\n", "line 1: not readable JSON"),
    "empty": (b"", "holds no rows"),
    "blank": (b"\n \r\n", "holds no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_jsonl(tmp_path, opened, case):
    content, message = BAD_LINES[case]
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(CorpusError, match=r"bad\.jsonl") as error:
        opened(tmp_path / "bad.jsonl")
    assert message in str(error.value)
    assert not list((tmp_path / "cache").iterdir())  # nothing half-written


BAD_LISTS = {
    "object": (b'{"a": 1}', "holds one JSON object, expected a list"),
    "object over lines": (b'{\n "rows": []\n}\n', "holds one JSON object, expected a list"),
    "empty file": (b"", "holds no rows"),
    "empty list": (b" [ ]\n", "holds no rows"),
    "a string": (b'"x"', "line 1, column 1: expected a JSON list"),
    "item": (b'[{"a": 1},\n 7]', "line 2, column 2: item 1: expected a JSON object, got '7'"),
    "trailing comma": (b'[{"a": 1},]', "line 1, column 11: item 1: expected a JSON object, got ']'"),
    "no comma": (b'[{"a": 1}\n{"a": 2}]', "line 2, column 1: after item 0: expected ',' or ']', got '{'"),
    "cut between": (b'[{"a": 1}', "after item 0: expected ',' or ']', the file ends"),
    "cut after comma": (b'[{"a": 1},', "item 1: expected a JSON object, the file ends"),
    "cut inside": (b'[{"a": 1},\n{"a": "x', "line 2, column 7: item 1: not valid JSON: Unterminated string"),
    "bad value": ('[{"a": "é"},\n{"é": nil}, {"b": "ok ok ok ok ok"}]'.encode(), "line 2, column 7: item 1: not valid"),
    "after it": (b'[{"a": 1}]\n[]', "line 2, column 1: expected nothing after the list"),
    "latin-1": (b'[{"a": 1},\n{"a": "\xe9"}]', "line 2, column 8: not UTF-8: byte 0xe9"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LISTS)
def test_bad_json_list(tmp_path, opened, case):
    content, message = BAD_LISTS[case]
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(CorpusError, match=r"bad\.json") as error:
        opened(tmp_path / "bad.json")
    assert message in str(error.value)


def test_bad_paths(tmp_path, opened):
    import datasets

    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "plain").mkdir()
    (tmp_path / "a.tar.gz").write_bytes(b"")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    write_parquet(tmp_path / "none.parquet", ROWS[:0])
    split = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "state.json").write_text("{")
    cases = [
        ((), "seeds: no files given"),
        ((tmp_path / "missing.jsonl",), "seeds: .*missing.jsonl: no such file"),
        ((tmp_path / "x*.jsonl",), r"x\*.jsonl: the pattern matches no file"),
        ((path, path), "a.jsonl is given twice"),
        ((path, tmp_path / "*.jsonl"), "a.jsonl is given twice"),
        ((tmp_path / "plain",), "plain: a folder with no file of rows .* not one that datasets"),
        ((tmp_path / "a.tar.gz",), r"unknown kind of file '\.gz'; expected \.jsonl"),
        ((tmp_path / "bad.parquet",), "bad.parquet: cannot be read as Parquet"),
        ((tmp_path / "none.parquet",), "none.parquet: holds no rows"),
        ((tmp_path / "splits",), r"several splits \(test, train\); name one, for instance .*splits/test"),
        ((tmp_path / "damaged",), "damaged: the datasets folder cannot be read"),
    ]
    for paths, message in cases:
        with pytest.raises(CorpusError, match=message):
            opened(*paths, name="seeds")
    assert opened(tmp_path / "splits" / "train").rows(0, 10) == ROWS


def test_a_second_open_does_not_read_the_rows_again(tmp_path, opened, monkeypatch):
    path, parquet = write_jsonl(tmp_path / "a.jsonl", ROWS), write_parquet(tmp_path / "a.parquet", ROWS)
    opened(path, parquet).rows(0, 20)

    def refuse(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr("gdig.data.json_rows.build_index", refuse)
    monkeypatch.setattr("gdig.data.arrow_rows._convert", refuse)
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


def test_memory_does_not_grow_with_the_rows(tmp_path, opened):
    import tracemalloc

    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 200, "i": i} for i in range(60_000)])
    tracemalloc.start()
    try:
        corpus = opened(path)
        corpus.take([59_999])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The file has 13 MB. Held at once: a read buffer and a block of 65,536 offsets, of 1 MB together at most, twice for
    # the growth of an array, and what imports leave.
    assert peak < 4e6


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


def test_fingerprints_of_folders_leave_out_what_does_not_matter(tmp_path):
    model = tmp_path / "model"
    kept = ("model.safetensors", "config.json", "sub/b.txt")
    left_out = ("optimizer.pt", "rng_state_0.pth", "trainer_state.json", "checkpoint-10/model.safetensors", ".git/HEAD")
    for name in (*kept, *left_out, "__pycache__/m.pyc", "cache-12.arrow"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
    assert list(fingerprint_paths([model])) == ["config.json", "model.safetensors", "sub/b.txt"]
    write_jsonl(tmp_path / "pool.jsonl", ROWS)
    both = fingerprint_paths([tmp_path / "pool.jsonl", model])
    assert list(both) == ["pool.jsonl", "model/config.json", "model/model.safetensors", "model/sub/b.txt"]
    assert fingerprint_paths([]) == {}


def test_files_that_do_not_count_may_change_in_a_datasets_folder(tmp_path):
    """`datasets` writes caches and locks beside the rows, and removes them."""
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "pool"))
    (tmp_path / "pool" / "cache-1.arrow").write_bytes(b"x")
    corpus = open_corpus([tmp_path / "pool"], cache_dir=tmp_path / "cache")
    (tmp_path / "pool" / "cache-1.arrow").unlink()
    assert len(corpus.rows(0, len(corpus))) == len(ROWS)
    (tmp_path / "pool" / "state.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"state\.json: the file changed since it was opened"):
        corpus.rows(0, 1)
