"""The demo's pools are what they say they are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from examples import score_net_vision
from examples.demo import kind_of
from examples.mixed_pool import FAULTS, OTHERS, SECOND, TARGET, make_mixed_pool
from examples.translation_pool import CORRUPTIONS, make_pool


def test_the_pool_has_the_corruptions_it_names() -> None:
    pool, seeds = make_pool(n=1001, n_seeds=20, corrupted=0.3, random_seed=5)
    # The same draws without the corruption: what every target should have been.
    right = {r["src_text"]: r["trg_text"] for r in make_pool(n=1001, n_seeds=20, corrupted=0.0, random_seed=5)[0]}
    counts = Counter(row["corruption"] for row in pool)
    assert counts == {"clean": 701, **{kind: 75 for kind in CORRUPTIONS}}
    assert len(right) == 1001, "two rows have the same source"
    assert not {r["src_text"] for r in seeds} & set(right)
    assert {r["corruption"] for r in seeds} == {"clean"}
    for row in pool:
        target, wanted = row["trg_text"], right[row["src_text"]]
        if row["corruption"] == "clean":
            assert target == wanted
        elif row["corruption"] == "swapped target":
            assert target in right.values() and target != wanted
        elif row["corruption"] == "truncated":
            assert wanted.startswith(target + " ") and len(target.split()) <= len(wanted.split()) / 2
        elif row["corruption"] == "source copied":
            assert target == row["src_text"]
        else:
            assert sorted(target.split()) == sorted(wanted.split()) and target != wanted


def test_the_language_is_a_function_of_the_words() -> None:
    pool, seeds = make_pool(n=3000, corrupted=0.0)
    shapes = Counter(len(row["trg_text"].split()) for row in pool)
    assert min(shapes) == 3 and max(shapes) == 9
    # An object bears -n and the verb, last, one of two suffixes.
    assert {row["trg_text"][-2:] for row in pool + seeds} == {"ta", "ru"}
    for row in pool:
        assert (row["trg_text"][-2:] == "ru") == (" will " in row["src_text"])


def test_the_mixed_pool_is_what_it_says_it_is() -> None:
    rows = make_mixed_pool(random_seed=3)
    tasks = Counter(row["task"] for row in rows["pool"])
    assert tasks == {TARGET: 1400, SECOND: 520, **dict.fromkeys(OTHERS, 520)}
    faults = Counter(row["fault"] for row in rows["pool"] if row["task"] == TARGET)
    assert faults == {"none": 480, "repeated": 200, "words reversed": 400, **dict.fromkeys(CORRUPTIONS, 80)}
    assert {row["fault"] for row in rows["pool"] if row["task"] != TARGET} == {"none"}
    clean = {(row["input"], row["output"]) for row in rows["pool"] if row["task"] == TARGET and row["fault"] == "none"}
    earlier = set()
    for row in rows["pool"]:
        if row["fault"] == "repeated":
            assert (row["input"], row["output"]) in clean & earlier
        earlier.add((row["input"], row["output"]))
        if row["task"] in OTHERS:
            assert row["output"] == OTHERS[row["task"]](row["input"])
        assert kind_of(row) in {"good rows of the target", *(f"{f}, of the target" for f in FAULTS), SECOND, *OTHERS}
    sources = [
        {row["input"] for row in rows[name] if row["task"] == TARGET} for name in ("pool", "seeds", "held_out", "known")
    ]
    assert sum(map(len, sources)) == len(set.union(*sources)), "a source is in two parts"
    assert [len(rows[name]) for name in ("seeds", "held_out")] == [64, 200]
    assert {row["task"] for name in ("seeds", "held_out") for row in rows[name]} == {TARGET}


@pytest.mark.slow
def test_self_filter_of_a_vision_language_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    score_net_vision.main()
    assert "rows to train on: [" in capsys.readouterr().out
    assert np.load(tmp_path / "difficulty.npy").shape == (64,)
