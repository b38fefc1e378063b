"""Columns as other programs write them: types that `datasets` lacks, nested nulls, large groups, unread columns."""

from __future__ import annotations

import json
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from gdig.config.options import DataOptions
from gdig.data import parquet_rows
from gdig.data.corpus import open_corpus
from gdig.data.export import export
from gdig.data.read_back import read_table
from gdig.data.row_formats import open_readers
from gdig.data.tokens import Encoder, Example
from gdig.errors import CorpusError

N = 3_000
TURNS = [{"role": "user", "content": "One?", "tool_calls": None}, {"role": "assistant", "content": "Un."}]
MESSAGES = [{**turn, "tool_calls": None} for turn in TURNS]
WORDS = [f"w{i % 7}" for i in range(N)]


def messages_with_nulls():
    """As pyarrow and pandas export `messages` whose tool_calls are all null: the child has the type null."""
    column = pa.array([MESSAGES] * N)
    assert pa.types.is_null(column.type.value_type.field("tool_calls").type)
    return column


COLUMNS = {
    "messages": (messages_with_nulls, [MESSAGES] * N),
    "map": (
        lambda: pa.array([[("a", i), ("b", None)] for i in range(N)], pa.map_(pa.string(), pa.int64())),
        [{"a": i, "b": None} for i in range(N)],
    ),
    "maps in a list": (
        lambda: pa.array([[[("a", "x")]], []] * (N // 2), pa.list_(pa.map_(pa.string(), pa.string()))),
        [[{"a": "x"}], []] * (N // 2),
    ),
    "uuid": (
        lambda: pa.array([uuid.UUID(int=i).bytes for i in range(N)], pa.uuid()),
        [uuid.UUID(int=i) for i in range(N)],
    ),
    "list view": (
        lambda: pa.array([[i, i + 1] for i in range(N)], pa.list_view(pa.int64())),
        [[i, i + 1] for i in range(N)],
    ),
    "string view": (lambda: pa.array(WORDS, pa.string_view()), WORDS),
    "dictionary": (lambda: pa.array(WORDS).dictionary_encode(), WORDS),
    "dictionary in a list": (
        lambda: pa.ListArray.from_arrays(range(N + 1), pa.array(WORDS).dictionary_encode()),
        [[word] for word in WORDS],
    ),
    "dictionary in a struct": (
        lambda: pa.StructArray.from_arrays([pa.array(WORDS).dictionary_encode(), pa.nulls(N)], ["a", "b"]),
        [{"a": word, "b": None} for word in WORDS],
    ),
    "null": (lambda: pa.nulls(N), [None] * N),
}  # fmt: skip


@pytest.fixture
def opened(tmp_path):
    def make(table, name="a.parquet", **options):
        pq.write_table(table, tmp_path / name, **options)
        return open_corpus([tmp_path / name], cache_dir=tmp_path / "cache")

    return make


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_every_type_give_their_values(opened, tmp_path, name):
    if name == "list view" and int(pa.__version__.split(".")[0]) < 25:
        pytest.skip(f"pyarrow {pa.__version__} writes no list views into Parquet; 25 is the first that does")
    make, values = COLUMNS[name]
    corpus = opened(pa.table({"x": make()}), row_group_size=700)
    assert [row["x"] for row in corpus.rows(0, N)] == values
    picked = [N - 1, 0, 700, 699, 0]
    assert [row["x"] for row in corpus.take(picked)] == [values[i] for i in picked]
    table = corpus.table(picked)
    assert table.schema == corpus.schema and not pa.types.is_dictionary(table.schema.field("x").type)
    export(corpus, picked, None, tmp_path / "out.parquet")
    again = open_corpus([tmp_path / "out.parquet"], cache_dir=tmp_path / "cache").rows(0, 5)
    assert [row["x"] for row in again] == [values[i] for i in picked]


def test_a_key_that_a_map_has_twice_is_an_error(opened):
    corpus = opened(pa.table({"m": pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))}))
    with pytest.raises(CorpusError, match=r"a\.parquet: column 'm': a map has the key .*a.* twice"):
        corpus.rows(0, 1)


def test_messages_with_null_children_are_encoded(opened, tokenizer_factory):
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    corpus = opened(pa.table({"messages": messages_with_nulls(), "other": pa.nulls(N)}))
    encoder = Encoder(DataOptions(), open_readers(DataOptions(), corpus), tokenizer, 100)
    (example,) = encoder.encode(corpus, [N - 1])
    assert isinstance(example, Example) and "Un." in tokenizer.decode(example.input_ids)


def test_columns_that_no_prompt_reads_are_never_decoded(opened, tmp_path, monkeypatch, tiny_tokenizer):
    converted = []
    convert = parquet_rows._convert
    monkeypatch.setattr(
        parquet_rows, "_convert", lambda path, name, out: converted.append(name) or convert(path, name, out)
    )
    table = {"prompt": ["a", "b"], "image": [b"\xff" * 1000, b""], "completion": ["c", "d"], "tags": [["x"], []]}
    corpus = opened(pa.table(table))
    encoder = Encoder(DataOptions(), open_readers(DataOptions(), corpus), tiny_tokenizer, 100)
    assert all(isinstance(example, Example) for example in encoder.encode(corpus, range(2)))
    templates = DataOptions(prompt_template="{{ prompt }}", target_template="{{ tags | join }}!")
    Encoder(templates, open_readers(templates, corpus), tiny_tokenizer, 100).encode(corpus, [0, 1])
    assert sorted(converted) == ["completion", "prompt", "tags"]
    assert corpus.rows(0, 2) == pa.table(table).to_pylist()  # whole rows, when they are written
    assert sorted(converted) == ["completion", "image", "prompt", "tags"]


@pytest.mark.parametrize("most", [1, 100, 700])
def test_a_group_with_more_than_pyarrow_reads_at_once_is_read_in_halves(opened, monkeypatch, most):
    """pyarrow refuses a batch of more than 2 GiB of nested data. A limit on the rows of a batch stands for it."""
    iter_batches = pq.ParquetFile.iter_batches

    def limited(file, size, row_groups, **options):
        for batch in iter_batches(file, size, row_groups=row_groups, **options):
            if len(batch) > most and row_groups == [1]:
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            yield batch

    values = [{"a": [i]} for i in range(40 if most == 1 else N)]
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", limited)
    corpus = opened(pa.table({"x": values}), row_group_size=len(values) // 3)
    assert [row["x"] for row in corpus.rows(0, len(values))] == values


def test_a_row_that_pyarrow_cannot_read_is_an_error(opened, monkeypatch):
    def refuse(*_, **__):
        raise pa.ArrowNotImplementedError("too large")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    corpus = opened(pa.table({"x": [{"a": 1}]}))
    with pytest.raises(CorpusError, match=r"a\.parquet: column 'x' cannot be read: too large"):
        corpus.rows(0, 1)


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_the_features_of_datasets_stay(tmp_path, kind):
    """Names of a ClassLabel and the kind of an Image; rows hold what is stored: a number, and bytes with a path."""
    import datasets

    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "image": datasets.Image()})
    image = {"bytes": b"\x89PNG", "path": None}
    rows = [{"text": "a", "label": 1, "image": image}, {"text": "b", "label": 0, "image": None}]
    source = datasets.Dataset(pa.Table.from_pylist(rows, schema=features.arrow_schema))
    path = tmp_path / f"pool{'.parquet' if kind == 'parquet' else ''}"
    source.to_parquet(path) if kind == "parquet" else source.save_to_disk(str(path))
    corpus = open_corpus([path], cache_dir=tmp_path / "cache")
    assert corpus.rows(0, 2) == rows
    assert json.loads(corpus.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"] == ["bad", "good"]
    export(corpus, [1, 0], [{"rank": 1}, {"rank": 2}], tmp_path / "out.parquet")
    out = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "hf"))
    assert out.features == {**features, "gdig": {"rank": datasets.Value("int64")}}
    assert out["label"] == [0, 1] and out["gdig"] == [{"rank": 1}, {"rank": 2}]
    assert datasets.Dataset(read_table(tmp_path / "out.parquet")).features == out.features  # as Selection.to_dataset


