"""DSIR and BM25 over token files against plain Python, and the token files of a run."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import gdig
from gdig.api import compare
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.errors import ConfigError, RunError
from gdig.resampling import row_hash
from gdig.run.layout import RunLayout
from gdig.run.verify import verify
from gdig.selection import token_bm25 as bm25_module
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.methods.dsir import BUCKETS, gumbel_noise, log_weights
from gdig.selection.survey import survey
from gdig.selection.tasks import Tasks
from gdig.selection.token_bm25 import token_bm25
from gdig.selection.token_files import TokenFiles, write_rows
from gdig.store.tensor_file import read_tensors, write_tensors
from tests.support.bm25 import Bm25
from tests.support.plain_methods import plain_round_robin
from tests.support.pools import Pool, cases, on_disk, plain_prefix
from tests.support.project_fixtures import N_ROWS, N_SEEDS, TINY, llama_module, save_model, stored, write_jsonl

ROWS_PER_SHARD = 7
texts = st.lists(st.integers(0, 12), min_size=1, max_size=12)


def example(ids) -> Example:
    return Example(np.array(ids, np.int32), np.array(ids, np.int32))


@contextmanager
def with_tokens(pool: Pool, rows: list[list[int]], seeds: list[list[int]]) -> Iterator[FinishedSweep]:
    """The pool as a finished sweep with token files; invalid rows have no tokens there."""
    with on_disk(pool, ROWS_PER_SHARD) as (store, _), tempfile.TemporaryDirectory() as folder:
        examples = [example(row) if valid else None for row, valid in zip(rows, pool.valid, strict=True)]
        files = TokenFiles(RunLayout(Path(folder)), store)
        for shard in store.shards:
            start, stop = store.shard_range(shard)
            write_rows(files.shard(shard), examples[start:stop])
        write_rows(files.seeds, [example(seed) for seed in seeds])
        yield FinishedSweep(store, survey(store, Judge("mean")), tokens=files)


@st.composite
def token_pools(draw):
    pool, limit = draw(cases())
    n = len(pool.valid)
    rows = draw(st.lists(texts, min_size=n, max_size=n))
    return pool, limit, rows, draw(st.lists(texts, min_size=1, max_size=4))


def plain_mix(x: int) -> int:
    mask = 2**64 - 1
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) & mask
    return x ^ (x >> 31)


def plain_buckets(ids: list[int]) -> Counter:
    pairs = [((a + 1) << 32) | b for a, b in itertools.pairwise(ids)]
    return Counter(plain_mix(x) % BUCKETS for x in [*ids, *pairs])


def plain_log_weights(rows: list[list[int]], valid: np.ndarray, seeds: list[list[int]]) -> list[float]:
    pool = sum((plain_buckets(row) for row, ok in zip(rows, valid, strict=True) if ok), Counter())
    target = sum(map(plain_buckets, seeds), Counter())

    def log_share(counts: Counter, bucket: int) -> float:
        return math.log((counts[bucket] + 1) / (counts.total() + BUCKETS))

    return [
        sum(n * (log_share(target, b) - log_share(pool, b)) for b, n in plain_buckets(row).items()) if ok else -math.inf
        for row, ok in zip(rows, valid, strict=True)
    ]


@given(token_pools())
def test_log_weights_of_dsir(case):
    pool, _, rows, seeds = case
    with with_tokens(pool, rows, seeds) as sweep:
        got = log_weights(sweep)
    # Sums of at most 23 terms of at most log(10,000) each, in float64.
    np.testing.assert_allclose(got, plain_log_weights(rows, pool.valid, seeds), atol=23 * 23 * 10 * 2.0**-52, rtol=0)


@given(token_pools(), st.integers(0, 3))
def test_dsir_takes_the_largest_noisy_weights(case, random_seed):
    pool, limit, rows, seeds = case
    with with_tokens(pool, rows, seeds) as sweep:
        weights = log_weights(sweep)
        picked = choose(sweep, limit, Config.build({"method": "dsir", "random_seed": random_seed}))
    noisy = weights + gumbel_noise(random_seed, len(weights))
    order = sorted(np.flatnonzero(pool.valid).tolist(), key=lambda i: (-noisy[i], i))
    assert picked.rows.tolist() == plain_prefix(order, pool, limit)
    assert picked.reasons["log_weight"].tolist() == weights[picked.rows].tolist()


def test_noise_is_gumbels_and_depends_on_row_and_seed_alone():
    """The mean of 100,000 standard Gumbel numbers is Euler's constant within four standard errors."""
    noise = gumbel_noise(0, 100_000)
    assert abs(noise.mean() - 0.5772156649) < 4 * math.pi / math.sqrt(6 * 100_000)
    assert abs(noise.std() / (math.pi / math.sqrt(6)) - 1) < 0.02
    assert np.array_equal(noise[:100], gumbel_noise(0, 100)) and not np.array_equal(noise[:100], gumbel_noise(1, 100))
    assert len(set(row_hash(0, np.arange(100)).tolist())) == 100


@given(token_pools(), st.integers(1, 30))
def test_bm25_is_that_of_the_plain_form(case, entries):
    """Every token is a word of the bench's BM25, which counts with scikit-learn."""
    pool, _, rows, seeds = case
    if not pool.valid.any():
        return
    words = [" ".join(f"t{i}" for i in row) for row in rows]
    plain = Bm25([text for text, ok in zip(words, pool.valid, strict=True) if ok])
    want = np.stack([plain.scores(" ".join(f"t{i}" for i in seed)) for seed in seeds], axis=1)
    with with_tokens(pool, rows, seeds) as sweep, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_module, "_ENTRIES", entries)
        scores, n_seeds = token_bm25(sweep)
        got = np.concatenate([scores(shard) for shard in sweep.store.shards])[pool.valid]
    assert n_seeds == len(seeds)
    # A weight is rounded to a multiple of 2^-30, a sum of at most 12 of them to float32.
    assert np.all(np.abs(got - want) <= 12 * 2.0**-31 + 2.0**-24 * want + 1e-12)


