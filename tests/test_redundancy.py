"""Sources, repeats, near-copies and evaluation sets against plain Python, over any sweep that hypothesis thinks of."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdig
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.data.texts import row_texts
from gdig.errors import AmountError, ConfigError, CorpusError
from gdig.selection.choose import choose
from gdig.selection.eligible import narrow
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep, MethodSpec, Picked
from gdig.selection.methods import METHODS
from gdig.selection.neighbours import column
from gdig.selection.pick import pick_rows
from gdig.selection.quotas import share_out, source_weights
from gdig.selection.repeats import repeats
from gdig.selection.similar import SimilarityFeatures, SimilarityWalk, fill
from gdig.selection.sources import Sources
from gdig.selection.survey import survey
from gdig.store.sketches import SketchStore
from tests.support import profiles
from tests.support.pools import Columns, plain_prefix
from tests.support.project_fixtures import read_jsonl, stages, translation_rows, write_jsonl
from tests.support.swept_run import make_swept

DIM = 3
METHODS_WITH_AN_ORDER = ("top", "loss", "round-robin", "bids", "random")


@dataclass
class Pool(Columns):
    """A finished sweep whose hidden states and sketches lie in few directions, so that many rows are near to others."""

    hidden: np.ndarray
    hash: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.valid)


@st.composite
def pools(draw) -> Pool:
    n = draw(st.integers(1, 24))

    def column(values, dtype, width=1):
        return np.array(draw(st.lists(values, min_size=n * width, max_size=n * width)), dtype)

    return Pool(
        column(st.sampled_from([-1.0, 0.5, 0.25, 2.0]), np.float32, 2).reshape(n, 2),
        column(st.sampled_from([0.5, 1.0, 2.0]), np.float32),
        column(st.integers(1, 9), np.int32),
        column(st.booleans(), bool),
        column(st.integers(-2, 2), np.float16, DIM).reshape(n, DIM),
        column(st.integers(0, 12), np.uint64),
        column(st.integers(0, 2), np.int32),
    )


def swept(pool: Pool, folder: str, rows_per_shard: int = 7) -> FinishedSweep:
    store = SketchStore.create(f"{folder}/sweep", DIM, rows_per_shard=rows_per_shard)
    for shard, start in enumerate(range(0, len(pool), rows_per_shard)):
        span = slice(start, min(len(pool), start + rows_per_shard))
        names = ("influence", "loss", "tokens", "valid", "hidden", "hash")
        columns = {name: getattr(pool, name)[span] for name in names}
        store.write_shard(shard, {"sketch": pool.hidden[span].astype(np.float32), **columns})
    return FinishedSweep(store, survey(store, Judge()), sources=Sources(("a", "b", "c"), of_row=pool.source))


def unit(x: np.ndarray) -> np.ndarray:
    """At unit length, rounded as the core rounds: each number once to float32."""
    lengths = np.sqrt((x.astype(np.float64) ** 2).sum(1, keepdims=True))
    return (x.astype(np.float64) / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def plain_walk(order: list[int], pool: Pool, most: float, taken: list[int]) -> list[int]:
    """DEITA's filter as it is written down: every pair. `taken`: rows that others have taken before."""
    x = unit(unit(pool.hidden).astype(np.float16)).astype(np.float64)
    held, own = list(taken), []
    for row in order:
        if all(np.float32(x[row] @ x[other]) <= np.float32(most) for other in held):
            held.append(row)
            own.append(row)
    return own


def plain_eligible(pool: Pool, config: Config, excluded: set[int]) -> list[int]:
    seen: set[int] = set()
    rows = []
    for row in np.flatnonzero(pool.valid).tolist():
        if row in excluded:
            continue
        if config.repeats == "drop" and int(pool.hash[row]) in seen:
            continue
        seen.add(int(pool.hash[row]))
        rows.append(row)
    return rows


def order_of(sweep: FinishedSweep, rows: list[int], config: Config) -> list[int]:
    """All of some rows, in the order in which the method takes them."""
    eligible = np.zeros(sweep.survey.rows, bool)
    eligible[rows] = True
    of_rows = sweep.among(eligible)
    limit = Limit("rows", max(1, len(rows)))
    return METHODS[config.method].pick(of_rows, limit, config.random_seed, config).rows.tolist()


