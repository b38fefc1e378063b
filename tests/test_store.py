import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from safetensors.numpy import load_file

from gdig.errors import GdigError, StoreError
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors, verify_file, write_tensors

ROWS = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)


def as_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize(
    ("dtype", "relative"), [("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8), ("int8", None)]
)
def test_rows_come_back_rounded_to_nearest(tmp_path, dtype, relative):
    with SketchStore.create(tmp_path, 8, dtype=dtype, rows_per_shard=20) as store:
        for batch in np.array_split(ROWS, 7):
            store.append(batch)
        assert len(store) == 50
    store = SketchStore.open(tmp_path)
    assert (len(store), store.n_shards, store.dim, store.dtype, store.rows_per_shard) == (50, 3, 8, dtype, 20)
    assert store.shard_range(2) == (40, 50)
    back = np.concatenate([store.rows_float32(i) for i in range(3)])
    # Half a unit in the last place; for int8 half a step of the row's scale and the roundings of its two operations.
    scale = np.abs(ROWS).max(1, keepdims=True) / 127
    bound = scale * (0.5 + 2**-14) if relative is None else relative * np.abs(ROWS) + (relative > 0) * 2.0**-25
    assert (np.abs(back - ROWS) <= bound).all()
    stored = store.rows(0)
    assert not stored.flags.writeable
    if dtype == "bfloat16":
        assert stored.dtype == np.uint16
        stored = as_float32(stored)
    elif dtype == "int8":
        assert store.tensor_names == ["scale", "sketch"]
        stored = stored.astype(np.float32) * store.tensor(0, "scale")[:, None]
    np.testing.assert_array_equal(np.asarray(stored, np.float32), back[:20])


def test_any_safetensors_reader_opens_a_shard(tmp_path):
    store = SketchStore.create(tmp_path, 8, rows_per_shard=50)
    extra = {
        "influence": np.arange(150, dtype=np.float32).reshape(50, 3),
        "tokens": np.arange(50, dtype=np.int32),
        "valid": np.arange(50) % 2 == 0,
        "hash": np.arange(50, dtype=np.uint64) << np.uint64(40),
    }
    store.write_shard(0, {"sketch": ROWS, **extra})
    read = load_file(store.shard_path(0))
    assert set(read) == {"sketch", *extra}
    np.testing.assert_array_equal(read["sketch"], ROWS.astype(np.float16))
    for name, tensor in extra.items():
        np.testing.assert_array_equal(read[name], tensor)
        np.testing.assert_array_equal(store.tensor(0, name), tensor)
    first = store.shard_path(0).read_bytes()
    store.write_shard(0, {**extra, "sketch": ROWS})
    assert store.shard_path(0).read_bytes() == first
    assert store.verify() == (1, 50, len(first), [])


def test_a_batch_that_cannot_be_stored_is_refused_and_named(tmp_path):
    store = SketchStore.create(tmp_path, 8, rows_per_shard=20)
    store.append(ROWS[:30])
    bad = ROWS[:3].copy()
    bad[1, 4] = 7e4
    with pytest.raises(
        StoreError, match=r"00000001.*: row 31, column 4: expected a number that float16 holds, got 70000"
    ):
        store.append(bad)
    bad[1, 4] = np.nan
    with pytest.raises(StoreError, match="row 31, column 4: expected a finite number, got NaN"):
        store.append(bad)
    with pytest.raises(StoreError, match="flush before write_shard"):
        store.write_shard(5, {"sketch": ROWS[:3]})
    store.append(ROWS[30:])
    store.flush()
    np.testing.assert_array_equal(np.concatenate([store.rows(i) for i in range(3)]), ROWS.astype(np.float16))
    with pytest.raises(StoreError, match="row 101, column 4: expected a finite number, got NaN"):
        store.write_shard(5, {"sketch": bad})
    assert not store.has_shard(5)


def test_wrong_shapes_and_types(tmp_path):
    store = SketchStore.create(tmp_path, 8, rows_per_shard=20)
    with pytest.raises(StoreError, match="expected 8 columns, got 4"):
        store.append(np.zeros((2, 4), np.float32))
    with pytest.raises(StoreError, match="21 rows: expected 1 to 20"):
        store.write_shard(0, {"sketch": ROWS[:21]})
    with pytest.raises(StoreError, match='tensor "loss": expected 20 rows'):
        store.write_shard(0, {"sketch": ROWS[:20], "loss": np.zeros(19, np.float32)})
    with pytest.raises(StoreError, match="expected a tensor 'sketch'"):
        store.write_shard(0, {"loss": np.zeros(19, np.float32)})
    with pytest.raises(ValueError, match="rows: expected rows"):
        store.append(np.zeros((2, 8), np.int32))
    with pytest.raises(ValueError, match="C-contiguous"):
        store.append(np.zeros((8, 8), np.float32).T)
    with pytest.raises(TypeError, match="complex128"):
        store.append(np.zeros((2, 8), np.complex128))
    with pytest.raises(ValueError, match="dtype"):
        SketchStore.create(tmp_path / "x", 8, dtype="float8")
    assert len(store) == 0
    assert os.listdir(tmp_path) == ["store.json"]  # noqa: PTH208


def test_creating_over_a_store_needs_to_be_asked_for(tmp_path):
    with SketchStore.create(tmp_path, 8) as store:
        store.append(ROWS)
    with pytest.raises(StoreError, match="overwrite"):
        SketchStore.create(tmp_path, 4)
    assert len(SketchStore.create(tmp_path, 4, overwrite=True)) == 0
    with pytest.raises(StoreError, match=r"store\.json: cannot open"):
        SketchStore.open(tmp_path / "nowhere")


def test_a_store_with_gaps_opens_and_says_what_is_missing(tmp_path):
    store = SketchStore.create(tmp_path, 8, rows_per_shard=20)
    store.write_shard(2, {"sketch": ROWS[40:]})
    store = SketchStore.open(tmp_path)
    assert (store.missing(50), store.has_shard(2), store.has_shard(1), len(store)) == ([0, 1], True, False, 50)
    assert store.verify().missing == [0, 1]
    with pytest.raises(StoreError, match=r"00000000.safetensors: missing"):
        store.append(ROWS)


def test_a_short_shard_with_more_than_sketches_is_not_continued(tmp_path):
    store = SketchStore.create(tmp_path, 8, rows_per_shard=20)
    store.write_shard(0, {"sketch": ROWS[:5], "loss": np.zeros(5, np.float32)})
    with pytest.raises(StoreError, match='"loss": rows alone cannot be appended'):
        store.append(ROWS)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"dim": 8}', '{"format": 2}', '{"format": 1, "dim": -8}'])
def test_a_damaged_store_json(tmp_path, text):
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=r"store\.json"):
        SketchStore.open(tmp_path)


