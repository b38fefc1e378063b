"""`python -m tests.drill.mutate --executions 100000 --random-seed 0`: hostile bytes for every parser in Python.

Required of every one: the parser returns, or raises an error of gdig. Prints the executions of each parser, and each
finding; the exit status is 1 if there is one. The parsers in Rust have cargo-fuzz targets (rust/fuzz).
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather

from gdig.config.config import Config
from gdig.config.read import read_yaml
from gdig.data.corpus import open_corpus
from gdig.data.tokens import load_tokenizer
from gdig.errors import GdigError
from gdig.kmeans import KMeans
from gdig.model.adapter import base_directory
from gdig.model.directory import read_limits
from gdig.run.record import FitRecord, RunRecord, Stages, SweepRecord
from gdig.run.record_file import read_record, record_checksum, write_record
from gdig.run.stored_options import read_stored_options
from gdig.selection.chosen_rows import read_chosen_rows
from gdig.selection.quotas import source_weights
from gdig.store.npy import open_npy
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors, write_tensors

_WORDS = [
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"null",
    b"-1",
    b"1e999",
    b"9" * 400,
    b"\xff",
    b"\x00",
    b"\n",
    b"&a ",
    b"*a",
]
_SLOW_S = 1.0


def mutate(content: bytes, rng: Random) -> bytes:
    """Change some bytes, cut, repeat or insert pieces and words of the formats."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 2:
            data[at:at] = rng.choice(_WORDS) * rng.choice((1, 1, 1, 3, 600))
        elif kind == 3:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.choice((1, 8, 64))]
        else:
            del data[at:]
    return bytes(data)


