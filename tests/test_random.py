"""The counter-based generator against its published test vectors, and the maps made from it."""

from __future__ import annotations

import numpy as np

from gdig.philox import philox, rademacher, sparse_map, stream_key, uniform


def test_philox_known_answer():
    """First vector of the Random123 suite: counter 0, key 0."""
    assert philox(0, 4).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_any_part_of_a_stream_is_the_same_as_in_the_whole():
    whole = philox(12345, 1000)
    for start, n in ((0, 1), (1, 5), (3, 997), (517, 13)):
        assert philox(12345, n, start).tolist() == whole[start : start + n].tolist()


def test_signs_are_the_bits_of_the_words():
    key = stream_key("layer", "input", 7)
    signs, words = rademacher(key, 3, 70), philox(key, 9).reshape(3, 3)
    for i in range(3):
        for j in range(70):
            assert signs[i, j] == (-1.0 if words[i, j // 32] >> np.uint32(j % 32) & np.uint32(1) else 1.0)


def test_uniform_stays_inside_and_is_even():
    x = uniform(stream_key("labels", 0, 1), 100_000)
    assert x.min() > 0 and x.max() < 1
    # 20 bins of 5,000: a standard deviation is 69; five of them.
    assert np.abs(np.histogram(x, 20, (0, 1))[0] - 5000).max() < 5 * 69


def test_sparse_map_covers_its_columns_evenly_and_keeps_inner_products():
    columns, signs = sparse_map(stream_key("map"), 64_000, 64)
    assert columns.min() == 0 and columns.max() == 63 and set(signs.tolist()) == {-1.0, 1.0}
    assert np.abs(np.bincount(columns) - 1000).max() < 5 * 32


def test_streams_of_other_names_differ():
    assert len({stream_key("a", i, j) for i in range(50) for j in range(50)}) == 2500