@given(token_pools())
def test_bm25_lets_seeds_take_turns(case):
    pool, limit, rows, seeds = case
    if not pool.valid.any():
        return
    with with_tokens(pool, rows, seeds) as sweep:
        scores, n_seeds = token_bm25(sweep)
        values = np.concatenate([scores(shard) for shard in sweep.store.shards])
        picked = choose(sweep, limit, Config.build({"method": "bm25"}))
    assert n_seeds == len(seeds)
    want = plain_round_robin(values, pool.valid, Tasks())[0]
    assert picked.rows.tolist() == plain_prefix(want, pool, limit)


def test_token_files_hold_the_ids_of_every_valid_row(project, swept_copy):
    gdig.select(**project.options(swept_copy, method="dsir"))
    layout, sweep = RunLayout(swept_copy), stored(swept_copy)
    files = [load_file(layout.tokens_of(shard)) for shard in range(4)]
    lengths = np.concatenate([np.diff(file["offsets"]) for file in files])
    assert len(lengths) == N_ROWS and np.array_equal(lengths, sweep["tokens"])
    assert len(load_file(layout.seed_tokens)["offsets"]) == N_SEEDS + 1
    assert any(line.startswith("tokens: 5 sound") for line in verify(swept_copy).lines())


@pytest.mark.parametrize("relevance, method", [("bm25", "bm25"), ("hidden", "rds")])
def test_turns_over_words_and_hidden_states_are_those_of_bm25_and_rds(project, swept_copy, relevance, method):
    by_turns = gdig.select(**project.options(swept_copy, method="round-robin", relevance=relevance))
    alone = gdig.select(**project.options(swept_copy, method=method))
    assert by_turns.rows.tolist() == alone.rows.tolist() and len(alone.rows)
    influence = gdig.select(**project.options(swept_copy, method="round-robin"))
    assert influence.rows.tolist() != by_turns.rows.tolist()


@pytest.mark.parametrize("relevance", ["bm25", "hidden"])
def test_turns_over_words_and_hidden_states_need_no_gradients(project, tmp_path, relevance):
    options = project.options(tmp_path / "run", gradients=False, method="round-robin")
    with pytest.raises(ConfigError, match="because this run has no gradients"):
        gdig.select(**options)
    assert len(gdig.select(**options, relevance=relevance).rows)


def test_a_file_that_is_gone_is_made_again_to_the_same_bytes(project, swept_copy):
    gdig.select(**project.options(swept_copy, method="bm25"))
    layout = RunLayout(swept_copy)
    files = [layout.tokens_of(2), layout.seed_tokens]
    before = [file.read_bytes() for file in files]
    times = layout.tokens_of(1).stat().st_mtime_ns
    for file in files:
        file.unlink()
    comparison = compare(**project.options(swept_copy), methods=["bm25", "dsir", "random"])
    assert [summary.method for summary in comparison.summaries] == ["bm25", "dsir", "random"]
    assert [file.read_bytes() for file in files] == before
    assert layout.tokens_of(1).stat().st_mtime_ns == times


def test_a_damaged_file_is_named_and_made_again(project, swept_copy, capsys):
    gdig.select(**project.options(swept_copy, method="bm25"))
    file = RunLayout(swept_copy).tokens_of(0)
    before = file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    gdig.select(**project.options(swept_copy, method="bm25", quiet=False))
    assert f"{file}: checksum differs" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_rows_that_are_not_those_of_the_sweep_are_refused(project, swept_copy):
    shard = swept_copy / "sweep" / "00000001.safetensors"
    tensors, metadata = read_tensors(shard)
    tensors["hash"] = tensors["hash"].copy()
    tensors["hash"][3] += np.uint64(1)
    write_tensors(shard, tensors, {k: v for k, v in metadata.items() if k not in ("xxh3", "gdig_format")})
    with pytest.raises(RunError, match=r"pool.jsonl, row 19 .*expected the tokens that the sweep saw.*--overwrite"):
        gdig.select(**project.options(swept_copy, method="dsir"))


def test_rows_of_tokens_need_no_tokenizer(tmp_path):
    """And a row that cannot be used has no tokens."""
    rng = np.random.default_rng(0)

    def rows(n):
        ids = [rng.integers(2, 30, rng.integers(4, 9)).tolist() for _ in range(n)]
        return [{"input_ids": x, "labels": x} for x in ids]

    pool = rows(20)
    pool[4] = {"input_ids": [3], "labels": [3]}
    options = {
        **TINY, "model": str(save_model(tmp_path / "model", llama_module(30))), "run_path": str(tmp_path / "run"),
        "candidates": (str(write_jsonl(tmp_path / "pool.jsonl", pool)),), "bad_rows": "skip", "gradients": False,
        "seeds": (str(write_jsonl(tmp_path / "seeds.jsonl", rows(3))),), "budget": "5", "method": "bm25",
    }  # fmt: skip
    picked = gdig.select(**options).rows
    assert len(picked) == 5 and 4 not in picked
    first = load_file(RunLayout(tmp_path / "run").tokens_of(0))
    assert np.diff(first["offsets"])[4] == 0
    assert first["ids"][: first["offsets"][1]].tolist() == pool[0]["input_ids"]
