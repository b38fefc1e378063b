"""Corpora: every kind of file, the exact rows, where they lie, the cache, and what bad input gets."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from gdig.data.corpus import open_corpus
from gdig.errors import CorpusError

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


def test_bad_paths(tmp_path, opened):
    import datasets
    import pyarrow as pa
    from pyarrow import feather

    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "plain").mkdir()
    (tmp_path / "a.tar.gz").write_bytes(b"")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    footer = bytearray(write_parquet(tmp_path / "footer.parquet", ROWS).read_bytes())
    footer[-8 - int.from_bytes(footer[-8:-4], "little")] = 0xFF
    (tmp_path / "footer.parquet").write_bytes(footer)
    for file, text in (("name.arrow", b"colname"), ("value.arrow", b"coltext")):
        feather.write_feather(pa.table({"colname": ["coltext"]}), tmp_path / file, compression="uncompressed")
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes().replace(text, b"col\xff" + text[4:]))
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
        ((tmp_path / "footer.parquet",), "footer.parquet: cannot be read as Parquet"),
        ((tmp_path / "name.arrow",), "name.arrow: the name of a column cannot be read: .*utf-8"),
        ((tmp_path / "none.parquet",), "none.parquet: holds no rows"),
        ((tmp_path / "splits",), r"several splits \(test, train\); name one, for instance .*splits/test"),
        ((tmp_path / "damaged",), "damaged: the datasets folder cannot be read"),
    ]
    for paths, message in cases:
        with pytest.raises(CorpusError, match=message):
            opened(*paths, name="seeds")
    with pytest.raises(CorpusError, match=r"value.arrow: column 'colname' cannot be read: (?i:.*utf-?8)"):
        opened(tmp_path / "value.arrow").rows(0, 1)
    assert opened(tmp_path / "splits" / "train").rows(0, 10) == ROWS


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
