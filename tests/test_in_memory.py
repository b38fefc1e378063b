"""Rows that a program holds, as a pool: the same rows come out, and the same content has the same name."""

from __future__ import annotations

import datetime
import uuid

import numpy as np
import pyarrow as pa
import pytest

from gdig.config.config import Config
from gdig.data.corpus import open_corpus
from gdig.data.in_memory import with_files
from gdig.errors import ConfigError, CorpusError

ROWS = [{"prompt": f"问 {i}", "completion": f"a {i}", "n": i} for i in range(2_050)]


def as_dataset():
    import datasets

    return datasets.Dataset.from_list(ROWS)


def as_stream():
    import datasets

    return datasets.IterableDataset.from_generator(lambda: iter(ROWS))


def as_frame():
    import pandas

    return pandas.DataFrame(ROWS)


KINDS = {
    "dataset": as_dataset,
    "shuffled dataset": lambda: as_dataset().select(range(2_049, -1, -1)).select(range(2_049, -1, -1)),
    "stream": as_stream,
    "frame": as_frame,
    "table": lambda: pa.concat_tables([pa.Table.from_pylist(ROWS[:7]), pa.Table.from_pylist(ROWS[7:])]),
    "list": lambda: ROWS,
    "tuple": lambda: tuple(ROWS),
    "generator": lambda: (row for row in ROWS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_memory_are_a_pool(kind):
    options = with_files({"candidates": KINDS[kind](), "budget": 5, "seeds": None})
    config = Config.build({name: value for name, value in options.items() if value is not None})
    corpus = open_corpus(config.candidates)
    assert corpus.rows(0, len(corpus)) == ROWS
    assert with_files({"candidates": KINDS[kind]()})["candidates"] == options["candidates"]


@pytest.mark.parametrize("kind", ["list", "frame"])
def test_the_same_rows_may_be_pool_and_seeds(kind):
    options = with_files({"candidates": KINDS[kind](), "seeds": KINDS[kind]()})
    for name in ("seeds", "candidates"):
        assert open_corpus(options[name]).rows(0, 2) == ROWS[:2]


def test_the_index_of_a_filtered_frame_is_no_field():
    frame = as_frame()
    (file,) = with_files({"candidates": frame[frame.n % 1_000 == 7]})["candidates"]
    corpus = open_corpus([file])
    assert corpus.rows(0, 3) == [ROWS[7], ROWS[1_007], ROWS[2_007]] and len(corpus) == 3


def test_a_column_of_several_kinds_is_named():
    import pandas

    with pytest.raises(CorpusError, match=r"seeds: the DataFrame cannot be read as columns: .*give a list of dicts"):
        with_files({"seeds": pandas.DataFrame({"text": ["a", 1, {"b": 2}]})})


def test_files_stay_and_may_stand_beside_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    assert with_files({"candidates": str(path), "seeds": [path]}) == {"candidates": str(path), "seeds": (path,)}
    files = with_files({"seeds": [path, as_frame()[["prompt"]]]})["seeds"]
    assert open_corpus(files).rows(0, 2) == [{"text": "a"}, {"prompt": "问 0"}]
    assert with_files({"candidates": ()})["candidates"] == ()


def test_values_of_rows_in_memory():
    rows = [{"x": np.float32(0.5), "ids": np.arange(2), "day": datetime.date(2024, 1, 2), "half": "\ud83d", "n": 2**70}]
    rows[0]["id"] = uuid.UUID(int=7)
    (file,) = with_files({"seeds": rows})["seeds"]
    got = open_corpus([file]).rows(0, 1)
    read = {"x": 0.5, "ids": [0, 1], "day": "2024-01-02", "half": "\ud83d", "n": 2**70, "id": str(rows[0]["id"])}
    assert got == [read]


def test_what_cannot_be_a_pool(tmp_path, monkeypatch):
    import datasets

    splits = datasets.DatasetDict({"train": as_dataset(), "test": as_dataset()})
    for value, message in [
        (splits, r"seeds: got the splits train, test, expected one of them: seeds=dataset\['train'\]"),
        ({"prompt": "a"}, "seeds: expected names of files, a Dataset, a DataFrame or an iterable of dicts, got dict"),
        (7, "seeds: expected names of files, .* got int"),
        ([{"a": 1}, "b"], "seeds: row 1: expected a dict, got str"),
        ([{"a": b"x"}], "seeds: row 0: a value that JSON cannot hold: a bytes; give a Dataset"),
        (iter([]), "holds no rows"),
    ]:
        with pytest.raises((ConfigError, CorpusError), match=message):
            open_corpus(with_files({"seeds": value})["seeds"], name="seeds")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CorpusError, match="rows in memory cannot be written to the cache"):
        with_files({"seeds": ROWS})