@st.composite
def cases(draw):
    pool = draw(pools())
    unit = draw(st.sampled_from(["rows", "tokens"]))
    held = len(pool) if unit == "rows" else int(pool.tokens.sum())
    excluded = draw(st.sets(st.integers(0, len(pool) - 1), max_size=4))
    return pool, Limit(unit, draw(st.integers(1, held))), excluded


@settings(max_examples=profiles.examples(50))
@given(
    cases(),
    st.sampled_from(METHODS_WITH_AN_ORDER),
    st.sampled_from([0.37, 0.83, 0.97]),
    st.sampled_from(["drop", "keep"]),
)
def test_a_choice_passes_over_what_is_left_out_and_what_is_near(case, method, most, repeated):
    pool, limit, excluded = case
    config = Config.build({"method": method, "max_similarity": most, "repeats": repeated, "similarity_of": "sketch"})
    with tempfile.TemporaryDirectory() as folder:
        sweep = swept(pool, folder)
        rows = [row for row in sorted(excluded) if pool.valid[row]]
        features = SimilarityFeatures(sweep.store, "sketch")
        eligible = narrow(sweep, config, np.array(rows, np.int64), features)
        scored = choose(eligible, limit, config)
        allowed = plain_eligible(pool, config, excluded)
        order = order_of(sweep, allowed, config)
    expected = plain_prefix(plain_walk(order, pool, most, []), pool, limit)
    assert (scored.rows.tolist() if METHODS[method].ordered else sorted(scored.rows.tolist())) == (
        expected if METHODS[method].ordered else sorted(expected)
    )
    assert eligible.excluded == len(rows)
    assert eligible.repeats == len(plain_eligible(pool, config.with_options(repeats="keep"), excluded)) - len(allowed)
    if len(expected) < len(allowed) and limit.unit == "rows" and len(expected) < limit.amount:
        assert any("no more rows may be chosen" in note for note in scored.notes)


def test_a_tail_of_copies_is_walked_in_few_rounds(tmp_path):
    """500 rows around a circle, and 4,000 copies behind them: the budget of 501 asks for all rows."""
    angles, n = 2 * np.pi * np.minimum(np.arange(4500), 500) / 500, 4500
    hidden = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1).astype(np.float16)
    ones = np.ones(n, np.int32)
    pool = Pool(np.ones((n, 2), np.float32), ones.astype(np.float32), ones, ones > 0, hidden, np.arange(n), ones)
    sweep, asked = swept(pool, str(tmp_path), rows_per_shard=1000), []

    def pick(limit: Limit) -> Picked:
        asked.append(limit.amount)
        return Picked(np.arange(limit.amount))

    walk = SimilarityWalk(SimilarityFeatures(sweep.store, "sketch"), 0.99999)
    _, places = fill(pick, sweep, Limit("rows", 501), walk)
    assert places.tolist() == list(range(500)) and walk.passed_over == 4000
    assert asked[-1] == n and len(asked) <= 10


