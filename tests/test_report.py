"""The report of a run: its figures against the stored tensors, its page against hostile rows and in a real browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import gdig
from gdig.cli.main import main
from gdig.data.show import row_text
from gdig.pages.render import script_json
from gdig.reporting import bounds, gather, groups, seed_lines
from gdig.reporting.bounds import fitting, fitting_reasons
from gdig.reporting.facts import ReportFacts, RowCard
from gdig.reporting.gather import gather_facts
from gdig.reporting.page import report_page
from gdig.reporting.plane import to_plane
from gdig.reporting.words import characteristic_words, words_of
from tests.support.project_fixtures import (
    N_ROWS,
    N_SEEDS,
    labels_of,
    read_jsonl,
    steady,
    stored,
    translation_rows,
    write_jsonl,
)
from tests.support.swept_run import make_swept, open_finished


def facts_of(run_path: Path) -> ReportFacts:
    return gather_facts(open_finished(run_path))


@pytest.fixture(scope="module")
def facts(finished) -> ReportFacts:
    return facts_of(finished)


def test_figures_are_those_of_the_run(facts, finished):
    sweep, (labels, distances) = stored(finished), labels_of(finished)
    chosen = [row["gdig"]["row"] for row in read_jsonl(finished / "selection.jsonl")]
    score = steady(sweep["influence"])
    assert list(facts.chosen) == chosen and facts.n_chosen == len(chosen) and facts.counted == N_ROWS
    assert list(facts.best) == np.lexsort((np.arange(N_ROWS), -score))[:10].tolist()
    assert list(facts.worst) == np.lexsort((-np.arange(N_ROWS), score))[:10].tolist()
    assert list(facts.edge) == chosen[-10:]
    by_name = {histogram.name: histogram for histogram in facts.histograms}
    for name, values in (("score", score), ("loss", sweep["loss"]), ("tokens", sweep["tokens"])):
        histogram = by_name[name]
        assert sum(histogram.pool) == pytest.approx(1) and sum(histogram.chosen) == pytest.approx(1)
        assert histogram.pool_median == pytest.approx(np.median(values), rel=1e-6)
        assert histogram.chosen_median == pytest.approx(np.median(values[chosen]), rel=1e-6)
        edges = np.array(histogram.edges)
        exact = values.astype(np.float64)  # NumPy 1 clips float32 in float32, which may leave the outermost edge
        inside = np.histogram(exact.clip(edges[0], edges[-1]), edges)[0] / N_ROWS
        np.testing.assert_allclose(histogram.pool, inside)
    votes = (sweep["influence"] > 0).sum(1)
    assert facts.votes.counts == tuple(np.bincount(votes, minlength=N_SEEDS + 1).tolist())
    enough = next(k for k in range(N_SEEDS, -1, -1) if (votes >= k).sum() >= len(chosen))  # tau is 1, and falls
    assert facts.votes.threshold == enough
    for card in facts.clusters:
        members = np.flatnonzero(labels == card.number)
        assert card.rows == len(members) and card.chosen == np.isin(members, chosen).sum()
        assert card.score == pytest.approx(score[members].mean(dtype=np.float64), rel=1e-6)
        assert list(card.examples) == members[np.argsort(distances[members], kind="stable")][:3].tolist()
    (source,) = facts.sources
    assert (source.name, source.rows, source.chosen) == ("pool.jsonl", N_ROWS, len(chosen))
    for seed, line in enumerate(facts.seeds):
        column = sweep["influence"][:, seed]
        assert line.pool == (column > 0).mean() and line.chosen == (column[chosen] > 0).mean()
    for row, card in facts.rows.items():
        assert card.score == pytest.approx(score[row], rel=1e-6) and card.cluster == labels[row]
        assert card.place == (chosen.index(row) + 1 if row in chosen else None)
        order = np.argsort(-sweep["influence"][row])
        assert [seed for seed, _ in card.helped] == [s for s in order[:3] if sweep["influence"][row, s] > 0]
    assert facts.map is not None and sorted(facts.map.rows) == list(range(N_ROWS))
    assert all(facts.overlap.shares[i][i] == 1 for i in range(len(facts.overlap.names)))
    assert facts.overlap.chosen[facts.overlap.names.index("agreement")] == 1


def test_a_large_pool_is_sampled_and_the_page_stays_small(run_copy, monkeypatch):
    monkeypatch.setattr("gdig.reporting.columns.MOST_COUNTED", 40)
    monkeypatch.setattr(gather, "MAP_ROWS", 10)
    monkeypatch.setattr(gather, "TABLE_ROWS", 5)
    few = facts_of(run_copy)
    assert few.counted == 40 and few.valid == N_ROWS and len(few.map.rows) == 10 and len(few.chosen) == 5
    assert few.n_chosen == 12 and set(few.chosen) <= set(few.rows)


WORST = {
    "many fields": {f"field {i}": "x" * 50 for i in range(400)},
    "long names": {"n" * 5_000: "x", "m" * 5_000: "y"},
    "three bytes a character": {"text": "文" * 5_000},
    "four bytes a character": {"text": "🙂" * 5_000},
    "escaped": {"text": "<" * 5_000},
    "controls": {"text": "\x01" * 5_000},
    "half of a pair": {"text": "\ud800" * 5_000},
    "uneven": {"text": "x" * 190 + "<" * 5_000},
}


def test_the_size_is_bounded_whatever_the_rows():
    """The worst rows on map and table, the worst names of tasks and files, and the libraries: below 10 MB."""
    tasks = {f"{i}" + "<" * 900: 0.123456789 * i for i in range(500)}
    reasons = fitting_reasons(
        {"tasks": tasks, "for_task": "<" * 900, "relevance": 0.123456789, "for_seed": 1_000, "seed_rank": 1_000_000}
    )
    assert list(reasons["tasks, the strongest"].values()) == [0.123456789 * i for i in (499, 498, 497, 496)]
    libraries = sum(file.stat().st_size for file in (Path(gather.__file__).parents[1] / "pages/assets").iterdir())
    lists = 1_000 * (bounds.SEED_BYTES + 300) + 3 * bounds.LINES * (bounds.NAME_BYTES + 300)
    for name, row in WORST.items():
        text = fitting(row_text(row, bounds.TEXT), bounds.TEXT_BYTES)
        assert 0 < len(text) <= 1.5 * bounds.TEXT + 10, name
        where, effects, near = (
            fitting("<" * 4_000, bounds.NAME_BYTES),
            ((1_000, 0.123456789),) * 3,
            (10**6, 0.123456789),
        )
        card = RowCard(
            10**6,
            text,
            where,
            3,
            1.23456789,
            9_999,
            0.123456789,
            0.515625,
            400,
            10,
            effects,
            effects,
            (near,) * 3,
            reasons,
        )
        card_bytes = len(script_json({"1000000": card.__dict__}).encode("utf-8", "replace"))
        assert card_bytes * (gather.MAP_ROWS + gather.TABLE_ROWS + 200) + lists + libraries < 10e6, name


def test_a_text_that_fits_stays_whole_and_another_keeps_both_ends():
    assert fitting("文" * 300, bounds.TEXT_BYTES + 2) == "文" * 300
    cut = fitting("a" + "<" * 2_000 + "z", 300)
    assert cut[0] == "a" and cut[-1] == "z" and " … " in cut and len(script_json(cut)) <= 300
    assert fitting_reasons({"tasks": {"a": 1.0, "b": -2.0}, "n": 3}) == {"tasks": {"a": 1.0, "b": -2.0}, "n": 3}


def test_long_lists_are_cut_and_the_page_says_so(run_copy, monkeypatch):
    for module, name in ((groups, "LINES"), (gather, "LINES"), (seed_lines, "SEEDS")):
        monkeypatch.setattr(module, name, 1)
    facts = facts_of(run_copy)
    assert len(facts.inputs) == len(facts.seeds) == 1 and facts.n_inputs > 2 and facts.n_seeds == N_SEEDS
    page = report_page(facts)
    for n in (facts.n_inputs, N_SEEDS):
        assert f"The first 1 of {n} are listed." in page
    assert "are listed." not in report_page(replace(facts, n_inputs=1, n_seeds=1))


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def test_the_threshold_is_that_of_the_rows_that_may_be_chosen(project, tmp_path):
    """Repeats count among the votes of the pool, but the choice passes over them, so its threshold is lower."""
    pool = write_jsonl(tmp_path / "pool.jsonl", translation_rows(30) * 2)
    options = project.options(tmp_path / "run", candidates=(str(pool),), method="agreement", tau=1.0)
    run = make_swept(options)
    votes = (stored(run)["influence"] > 0).sum(1)
    unanimous = int((votes[:30] == N_SEEDS).sum())  # with their repeats twice as many, which would fill the budget
    assert 0 < unanimous < 30
    options["budget"] = str(unanimous + 1)
    gdig.select(**options)
    assert facts_of(run).votes.threshold == sorted(votes[:30])[-unanimous - 1] < N_SEEDS
    gdig.select(**options, source_quotas="equal")
    assert facts_of(run).votes.threshold is None


def test_three_rows_and_one_seed(project, tmp_path):
    pool = write_jsonl(tmp_path / "pool.jsonl", translation_rows(3))
    seeds = write_jsonl(tmp_path / "seeds.jsonl", translation_rows(1, random_seed=1))
    options = project.options(
        tmp_path / "run", candidates=(str(pool),), seeds=(str(seeds),), budget="1", method="gdig", n_clusters=None
    )
    facts = facts_of(make_swept(options))
    assert facts.votes.voters == 1 and facts.votes.reliability is None and facts.chosen == ()
    gdig.select(**options)
    facts = facts_of(tmp_path / "run")
    assert len(facts.chosen) == 1 and len(facts.map.rows) == len(facts.best) == len(facts.worst) == 3
    shown = report_page(facts).partition('id="facts"')[0]
    assert "nan" not in re.sub(r"<[^>]+>", " ", shown).lower().split()


def test_hostile_rows_stay_text(hostile, finished):
    page = (hostile / "report.html").read_text(encoding="utf-8")
    tags, usual = Tags(page).tags, Tags(report_page(facts_of(finished))).tags
    assert {tag for tag, _ in tags} <= {tag for tag, _ in usual} | {"p"}, "no tag comes from a row"
    assert [tag for tag, _ in tags].count("script") == 4 == page.count("</script>")
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert str(attributes.get("href", "#")).startswith(("#", "data:"))
    block = re.search(r'id="facts">(.*?)</script>', page, re.S)[1]
    assert not set("<>&\u2028\u2029") & set(block)
    texts = [card["text"] for card in json.loads(block)["rows"].values()]
    assert any("</script><script>" in text for text in texts) and any("{{ 7*7 }}" in text for text in texts)


def test_a_report_that_fails_is_a_warning_and_the_selection_is_whole(project, swept_copy, monkeypatch, capsys):
    monkeypatch.setattr("gdig.reporting.report.gather_facts", lambda run: 1 / 0)
    options = project.options(swept_copy, report=True, quiet=False)
    selection = gdig.select(**options)
    assert selection.output.is_file() and not any(line.startswith("report") for line in selection.summary)
    assert "no report was made (ZeroDivisionError" in capsys.readouterr().err
    assert not (swept_copy / "report.html").exists()


def test_the_command_writes_page_and_table(finished, tmp_path, capsys):
    page, table = tmp_path / "sub" / "a.html", tmp_path / "sub" / "atlas.parquet"
    before = sorted(finished.rglob("*"))
    assert main(["report", str(finished), "--html", str(page), "--atlas", str(table)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"report: {page}", f"table for Embedding Atlas: {table}"]
    assert sorted(finished.rglob("*")) == before and page.stat().st_size < 1.5e6
    rows = pq.read_table(table).to_pylist()
    chosen = [row["gdig"]["row"] for row in read_jsonl(finished / "selection.jsonl")]
    assert [row["row"] for row in rows] == list(range(N_ROWS))
    assert [row["row"] for row in rows if row["chosen"]] == sorted(chosen)
    assert all(np.isfinite([row["projection_x"], row["projection_y"]]).all() and row["text"] for row in rows)
    np.testing.assert_allclose([row["score"] for row in rows], steady(stored(finished)["influence"]), rtol=1e-6)


def test_runs_without_gradients_clusters_or_selection(project, tmp_path):
    options = project.options(tmp_path / "run", gradients=False, method="loss", report=True)
    gdig.select(**options)
    facts = facts_of(tmp_path / "run")
    assert facts.votes is None and facts.seeds == () and facts.best_by == "loss" and facts.clusters == ()
    assert list(facts.best) == np.argsort(stored(tmp_path / "run")["loss"], kind="stable")[:10].tolist()
    assert "score" not in [histogram.name for histogram in facts.histograms]
    (tmp_path / "run" / "selection.jsonl").unlink()
    bare = facts_of(tmp_path / "run")
    assert bare.chosen == () and any("no selection is shown" in warning for warning in bare.warnings)
    assert gdig.report(run_path=str(tmp_path / "run")).stat().st_size > 5e5


def test_words_tell_groups_apart():
    groups = {1: ["the red fox", "a red dog"], 2: ["the blue fox", "a blue dog 猫猫好"], 3: []}
    words = characteristic_words(groups)
    assert words[1][0] == "red" and words[2][0] == "blue" and words[3] == () and "the" not in words[1]
    assert words_of("今天好 Don't 42 x") == {"今天", "天好", "don't"}


def test_the_plane_keeps_groups_together():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 40)
    x = (np.eye(4)[group] @ rng.standard_normal((4, 32)) + 0.2 * rng.standard_normal((160, 32))).astype(np.float32)
    plane = to_plane(x)
    squares = np.square(plane.layout[:, None] - plane.layout[None]).sum(-1)
    np.fill_diagonal(squares, np.inf)
    assert (group[squares.argmin(1)] == group).mean() > 0.95
    far = np.concatenate([x, *(20 * rng.standard_normal(32) + 1e-3 * rng.standard_normal((10, 32)) for _ in range(4))])
    low, high = np.percentile(to_plane(far.astype(np.float32)).layout, [10, 90], axis=0)
    assert ((high - low) / np.ptp(to_plane(far.astype(np.float32)).layout, axis=0) > 0.25).all(), "room for most rows"
    centred = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.linalg.svd(centred - centred.mean(0), compute_uv=False) ** 2
    assert plane.explained == pytest.approx(values[:2].sum() / values.sum(), rel=1e-4)
    np.testing.assert_array_equal(to_plane(x).layout, plane.layout)
    for small in (np.zeros((3, 5), np.float32), np.ones((4, 1), np.float32)):
        assert np.isfinite(to_plane(small).layout).all()
