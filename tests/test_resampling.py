import itertools

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

import gdig
from gdig.errors import GdigError
from gdig.resampling import label_counts, resample, row_hash, sample_rows

QUOTAS = ("equal", "proportional", "sqrt")


def water_filling(counts, budget, order):
    """Quotas by hand: raise all alike until the budget or the rows run out; the last round goes by `order`."""
    quotas = dict.fromkeys(counts, 0)
    while sum(quotas.values()) < budget and any(quotas[k] < counts[k] for k in counts):
        for k in order:
            if quotas[k] < counts[k] and sum(quotas.values()) < budget:
                quotas[k] += 1
    return quotas


def derive(random_seed, purpose):
    return xxhash.xxh3_64_intdigest(purpose.encode(), random_seed)


def hash_of(random_seed, row):
    return xxhash.xxh3_64_intdigest(int(row).to_bytes(8, "little"), random_seed)


@given(
    labels=st.lists(st.integers(-1, 7), max_size=60),
    budget=st.integers(0, 70),
    random_seed=st.integers(0, 2**64 - 1),
    dtype=st.sampled_from([np.int32, np.int64, np.uint32]),
)
def test_quotas_and_rows_are_those_of_the_plain_oracle(labels, budget, random_seed, dtype):
    array = np.array(labels, np.int64).astype(dtype)
    rows = resample(array, budget, random_seed)
    clusters = {k: [row for row, label in enumerate(labels) if label == k] for k in sorted(set(labels) - {-1})}
    order = sorted(clusters, key=lambda k: hash_of(derive(random_seed, "clusters"), k))
    quotas = water_filling({k: len(v) for k, v in clusters.items()}, budget, order)
    by_rows = derive(random_seed, "rows")
    expected = {k: sorted(v, key=lambda row: hash_of(by_rows, row))[: quotas[k]] for k, v in clusters.items()}
    rounds = itertools.zip_longest(*(expected[k] for k in order))
    assert rows.tolist() == [row for round_ in rounds for row in round_ if row is not None]
    assert rows.dtype == np.int64


def test_row_hash_is_xxh3():
    rows = np.array([0, 1, 2**40, -1 & (2**63 - 1)])
    assert row_hash(12345, rows).tolist() == [hash_of(12345, row) for row in rows]