@settings(max_examples=profiles.examples(50))
@given(
    cases(), st.sampled_from(["top", "loss"]), st.sampled_from([0.83, 1.0]), st.sampled_from(["equal", "proportional"])
)
def test_each_source_gives_its_share_and_the_rest_of_those_that_run_short(case, method, most, quotas):
    pool, limit, _ = case
    options = {"method": method, "max_similarity": most, "source_quotas": quotas, "similarity_of": "sketch"}
    config = Config.build({**options, "repeats": "keep"})
    with tempfile.TemporaryDirectory() as folder:
        sweep = swept(pool, folder)
        features = SimilarityFeatures(sweep.store, "sketch") if most < 1 else None
        scored = choose(narrow(sweep, config, np.zeros(0, np.int64), features), limit, config)
        members = [[row for row in range(len(pool)) if pool.valid[row] and pool.source[row] == s] for s in range(3)]
        orders = [order_of(sweep, rows, config) if rows else [] for rows in members]
    cost = pool.tokens if limit.unit == "tokens" else np.ones(len(pool), np.int64)
    weights = [Fraction(1) if quotas == "equal" else Fraction(len(rows)) for rows in members]
    available = [int(cost[rows].sum()) for rows in members]
    while True:  # as the documentation has it: what a source cannot give goes to the others
        shares, taken = share_out(limit.amount, weights, available), []
        given_rows: list[list[int]] = []
        for order, share in zip(orders, shares, strict=True):
            walked = plain_walk(order, pool, most, taken) if most < 1 else order
            own = plain_prefix(walked, pool, Limit(limit.unit, share)) if share else []
            given_rows.append(own)
            taken += own
        spent = [int(cost[rows].sum()) for rows in given_rows]
        room = [0 if limit.unit == "rows" or not rows else int(pool.tokens[rows].max()) - 1 for rows in members]
        short = [i for i in range(3) if spent[i] + room[i] < shares[i]]
        if not short:
            break
        available = [spent[i] if i in short else available[i] for i in range(3)]
    assert sorted(scored.rows.tolist()) == sorted(row for rows in given_rows for row in rows)
    counts = {name: len(rows) for name, rows in zip("abc", given_rows, strict=True) if rows}
    assert scored.sources == counts
    for rows in given_rows:  # inside a source the order is the method's
        places = [scored.rows.tolist().index(row) for row in rows]
        assert places == sorted(places)


def test_what_a_method_does_not_take_of_a_source_goes_to_the_others_and_an_error_names_it(tmp_path):
    ones = np.ones(20, np.int32)
    directions = np.ones((20, DIM), np.float16)
    pool = Pool(np.ones((20, 2), np.float32), ones.astype(np.float32), ones, ones > 0, directions, ones, ones)
    pool.source = np.repeat(np.array([0, 1], np.int32), 10)

    def at_most_two_of_a(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
        rows = np.flatnonzero(column(sweep.store, "valid"))
        return Picked(rows[: min(limit.amount, 2 if rows[0] == 0 else 10)])

    def none_of_b(sweep: FinishedSweep, limit: Limit, random_seed: int, options: Config) -> Picked:
        if not column(sweep.store, "valid")[0]:
            raise AmountError("n_neighbours: too many")
        return Picked(np.arange(limit.amount))

    config, sweep = Config.build({"method": "top", "source_quotas": "equal"}), swept(pool, str(tmp_path))
    picked, _ = pick_rows(sweep, Limit("rows", 8), config, {"top": MethodSpec(at_most_two_of_a)})
    assert sorted(picked.rows.tolist()) == [0, 1, *range(10, 16)]
    with pytest.raises(AmountError, match="source b: n_neighbours: too many"):
        pick_rows(sweep, Limit("rows", 8), config, {"top": MethodSpec(none_of_b)})


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=5))
def test_shares_add_up_and_follow_the_weights(amount, sources):
    weights, available = [Fraction(weight) for weight, _ in sources], [n for _, n in sources]
    shares = share_out(amount, weights, available)
    assert sum(shares) == min(amount, sum(n for weight, n in sources if weight))
    level = max((Fraction(s) / w for s, w, n in zip(shares, weights, available, strict=True) if w and s), default=0)
    for share, weight, n in zip(shares, weights, available, strict=True):
        assert 0 <= share <= n and (weight or not share)
        if weight and share < n:  # one that has not run out has its share, up to rounding
            assert share > level * weight - 1 - weight / min(w for w in weights if w)


@settings(max_examples=profiles.examples(50))
@given(pools(), st.integers(1, 9))
def test_repeats_are_those_of_a_dictionary(pool, at_once):
    with tempfile.TemporaryDirectory() as folder:
        repeated = repeats(swept(pool, folder).store, at_once)
    seen, expected = set(), []
    for row in range(len(pool)):
        expected.append(bool(pool.valid[row]) and int(pool.hash[row]) in seen)
        if pool.valid[row]:
            seen.add(int(pool.hash[row]))
    assert repeated.tolist() == expected