def test_dictionaries_of_an_arrow_file_are_written(tmp_path):
    """Batches with dictionaries of their own, as streams have them."""
    field = pa.field("x", pa.dictionary(pa.int8(), pa.string()))
    batches = [
        pa.record_batch([pa.array(list(words)).cast(field.type)], schema=pa.schema([field])) for words in ("ab", "cb")
    ]
    with pa.ipc.new_stream(tmp_path / "pool.arrow", pa.schema([field])) as writer:
        for batch in batches:
            writer.write_batch(batch)
    corpus = open_corpus([tmp_path / "pool.arrow"], cache_dir=tmp_path / "cache")
    export(corpus, [3, 2, 1, 0], None, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column("x").to_pylist() == ["b", "c", "b", "a"]
    export(corpus, [], None, tmp_path / "none.parquet")
    assert len(pq.read_table(tmp_path / "none.parquet")) == 0


def test_a_pool_of_two_schemas_has_no_table(tmp_path, opened):
    opened(pa.table({"a": [1]}), "a.parquet")
    opened(pa.table({"a": [2]}), "b.parquet")
    opened(pa.table({"a": ["x"]}), "c.parquet")
    same = open_corpus([tmp_path / "a.parquet", tmp_path / "b.parquet"], cache_dir=tmp_path / "cache")
    assert same.table([1, 0, 1]).to_pylist() == [{"a": 2}, {"a": 1}, {"a": 2}]
    assert len(same.table([])) == 0
    mixed = open_corpus([tmp_path / "a.parquet", tmp_path / "c.parquet"], cache_dir=tmp_path / "cache")
    assert mixed.schema is None and mixed.table([0]) is None


FORGED = {
    "a text beyond the file": ((4, 0x1234, 0x1235), (4, 0x1234, 0x7F00_0000)),
    "a text of a length below zero": ((4, 0x1234, 0x1235), (4, 0x1234, 0x1000)),
    "fewer than no rows": ((8, 2, 0), (8, -(2**62), 0)),
}
"""Numbers in a file, as (bytes of each, numbers), and what is put in their place: Arrow reads what lies there, or ends
the process."""


@pytest.mark.parametrize("case", FORGED)
def test_numbers_that_lead_out_of_an_arrow_file_are_refused(tmp_path, case):
    file = tmp_path / "pool.arrow"
    feather.write_feather(pa.table({"text": ["x" * 0x1234, "y"]}), file, compression="uncompressed")
    true, forged = (
        b"".join(number.to_bytes(size, "little", signed=True) for number in numbers) for size, *numbers in FORGED[case]
    )
    content = file.read_bytes()
    assert true in content
    file.write_bytes(content.replace(true, forged))
    with pytest.raises(CorpusError, match=r"pool\.arrow: .*(offset|[Ll]ength)"):
        open_corpus([file], cache_dir=tmp_path / "cache").rows(0, 2)


def test_a_parquet_file_with_fewer_rows_than_it_says_is_refused(tmp_path, monkeypatch):
    """It would be read again and again."""
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "pool.parquet")
    corpus = open_corpus([tmp_path / "pool.parquet"], cache_dir=tmp_path / "cache")
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter([pa.record_batch({"text": ["a"]})]))
    with pytest.raises(CorpusError, match=r"pool\.parquet: column 'text' cannot be read: row group 0 holds fewer rows"):
        corpus.rows(0, 2)
