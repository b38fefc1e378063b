"""Names of inputs: endings, compression, CSV, folders, datasets of the hub."""

from __future__ import annotations

import gzip
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gdig.data.corpus import open_corpus
from gdig.data.hub import HubDataset, hub_dataset
from gdig.errors import CorpusError

ROWS = [{"prompt": f"问题 {i}", "completion": f"answer, {i}\nof two lines"} for i in range(2_500)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
BOM = b"\xef\xbb\xbf"


def as_csv(delimiter=",", end="\r\n"):
    quoted = ([f'"{value}"' for value in row.values()] for row in ROWS)
    return end.join(delimiter.join(row) for row in (["prompt", "completion"], *quoted)).encode()


def as_parquet(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "source")
    return (tmp_path / "source").read_bytes()


def as_arrow(tmp_path, new):
    with pa.OSFile(str(tmp_path / "source"), "wb") as out, new(out, pa.Table.from_pylist(ROWS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS), max_chunksize=1000)
    return (tmp_path / "source").read_bytes()


def gz(content):
    """The same bytes at any time: pytest names a case by its content, and each worker has to find the same names."""
    return gzip.compress(content, mtime=0)


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


FILES = {
    "A.JSONL": lambda _: LINES,
    "bom.jsonl": lambda _: BOM + LINES,
    "a.ndjson": lambda _: LINES,
    "a.Json": lambda _: json.dumps(ROWS).encode(),
    "a.jsonl.gz": lambda _: gz(LINES),
    "members.jsonl.gz": lambda _: gz(LINES[:1000]) + gz(LINES[1000:]),
    "a.jsonl.zst": lambda _: zstd(LINES),
    "frames.jsonl.zst": lambda _: zstd(LINES[:1000]) + zstd(LINES[1000:]),
    "A.JSON.GZ": lambda _: gz(json.dumps(ROWS).encode()),
    "a.csv": lambda _: as_csv(),
    "bom.csv": lambda _: BOM + as_csv(end="\n"),
    "semicolons.csv": lambda _: as_csv(";"),
    "tabs.tsv": lambda _: as_csv("\t", "\n"),
    "a.csv.zst": lambda _: zstd(as_csv()),
    "a.PARQUET": as_parquet,
    "a.parquet.gz": lambda tmp_path: gz(as_parquet(tmp_path)),
    "stream.arrow": lambda tmp_path: as_arrow(tmp_path, pa.ipc.new_stream),
    "file.feather": lambda tmp_path: as_arrow(tmp_path, pa.ipc.new_file),
}


@pytest.fixture
def opened(tmp_path):
    return lambda *paths: open_corpus(paths, name="pool", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, opened, name):
    (tmp_path / name).write_bytes(FILES[name](tmp_path))
    corpus = opened(tmp_path / name)
    assert corpus.fields_of(0) == ("prompt", "completion")
    assert corpus.rows(0, len(corpus)) == ROWS
    assert corpus.take([2_499, 0, 1_024, 1_023, 0]) == [ROWS[i] for i in (2_499, 0, 1_024, 1_023, 0)]
    assert corpus.paths == corpus.files == (tmp_path / name,)
    assert f"{tmp_path / name}, row 7" in corpus.where(7)


def test_a_compressed_file_is_decompressed_once(tmp_path, opened, monkeypatch):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gz(LINES))
    opened(path)
    monkeypatch.setattr("gdig.data.compressed._open", None)
    assert opened(path).rows(0, 1) == ROWS[:1]
    path.write_bytes(gz(LINES[::-1]))
    with pytest.raises(TypeError):  # another content
        opened(path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl.gz", gz(LINES)[:-20], r"a\.jsonl\.gz: cannot be decompressed: .*is the file complete"),
        ("a.jsonl.zst", zstd(LINES)[:-20], r"a\.jsonl\.zst: cannot be decompressed: .*is the file complete"),
        ("a.jsonl.gz", LINES, r"a\.jsonl\.gz: cannot be decompressed"),
        ("a.jsonl.zst", LINES, r"a\.jsonl\.zst: cannot be decompressed"),
        ("a.jsonl.gz", gz(LINES + b"{"), r"a\.jsonl\.gz, line 2501, column 2: not valid JSON"),
        ("a.json.gz", gz(b'[{"a": 1},\n7]'), r"a\.json\.gz, line 2, column 1: item 1: expected a JSON obj"),
        ("a.csv", b"a,b\n1,2\n\n1,2,3\n", r"a\.csv, line 4: expected 2 values, as in the header \(a, b\), got 3"),
        ("a.csv", b'a,b\n"x\ny",2\n"1"2,3\n', r"a\.csv, line 4: not valid CSV: ',' expected after '\"'"),
        ("a.csv", b'a,b\n1,"2\n', r"a\.csv, line 2: not valid CSV: unexpected end of data"),
        ("a.csv", b"a,b\n1,\xe9\n", r"a\.csv, line 1 or later: not UTF-8: byte 0xe9"),
        ("a.csv", b"a,a\n1,2\n", r"a\.csv: two columns are named 'a'"),
        ("a.csv", b"a,b\n", r"a\.csv: the file holds a header alone"),
        ("a.tsv", b"\n", r"a\.tsv: the file holds no rows"),
        ("a.arrow", b"no arrow", r"a\.arrow: cannot be read as Arrow"),
        ("a.parquet.gz", gz(b"no parquet"), r"a\.parquet\.gz: cannot be read as Parquet"),
    ],
)
def test_damaged_files_are_named(tmp_path, opened, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        opened(tmp_path / name)
    assert not [path for path in (tmp_path / "cache").glob(".*")]


def test_double_quotes_of_a_tsv_are_text_where_they_are_no_quotes(tmp_path):
    quoted, raw = tmp_path / "quoted.tsv", tmp_path / "raw.tsv"
    quoted.write_text('en\tde\n"a\tb ""c"""\td\n', encoding="utf-8")
    raw.write_text('en\tde\n"Hello", he said.\tJa\n12" wide\t"\n', encoding="utf-8")
    corpus = open_corpus([quoted, raw], cache_dir=tmp_path / "cache")
    assert corpus.rows(0, 3) == [
        {"en": 'a\tb "c"', "de": "d"}, {"en": '"Hello", he said.', "de": "Ja"}, {"en": '12" wide', "de": '"'},
    ]  # fmt: skip
    bad = tmp_path / "bad.tsv"
    bad.write_text('en\tde\n"a\tb\tc\n', encoding="utf-8")  # neither way: the error is that of the rule
    with pytest.raises(CorpusError, match=r"bad\.tsv, line 2: not valid CSV: unexpected end of data"):
        open_corpus([bad], cache_dir=tmp_path / "cache")


def test_values_of_a_csv_stay_text_and_have_lines(tmp_path, opened):
    (tmp_path / "a.csv").write_bytes(b'id,text,note\n007,"a ""b""\nc",\n1e3,NA,true\n')
    corpus = opened(tmp_path / "a.csv")
    assert corpus.rows(0, 2) == [
        {"id": "007", "text": 'a "b"\nc', "note": ""},
        {"id": "1e3", "text": "NA", "note": "true"},
    ]
    assert [corpus.where(i).rpartition(", ")[2] for i in (0, 1)] == ["row 0 (line 2)", "row 1 (line 4)"]


def test_a_folder_stands_for_its_files_of_rows(tmp_path, opened):
    folder = tmp_path / "pool"
    folder.mkdir()
    for name in ("b.jsonl", "a.JSONL.gz"):
        (folder / name).write_bytes(gz(b'{"n": "gz"}\n') if name.endswith("gz") else b'{"n": "plain"}\n')
    for name in ("README.md", "dataset_info.json", ".hidden.jsonl"):
        (folder / name).write_text("no rows")
    assert [row["n"] for row in opened(folder).rows(0, 2)] == ["gz", "plain"]
    (tmp_path / "above").mkdir()
    shutil.move(folder, tmp_path / "above" / "pool")
    with pytest.raises(CorpusError, match=r"pool: .*above: a folder with no file of rows .* for instance .*above/pool"):
        opened(tmp_path / "above")


def test_names_of_datasets():
    assert hub_dataset("org/name") == HubDataset("org/name")
    assert hub_dataset("org/na-me.2:main/train") == HubDataset("org/na-me.2", "main", "train")
    assert hub_dataset("org/name/test") == HubDataset("org/name", None, "test")
    assert str(HubDataset("org/name", "main", "train")) == "org/name:main/train"
    assert [hub_dataset(name) for name in ("name", "../name", "/a/b", "a/b/c/d", "a b/c", "./x/y")] == [None] * 6


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The cache of `datasets` as a download leaves it, for org/name with the configs main (two splits) and solo."""
    import datasets

    cache = tmp_path / "hf"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    for config, splits in (("main", ("train", "test")), ("solo", ("train",))):
        files = {}
        for split in splits:
            files[split] = str(tmp_path / f"{config}-{split}.jsonl")
            (tmp_path / f"{config}-{split}.jsonl").write_text(json.dumps({"text": f"{config} {split}"}) + "\n")
        datasets.load_dataset("json", data_files=files, cache_dir=str(cache))
        (made,) = (path for path in (cache / "json").glob("*/*/*") if path.is_dir())
        folder = cache / "org___name" / config / "0.0.0" / "hash"
        shutil.move(made, folder)
        shutil.rmtree(cache / "json")
        for file in folder.glob("json-*.arrow"):
            file.rename(file.with_name(file.name.replace("json-", "name-")))
        info = json.loads((folder / "dataset_info.json").read_text())
        (folder / "dataset_info.json").write_text(json.dumps({**info, "config_name": config, "dataset_name": "name"}))
    return cache


def test_a_dataset_of_the_hub_comes_from_the_cache(hub_cache, opened):
    corpus = opened("org/name:main/test", "org/name:solo", "org/name:main/train")
    assert [row["text"] for row in corpus.rows(0, 3)] == ["main test", "solo train", "main train"]
    assert corpus.where(1) == "org/name:solo, row 0"
    assert all(file.is_file() and file.is_relative_to(hub_cache) for file in corpus.files)
    for name, message in [
        (
            "org/name:main",
            r"pool: org/name:main: holds several splits \(train, test\); name one, for instance org",
        ),
        (
            "org/name:main/dev",
            r'org/name:main/dev: no such file or folder, and it cannot be .*Unknown split "dev"',
        ),
        ("org/other", r"org/other: no such file or folder, and it cannot be read as a dataset .*HF_HUB_OFFLINE"),
        ("org/other.jsonl", r"org/other\.jsonl: no such file or folder; check the path"),
    ]:
        with pytest.raises(CorpusError, match=message):
            opened(name)
    with pytest.raises(CorpusError, match="org/name:solo is given twice"):
        opened("org/name:solo", "org/name:solo")