def test_verify_lists_all_that_is_bad(tmp_path):
    with SketchStore.create(tmp_path, 8, rows_per_shard=10) as store:
        store.append(ROWS)
    whole = store.shard_path(1).read_bytes()
    store.shard_path(1).write_bytes(whole[:-3])
    data = bytearray(store.shard_path(3).read_bytes())
    data[-1] ^= 1
    store.shard_path(3).write_bytes(data)
    with pytest.raises(StoreError) as caught:
        store.verify()
    message = str(caught.value)
    assert "2 of 5 shards are bad" in message
    assert f"00000001.safetensors: truncated: expected {len(whole)} bytes, got {len(whole) - 3}" in message
    assert "00000003.safetensors: checksum differs" in message
    store.shard_path(1).write_bytes(whole.replace(b'"F16"', b'"F61"'))
    with pytest.raises(StoreError, match='tensor "sketch": unknown dtype "F61"'):
        store.rows(1)


ALL_TYPES = ("float64", "float32", "float16", "int64", "int32", "int8", "uint64", "uint32", "uint8")


def test_single_files_come_back_as_they_were(tmp_path):
    tensors = {dtype: np.arange(6).reshape(2, 3).astype(dtype) for dtype in ALL_TYPES}
    tensors |= {"empty": np.zeros((0, 4), np.float32), "scalar": np.float64(1.5).reshape(())}
    metadata = {"note": 'quotes " and\nlines', "layer": "模型.mlp"}
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, metadata)
    read, read_metadata = read_tensors(path)
    assert read_metadata == metadata
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)
    assert verify_file(path) == path.stat().st_size
    assert load_file(path).keys() == tensors.keys()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for read_or_verify in (read_tensors, verify_file):
        with pytest.raises(StoreError, match=r"x\.safetensors: checksum differs"):
            read_or_verify(path)


def test_files_of_others_are_not_trusted(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(StoreError, match="not made by gdig"):
        read_tensors(tmp_path / "x.safetensors")
    with pytest.raises(StoreError, match="reserved"):
        write_tensors(tmp_path / "y.safetensors", {}, {"xxh3": "0"})


def run(code: str, *args: object) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    # A limit on the size of files stops a write in the middle as a full disk does (EFBIG for ENOSPC).
    result = run(
        """
        import json, resource, signal, sys
        import numpy as np
        from gdig.errors import StoreError
        from gdig.store.sketches import SketchStore
        store = SketchStore.create(sys.argv[1], 64, rows_per_shard=1000)
        store.append(np.ones((1000, 64), np.float32))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        messages = []
        for write in (lambda: store.append(np.ones((1000, 64), np.float32)),
                      lambda: store.write_shard(0, {"sketch": np.zeros((1000, 64), np.float32)})):
            try:
                write()
            except StoreError as error:
                messages.append(str(error))
        print(json.dumps({"messages": messages, "rows": len(store)}))
        """,
        tmp_path,
    )
    assert [message.split(": ")[1:3] for message in result["messages"]] == [
        ["cannot write", "File too large (os error 27)"]
    ] * 2
    assert [name in message for name, message in zip(("00000001.", "00000000."), result["messages"], strict=True)] == [
        True,
        True,
    ]
    assert result["rows"] == 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.safetensors", "store.json"]
    assert (SketchStore.open(tmp_path).rows(0) == 1).all(), "the shard that was to be replaced is as it was"


def test_the_errors_are_one_family():
    assert issubclass(StoreError, GdigError)