def parsers(folder: Path) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """A sound file of each format, and what reads its bytes."""

    def through(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        file = folder / name

        def go(content: bytes) -> object:
            file.write_bytes(content)
            return read(file)

        return go

    def rows(name: str) -> Callable[[bytes], object]:
        return through(name, lambda file: open_corpus([file], cache_dir=folder / "cache").rows(0, 1))

    def record(content: bytes) -> object:
        """With a right checksum where it is JSON, as an attacker writes it."""
        try:
            state = json.loads(content)
            state["checksum"] = record_checksum({k: v for k, v in state.items() if k != "checksum"})
            content = json.dumps(state).encode()
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass
        (folder / "run.json").write_bytes(content)
        read_stored_options(folder)
        return read_record(folder / "run.json")

    def converted(name: str) -> Callable[[bytes], object]:
        """Through the cache of converted files, whose folder each content would leave behind."""
        read = rows(name)

        def go(content: bytes) -> object:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            return read(content)

        return go

    def saved_dataset(name: str, file: str) -> Callable[[bytes], object]:
        """A file of a folder that `datasets` saved."""

        def go(content: bytes) -> object:
            (folder / name / file).write_bytes(content)
            return open_corpus([folder / name], cache_dir=folder / "cache").rows(0, 1)

        return go

    def adapter(content: bytes) -> object:
        (folder / "adapter_config.json").write_bytes(content)
        return base_directory(folder, None)

    def configuration(content: bytes) -> object:
        (folder / "model" / "config.json").write_bytes(content)
        return read_limits(Config.build({"model": str(folder / "model")}))

    def tokenizer(content: bytes) -> object:
        (folder / "model" / "tokenizer.json").write_bytes(content)
        return load_tokenizer(folder / "model")(["a b"], return_offsets_mapping=True)["input_ids"]

    def cached(content: bytes) -> object:
        """The sums of a cached folder: a wrong one is made again, so there is no error."""
        (sums := next((folder / "cache-of-sums").rglob("sums.json"))).write_bytes(content)
        result = open_corpus([folder / "sound.jsonl"], cache_dir=folder / "cache-of-sums").rows(0, 1)
        assert sums.is_file()
        return result

    np.save(folder / "x.npy", np.ones((3, 2), np.float32))
    write_tensors(folder / "t.safetensors", {"a": np.ones((2, 3), np.float32)}, {"made_from": "x y"})
    KMeans(2, init=np.eye(2, dtype=np.float32)).fit(np.eye(2, dtype=np.float32)).save(folder / "k.safetensors")
    SketchStore.create(folder / "store", dim=2)
    fit = FitRecord({"fit_tokens": 3}, layers=("a.b",), dtype="torch.float32", partitions=(1, 2))
    sweep = SweepRecord(
        {"rows_per_shard": 4, "projection_dim": 2, "sketch_dtype": "int8"}, rows=9, scale=0.5, warnings=("w",)
    )
    inputs = {"model": {"a": {"size": 1, "hash": "0"}}}
    stages = Stages(fit, sweep)
    write_record(folder / "run.json", RunRecord(config={"tau": 0.5, "layers": None}, inputs=inputs, stages=stages))
    sound = {name: (folder / name).read_bytes() for name in ("x.npy", "t.safetensors", "k.safetensors")}
    yaml = b"tau: 0.5\nmodel: m\ncandidates: [a.jsonl, b.jsonl]\nbudget: 10%\n"
    row = b'{"src_text": "a", "n": [1, 2.5, null, {"x": "\\u00e9"}]}'
    (folder / "sound.jsonl").write_bytes(row + b"\n")
    open_corpus([folder / "sound.jsonl"], cache_dir=folder / "cache-of-sums").rows(0, 1)
    table = pa.Table.from_pylist([{"text": "a", "n": [1, 2], "x": {"y": None}}, {"text": "b", "n": [], "x": None}])
    pq.write_table(table, folder / "sound.parquet")
    feather.write_feather(table, folder / "sound.arrow")
    datasets.disable_progress_bars()
    saved = ("state", "state.json"), ("info", "dataset_info.json"), ("data", "data-00000-of-00001.arrow")
    for name, _ in saved:
        datasets.Dataset(table).save_to_disk(folder / name)
    binary = {name: (folder / name).read_bytes() for name in ("sound.parquet", "sound.arrow")}
    (folder / "model").mkdir()
    llama = {"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "rope_theta": 1e4}
    chosen = b'{"text": "a", "gdig": {"row": 1, "score": 0.5}}\n'
    split = {"type": "Split", "pattern": {"Regex": "[a-z]+|\\s"}, "behavior": "Isolated", "invert": False}
    words = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "x": 2}, "unk_token": "x"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    tokens = {"version": "1.0", **empty, "added_tokens": [], "pre_tokenizer": split, "model": words}
    (folder / "model" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "base").mkdir()
    base = json.dumps({"base_model_name_or_path": str(folder / "base"), "revision": None}).encode()
    return {
        "yaml": (yaml, through("o.yaml", read_yaml)),
        "npy": (sound["x.npy"], through("y.npy", open_npy)),
        "jsonl": (row + b"\n" + row + b"\n", rows("a.jsonl")),
        "json list": (b"[" + row + b", " + row + b"]", rows("a.json")),
        "csv": (b'src,trg\na,b\n"c\nd",e\n', rows("a.csv")),
        "csv.gz": (gzip.compress(b"src,trg\na,b\n"), converted("a.csv.gz")),
        "jsonl.zst": (pa.compress(row + b"\n", codec="zstd", asbytes=True), converted("a.jsonl.zst")),
        "parquet": (binary["sound.parquet"], converted("a.parquet")),
        "arrow": (binary["sound.arrow"], rows("a.arrow")),
        **{f"saved {name}": ((folder / name / file).read_bytes(), saved_dataset(name, file)) for name, file in saved},
        "cache": (next((folder / "cache-of-sums").rglob("sums.json")).read_bytes(), cached),
        "adapter": (base, adapter),
        "config.json": (json.dumps(llama).encode(), configuration),
        "tokenizer.json": (json.dumps(tokens).encode(), tokenizer),
        "selection": (chosen * 2, through("s.jsonl", lambda file: read_chosen_rows(file, 3))),
        "weights": (b"a: 1\nb: 2.5\n", through("w.yaml", lambda file: source_weights(str(file), ["a", "b"], [1, 2]))),
        "run.json": ((folder / "run.json").read_bytes(), record),
        "tensor file": (sound["t.safetensors"], through("u.safetensors", read_tensors)),
        "k-means": (sound["k.safetensors"], through("l.safetensors", KMeans.load)),
        "store.json": (
            (folder / "store" / "store.json").read_bytes(),
            lambda content: (
                (folder / "store" / "store.json").write_bytes(content),
                SketchStore.open(folder / "store"),
            ),
        ),
    }


def main() -> int:
    """Mutate for a number of executions, the same share for each parser."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill.mutate", description=__doc__)
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--random-seed", type=int, default=0)
    given = parser.parse_args()
    rng, counts, findings = Random(given.random_seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="gdig-mutate-") as folder:
        targets = parsers(Path(folder))
        names = list(targets)
        for sound, read in targets.values():
            read(sound)
        for number in range(given.executions):
            name = names[number % len(names)]
            sound, read = targets[name]
            content = mutate(sound, rng)
            counts[name] += 1
            start = time.process_time()
            try:
                read(content)
            except GdigError:
                counts[f"{name}: refused"] += 1
            except BaseException:
                findings += 1
                print(f"FINDING {name}: {content[:300]!r}\n{traceback.format_exc()}", flush=True)
            if time.process_time() - start > _SLOW_S:
                findings += 1
                print(f"FINDING {name}: {time.process_time() - start:.1f} s: {content[:300]!r}", flush=True)
    for name, count in sorted(counts.items()):
        print(f"{count:9,} {name}")
    print(f"{findings:9,} findings, random seed {given.random_seed}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
