"""GIST against the plain form in the space of the gradients themselves."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.methods.gist import EXPLAINED, seed_space
from gdig.selection.survey import survey
from gdig.selection.tasks import Tasks
from gdig.store.tensor_file import CheckedFile, write_tensors
from tests.support.pools import Pool, on_disk, plain_prefix


def plain_cosines(seeds: np.ndarray, rows: np.ndarray, of_seed: np.ndarray) -> tuple[np.ndarray, int]:
    """Gradients in the metric, in the space of the seeds' principal directions: cosines [n, tasks], components."""
    _, s, right = np.linalg.svd(seeds, full_matrices=False)
    count = int(np.searchsorted(np.cumsum(s**2), EXPLAINED * (s**2).sum())) + 1
    seeds, rows = seeds @ right[:count].T, rows @ right[:count].T
    means = np.stack([seeds[of_seed == task].mean(0) for task in range(of_seed.max() + 1)])
    lengths = np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(means, axis=1)
    return rows @ means.T / lengths, count


def swept(store, influence_of_seeds: np.ndarray, folder: Path, tasks: Tasks) -> FinishedSweep:
    write_tensors(folder / "seeds.safetensors", {"influence": influence_of_seeds})
    return FinishedSweep(
        store, survey(store, Judge()), tasks=tasks, seed_sketches=CheckedFile(folder / "seeds.safetensors")
    )


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.sampled_from(["rows", "tokens"]))
def test_cosines_are_those_of_the_gradients_in_the_metric(random_seed, with_tasks, in_metric, unit):
    """The products with the seeds are enough: neither the gradients nor H are needed."""
    rng = np.random.default_rng(random_seed)
    n, n_seeds, width = 25, 6, 9
    seeds, rows = rng.standard_normal((n_seeds, width)) + 1, rng.standard_normal((n, width))
    inverse = np.eye(width)
    if in_metric:
        root = rng.standard_normal((width, width))
        inverse = root @ root.T + np.eye(width)
    root = np.linalg.cholesky(inverse)
    influence = (rows @ inverse @ seeds.T).astype(np.float32)
    tasks = Tasks(("a", "b"), np.arange(n_seeds) % 2) if with_tasks else Tasks()
    of_seed = tasks.of_seed if tasks else np.zeros(n_seeds, np.int64)
    expected, count = plain_cosines(seeds @ root, rows @ root, of_seed)
    valid = rng.random(n) < 0.8
    ones = (np.ones(n, np.float32), rng.integers(1, 9, n).astype(np.int32), valid, np.zeros(n, np.uint32))
    pool = Pool(influence, *ones)
    limit = Limit("rows", 7) if unit == "rows" else Limit("tokens", 30)
    with on_disk(pool) as (store, _), tempfile.TemporaryDirectory() as folder:
        products = (seeds @ inverse @ seeds.T).astype(np.float32)
        choice = choose(swept(store, products, Path(folder), tasks), limit, Config(method="gist"))
    # The order of the rows chosen is that of their cosines, and those are the plain ones: rounding of the products to
    # float32 is stretched by 1 / s at most, which is the root of their condition within the components.
    _, s, _ = np.linalg.svd(seeds @ root, full_matrices=False)
    bound = 8 * n_seeds * 2.0**-23 * (s[0] / s[count - 1]) ** 2
    best = expected.max(1)
    cosine = dict(zip(choice.rows.tolist(), choice.reasons["cosine"].tolist(), strict=True))
    assert all(abs(cosine[row] - best[row]) <= bound for row in cosine)
    order = sorted(np.flatnonzero(valid).tolist(), key=lambda i: -best[i])
    plain = plain_prefix(order, pool, limit)
    gaps = np.abs(np.diff(best[order]))
    if len(gaps) and gaps.min() > 2 * bound:
        assert choice.rows.tolist() == plain
        if tasks:
            assert choice.reasons["for_task"].tolist() == ["ab"[expected[row].argmax()] for row in plain] or (
                np.abs(np.diff(expected[plain], axis=1)).min() <= 2 * bound
            )
    assert choice.notes[0] == f"{count} components explain 95% of the gradients of 6 seeds"


def test_alike_seeds_are_one_component():
    products = np.ones((4, 4)) + 1e-3 * np.eye(4)
    projection, directions = seed_space(products, np.zeros(4, np.int64))
    assert projection.shape == (4, 1) and abs(abs(directions[0, 0]) - 1) < 1e-12
    # The one coordinate of a row is its influence on the mean seed, over the mean's length 2.
    assert np.abs(projection * np.sign(directions[0, 0])) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize(
    ("products", "message"),
    [
        (np.zeros((2, 2)), "expected a gradient that is not 0"),
        (-np.eye(2), "expected a gradient that is not 0"),
        (np.array([[1, np.nan], [0, 1]]), "the influence of seed 0 on the others is not finite"),
    ],
)
def test_seeds_that_span_nothing(products, message):
    with pytest.raises(ConfigError, match=message):
        seed_space(products, np.zeros(2, np.int64))