@settings(max_examples=profiles.examples(50))
@given(pools(), st.integers(1, 9))
def test_a_masked_store_reads_as_one_that_ends_earlier(pool, stop):
    """Rows behind the mask change no bit: that is why an earlier selection comes back from a pool that has grown."""
    stop = min(stop, len(pool))
    short = Pool(*(getattr(pool, name)[:stop] for name in pool.__dataclass_fields__))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        whole, alone = swept(pool, folder), swept(short, other)
        masked = whole.among(np.arange(len(pool)) < stop)
        assert masked.survey.counts.tolist() == alone.survey.counts.tolist()
        assert masked.survey.score_sum == alone.survey.score_sum
        for method in ("top", "loss", "random", "round-robin", "bids"):
            limit, config = Limit("rows", max(1, stop // 2)), Config(method=method)
            picks = [METHODS[method].pick(sweep, limit, 0, config) for sweep in (masked, alone)]
            assert picks[0].rows.tolist() == picks[1].rows.tolist(), method


def test_the_weights_of_a_file(tmp_path):
    file = tmp_path / "weights.yaml"
    file.write_text("a: 2\nb: 0.5\n")
    assert source_weights(str(file), ["a", "b", "c"], [1, 1, 1]) == [2, Fraction(1, 2), 0]
    file.write_text("a: 2\n'*': 1\n")
    assert source_weights(str(file), ["a", "b", "c"], [1, 1, 1]) == [2, 1, 1]
    for text, message in (
        ("aa: 1\na: 1\n", r"weights\.yaml: 'aa' is no source of the pool, which has a, b, c; did you mean 'a'\?"),
        ("a: -1\n", r"weights\.yaml: a: expected a number of at least 0, got -1"),
        ("a: 0\n", r"expected a weight above 0 for at least one source"),
        ("- a\n", r"expected a mapping of sources to weights"),
        ("a: [\n", r"expected a mapping of sources to weights"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            source_weights(str(file), ["a", "b", "c"], [1, 1, 1])
    with pytest.raises(ConfigError, match="expected equal, proportional or a YAML file, found no such file"):
        source_weights(str(tmp_path / "none.yaml"), ["a"], [1])


def test_the_texts_of_rows_in_any_format():
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": [{"type": "text", "text": "two"}]}]
    assert row_texts({"messages": turns, "n": 3, "ok": True, "ids": [1, 2]}) == ["one", "text", "two", "1 2"]
    assert row_texts({"a": {"b": ["x", 3, None]}, "lone": "\ud800"}) == ["x", "?"]


def test_sources_by_a_field_and_quotas_by_a_file(project, tmp_path):
    rows = [{**row, "source": "AB"[i % 3 == 0]} for i, row in enumerate(translation_rows(30))]
    del rows[4]["source"]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    weights = tmp_path / "weights.yaml"
    weights.write_text("A: 2\nB: 1\n")
    options = project.options(tmp_path / "run", candidates=(str(pool),), method="top", budget="9")
    run = make_swept(options)
    picked = gdig.select(**{**options, "source_field": "source", "source_quotas": str(weights)})
    drawn = [rows[row].get("source", "pool.jsonl") for row in picked.rows]
    assert {name: drawn.count(name) for name in "AB"} == {"A": 6, "B": 3}
    assert stages(run)["select"]["sources"] == {"A": 6, "B": 3}
    files = sorted((run / "sources").iterdir())
    before = [file.stat().st_mtime_ns for file in files]
    compared = gdig.compare(**{**options, "source_field": "source"}, methods=["top", "loss"])
    assert sum(compared.summaries[0].sources.values()) == 9 and any("rows by source" in x for x in compared.lines())
    assert [file.stat().st_mtime_ns for file in files] == before and gdig.verify(run).sound
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"\0")
    again = gdig.select(**{**options, "source_field": "source", "source_quotas": str(weights)})
    assert again.rows.tolist() == picked.rows.tolist()
    with pytest.raises(ConfigError, match="source_field='kind': no row of the pool has this field"):
        gdig.select(**{**options, "source_field": "kind"})
    with pytest.raises(CorpusError, match=r"pool\.jsonl, row 0 .*: meta: expected the row's source"):
        gdig.select(**{**options, "source_field": "meta"})


def test_rows_of_an_evaluation_set_are_never_chosen_and_are_listed(project, tmp_path):
    """Equal rows by their words, near ones by their hidden states; a second choice needs no second pass."""
    long = "the quick brown fox jumps over the lazy dog while seven tired painters watch the evening rain"
    rows = translation_rows(40)
    rows[7] = {**rows[7], "trg_text": f"well: {long.upper()}!"}
    entries = [
        {**rows[3], "src_text": rows[3]["src_text"] + "。", "trg_text": rows[3]["trg_text"].upper()},
        {"text": long},
    ]
    evaluation = write_jsonl(tmp_path / "eval.jsonl", entries)
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    options = project.options(tmp_path / "run", candidates=(str(pool),), method="loss", budget="100%")
    gdig.select(**options)
    given = {**options, "exclude": (str(evaluation),)}
    with pytest.raises(CorpusError, match="--exclude-similarity 1 compares words alone"):
        gdig.select(**given)
    words = gdig.select(**given, exclude_similarity=1.0)
    listed = read_jsonl(tmp_path / "run" / "excluded.jsonl")
    assert [(row["row"], row["reason"]) for row in listed] == [(3, "equal"), (7, "words")]
    assert listed[1]["words"].startswith("THE QUICK BROWN FOX") and "eval.jsonl, row 1" in listed[1]["entry"]
    assert set(range(40)) - set(words.rows.tolist()) == {3, 7}
    assert any("2 rows share words or meaning with the evaluation set" in line for line in words.summary)
    assert stages(tmp_path / "run")["select"]["excluded"] == 2
    write_jsonl(evaluation, entries[:1])
    near = gdig.select(**given, exclude_similarity=0.99)
    listed = read_jsonl(tmp_path / "run" / "excluded.jsonl")
    assert 3 in [row["row"] for row in listed] and 3 not in near.rows
    hidden = np.concatenate([shard["hidden"] for shard in _shards(tmp_path / "run")]).astype(np.float64)
    centred = unit(unit(hidden) - unit(hidden).mean(0))
    expected = np.flatnonzero(centred.astype(np.float64) @ centred[3].astype(np.float64) > 0.99)
    assert {row["row"] for row in listed} == set(expected.tolist())
    assert gdig.verify(tmp_path / "run").sound
    gdig.select(**options)
    assert not (tmp_path / "run" / "excluded.jsonl").exists(), "the list is that of the last selection"


def test_hidden_states_that_exclude_much_of_the_pool_are_warned_of(project, swept_copy, tmp_path):
    """A pool of one kind: a cosine of 0.1 tells no copy from another row of the kind."""
    texts = translation_rows(3, random_seed=9)
    evaluation = write_jsonl(tmp_path / "eval.jsonl", texts)
    options = project.options(swept_copy, method="loss", exclude=(str(evaluation),))
    for most, warns in ((0.1, True), (0.999, False)):
        picked = gdig.select(**options, exclude_similarity=most)
        listed = [row["reason"] for row in read_jsonl(swept_copy / "excluded.jsonl")]
        near, valid = listed.count("cosine"), stages(swept_copy)["sweep"]["counts"]["rows"]
        assert (near > valid / 10) == warns
        said = [line for line in picked.warnings if line.startswith(f"exclude: {near} of {valid} rows share no words")]
        assert bool(said) == warns and stages(swept_copy)["select"]["warnings"] == list(picked.warnings)
        summary = f"{near} of {len(listed)} excluded rows share no words: their hidden states are near"
        assert (summary in picked.summary) == (near > 0)


def test_no_method_chooses_a_row_that_the_options_bar(project, tmp_path):
    """Methods that draw from clusters, walk over neighbours or read tokens, whose stores are masked in other ways."""
    rows = [{**row, "origin": "abc"[i % 3]} for i, row in enumerate(translation_rows(44, random_seed=4))]
    rows += [rows[i] for i in (0, 1, 2, 2)]
    pool, later = (
        write_jsonl(tmp_path / name, some) for name, some in (("p.jsonl", rows[:40]), ("q.jsonl", rows[40:]))
    )
    evaluation = write_jsonl(tmp_path / "eval.jsonl", [rows[i] for i in (5, 6, 30)])
    options = project.options(tmp_path / "run", candidates=(str(pool),), exclude_similarity=1.0)
    gdig.sweep(**options)
    barred = {"repeats": {44, 45, 46, 47}, "exclude": {5, 6, 30}, "later files": set(range(40, 48))}
    more = {**options, "candidates": (str(pool), str(later))}
    for method in (name for name, spec in METHODS.items() if not spec.checkpoints):
        given = {**more, "method": method, "exclude": (str(evaluation),)}
        picked = gdig.select(**{**given, "budget": "100%"}).rows.tolist()
        assert not set(picked) & (barred["repeats"] | barred["exclude"]), method
        picked = gdig.select(**given, source_field="origin", source_quotas="equal").rows.tolist()
        assert len(set(picked)) == len(picked) and not set(picked) & (barred["repeats"] | barred["exclude"]), method
        drawn = [rows[row]["origin"] for row in picked]
        assert stages(tmp_path / "run")["select"]["sources"] == {name: drawn.count(name) for name in set(drawn)}, method
        assert max(drawn.count(name) for name in "abc") <= -(-len(picked) // 3) + 1, method
        earlier = gdig.select(**{**options, "method": method, "budget": "100%"}).rows.tolist()
        assert len(set(earlier)) == len(earlier) and not set(earlier) & barred["later files"], method


def test_a_short_question_is_found_in_a_set_of_another_format(project, tmp_path):
    """A row's question of 9 words stands inside the turn of a conversation, and a bare one inside a row's template."""
    question, other = (
        "which painter of the harbour was the youngest then",
        "how many bridges cross the river below the town",
    )
    rows = translation_rows(40)
    rows[4] = {**rows[4], "src_text": question}
    rows[9] = {**rows[9], "src_text": f"Question: {other}? Answer:"}
    turns = [
        {"role": "user", "content": f"Answer briefly.\n{question.capitalize()}?"},
        {"role": "assistant", "content": "Anna"},
    ]
    evaluation = write_jsonl(tmp_path / "eval.jsonl", [{"messages": turns}, {"question": other, "answer": "Three"}])
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    options = project.options(tmp_path / "run", candidates=(str(pool),), method="loss", budget="20")
    make_swept(options)
    gdig.select(**options, exclude=(str(evaluation),), exclude_similarity=1.0)
    listed = read_jsonl(tmp_path / "run" / "excluded.jsonl")
    assert [(row["row"], row["reason"], row["words"]) for row in listed] == [(4, "text", question), (9, "text", other)]


def _shards(run: Path):
    from safetensors.numpy import load_file

    return [load_file(file) for file in sorted((run / "sweep").glob("*.safetensors"))]


def test_near_copies_of_a_run_are_passed_over_whatever_the_threads(project, swept_copy):
    options = project.options(swept_copy, method="top", budget="4", max_similarity=0.5)
    first = gdig.select(**options)
    similar = stages(swept_copy)["select"]["similar"]
    assert gdig.select(**{**options, "threads": 2}).rows.tolist() == first.rows.tolist()
    hidden = np.concatenate([shard["hidden"] for shard in _shards(swept_copy)])
    mean = unit(hidden).astype(np.float16).astype(np.float64).mean(0)
    x = unit(unit(unit(hidden).astype(np.float16) - mean).astype(np.float16)).astype(np.float64)
    cosines = np.triu(x[first.rows] @ x[first.rows].T, 1)
    assert cosines.max() <= 0.5 + 1e-6
    whole = gdig.select(**{**options, "max_similarity": 1.0, "budget": "100%"}).rows
    taken: list[int] = []
    for row in whole:
        if all(x[row] @ x[other] <= 0.5 for other in taken) and len(taken) < 4:
            taken.append(row)
    assert first.rows.tolist() == taken
    summary = "\n".join(first.summary)
    passed = whole.tolist().index(taken[-1]) + 1 - 4
    assert passed > 0 and re.search(rf"\b{passed} rows? (was|were) passed over", summary)
    assert similar == passed