@given(st.integers(0, 300), st.integers(0, 320), st.integers(0, 1000), st.booleans())
def test_a_sample_is_nested_and_keeps_to_the_eligible(n, k, random_seed, restrict):
    eligible = np.arange(n) % 3 != 0 if restrict else None
    rows = sample_rows(n, k, random_seed, eligible)
    allowed = np.arange(n) if eligible is None else np.flatnonzero(eligible)
    assert len(rows) == min(k, len(allowed))
    assert (np.diff(rows) > 0).all()
    assert set(rows) <= set(allowed)
    assert set(sample_rows(n, k // 2, random_seed, eligible)) <= set(rows)


def test_priority_takes_the_highest_and_ties_go_to_the_first_row():
    labels = np.zeros(5, np.uint32)
    priority = np.array([1.0, 3.0, 2.0, 3.0, -np.inf], np.float32)
    assert resample(labels, 9, 0, priority=priority).tolist() == [1, 3, 2, 0, 4]


def test_tokens_are_a_budget_too():
    labels = np.zeros(4, np.int64)
    priority = np.array([4.0, 3.0, 2.0, 1.0])
    costs = np.array([10, 20, 30, 1], np.int32)
    assert resample(labels, 35, 0, priority=priority, costs=costs).tolist() == [0, 1]
    assert resample(labels, 61, 0, priority=priority, costs=costs).tolist() == [0, 1, 2, 3]


def test_what_cannot_be_used_is_named():
    labels = np.zeros(3, np.int64)
    with pytest.raises(GdigError, match="row 1: weight: expected a finite number >= 0, got -1"):
        resample(labels, 1, 0, np.array([1.0, -1.0, 1.0]))
    with pytest.raises(GdigError, match="row 2: weight: expected a finite number >= 0, got NaN"):
        resample(labels, 1, 0, np.array([1.0, 1.0, np.nan], np.float32))
    with pytest.raises(GdigError, match="expected 3 numbers, one for each row, got 2"):
        resample(labels, 1, 0, np.ones(2))
    with pytest.raises(GdigError, match="row 0: label: expected 0 to 268435455, or -1 for a row to leave out, got -7"):
        resample(labels - 7, 1, 0)
    with pytest.raises(ValueError, match="at most one"):
        resample(labels, 1, 0, np.ones(3), priority=np.ones(3))
    with pytest.raises(ValueError, match="budget"):
        resample(labels, -1, 0)
    with pytest.raises(ValueError, match="seed"):
        resample(labels, 1, -1)
    with pytest.raises(ValueError, match="labels: expected one dimension of uint32 or int32 or int64"):
        resample(labels.astype(np.float32), 1, 0)
    with pytest.raises(ValueError, match="C-contiguous"):
        resample(np.zeros(6, np.int64)[::2], 1, 0)


@given(
    st.lists(st.integers(-1, 4), max_size=60), st.integers(0, 70), st.sampled_from(["equal", "proportional", "sqrt"])
)
@example([0, 0, 0, 0, 0, 1], 2, "sqrt")  # shares 1.38 and 0.62: the small cluster is rounded up to all it has
def test_quotas_follow_the_weights_and_short_clusters_pass_their_rest_on(labels, budget, quotas):
    labels = np.array(labels, np.int64)
    sizes = np.bincount(labels[labels >= 0], minlength=5)
    drawn = gdig.resample(labels, budget, 1, quotas=quotas)
    given_ = np.bincount(labels[drawn], minlength=5)
    assert len(set(drawn.tolist())) == len(drawn) == min(budget, sizes.sum())
    weights = {"equal": (sizes > 0) * 1.0, "proportional": sizes * 1.0, "sqrt": np.sqrt(sizes)}[quotas]
    open_ = given_ < sizes  # those that gave less than they have differ from their common level by less than a row each
    if open_.any():
        level = given_[open_] / weights[open_]
        assert (level.max() - level.min()) <= (1 / weights[open_]).max() + 1e-9
        full = (sizes > 0) & ~open_
        # One that gave all it has lies below the common level, or was rounded up to it: by 1 - r of a row of its own,
        # where r is no less than the remainder of any that was rounded down. So (1 - r) / w + r / w' above these.
        above = np.maximum(1 / weights[full], (1 / weights[open_]).max())
        assert (sizes[full] / weights[full] <= level.max() + above + 1e-9).all()


def test_label_files_give_what_their_labels_give(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5_000, 6), dtype=np.float32)
    model = gdig.KMeans(9).fit(x)
    model.write_labels(x, tmp_path / "labels", rows_per_shard=777)
    labels = model.predict(x)
    for quotas in QUOTAS:
        expected = gdig.resample(labels, 400, 5, quotas=quotas)
        np.testing.assert_array_equal(gdig.resample(tmp_path / "labels", 400, 5, quotas=quotas), expected)
        np.testing.assert_array_equal(gdig.resample(str(tmp_path / "labels"), 400, 5, quotas=quotas), expected)
    np.testing.assert_array_equal(label_counts(tmp_path / "labels"), np.bincount(labels))
    with pytest.raises(ValueError, match="quotas: expected 'equal', 'proportional' or 'sqrt', got \"even\""):
        gdig.resample(labels, 4, 5, quotas="even")
    with pytest.raises(ValueError, match="expected none of the three, because labels is a directory"):
        gdig.resample(tmp_path / "labels", 4, 5, costs=labels.astype(np.int64))
    (tmp_path / "labels" / "00000003.safetensors").unlink()
    with pytest.raises(gdig.GdigError, match=r"00000003\.safetensors: missing"):
        gdig.resample(tmp_path / "labels", 4, 5)
