"""gdig explain over one tiny run: every figure against the stored tensors, tokens against the stored influence."""

from __future__ import annotations

import html
import itertools
import json
import re

import numpy as np
import pytest
import torch

import gdig
from gdig.cli.main import main
from gdig.config.budget import Limit
from gdig.errors import ConfigError, CorpusError, RunError
from gdig.explanation.explanation import Explanation
from gdig.explanation.facts import Facts, LayerShare, Piece, RowExplanation, Seen
from gdig.explanation.pieces import split_pieces
from gdig.explanation.places import possible_methods
from gdig.influence.fit import read_seed_factors
from gdig.model.capture import GradientPass
from gdig.passes.token_influence import SweptBatches, token_influence
from gdig.run.origin import seeds_origin
from gdig.selection.choose import choose
from gdig.selection.finished_run import FinishedRun
from gdig.selection.methods import METHODS
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

EPSILON = 2.0**-24


@pytest.fixture(scope="module")
def run(finished) -> FinishedRun:
    return open_finished(finished)


@pytest.fixture(scope="module")
def explained(finished) -> Explanation:
    return gdig.explain(run_path=str(finished), rows=range(N_ROWS), quiet=True)


def magnitudes(run: FinishedRun, line) -> np.ndarray:
    """The same sums with every term positive, float64 [S]: what errors of rounding are measured in."""
    factors = read_seed_factors(run.work, run.record.stages.fit.dtype, seeds_origin(run.record))
    total = np.zeros(N_SEEDS)

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor) -> None:
        a, d = (x.unflatten(0, line.batch.shape)[line.line, : line.length].double().abs() for x in (a, d))
        f, width = factors[index], a.shape[1]
        right = a @ f.v[:width].double().abs() + (f.v[width].double().abs() if len(f.v) > width else 0)
        columns = ((d @ f.u.double().abs()) * right).sum(0)
        bounds = f.column_offsets.tolist()
        total[:] += [float(columns[i:j].sum()) for i, j in itertools.pairwise(bounds)]

    GradientPass(run.work.model, mask_not_finite=False).run(line.batch, sink)
    return total


def test_tokens_and_layers_add_up_to_the_stored_influence(run, finished):
    """Of both ways in which a sweep adds up (layer_scores), no sum has more than T + O J + C + L roundings a term."""
    sweep = stored(finished)
    fit, facts = run.record.stages.fit, run.record.stages.sweep
    factors = read_seed_factors(run.work, fit.dtype, seeds_origin(run.record))
    batches = SweptBatches(run.work, run.sweep.store, facts.token_batch_size)
    most = max(len(f.u) * len(f.v) + f.u.shape[1] for f in factors) + len(factors)
    for row in range(0, N_ROWS, 7):
        line = batches.find(row)
        passed = token_influence(run.work.model, factors, line, run.config)
        roundings = line.length + most + 4
        bound = roundings * EPSILON / (1 - roundings * EPSILON) * magnitudes(run, line) * 2
        assert (bound < 0.01 * np.abs(sweep["influence"]).mean()).all()  # the bound says something
        for sums in (passed.by_token, passed.by_layer):
            assert (np.abs(sums.sum(0) - sweep["influence"][row]) <= bound).all()
        assert len(passed.by_token) == sweep["tokens"][row]


def test_the_strongest_tokens_are_named_without_colour(explained):
    """For whoever sees no colours or points with no mouse."""
    pieces = sorted(explained.rows[0].seen.pieces, key=lambda piece: -abs(piece.influence))[:8]
    assert pieces[0].influence != 0
    expected = ", ".join(f"{piece.name} {piece.influence:+.3g}" for piece in pieces)
    words = " ".join(html.unescape(re.sub(r"<[^>]+>", "", explained._repr_html_())).split())
    assert [Piece(text, True).name for text in (" dog ", "\n\n", "  ")] == ["dog", "↵", "␣"]
    assert "Strongest tokens: " + " ".join(expected.split()) + "." in words


def test_shaded_tokens_can_be_read_on_light_and_dark_terminals(explained):
    """Letters and ground are both given, with the contrast of WCAG 2 (AA): 4.5 to 1."""
    styles = [str(span.style) for line in explained.lines() for span in line.spans]
    shades = {style for style in styles if "on rgb" in style}
    assert len(shades) > 1
    for shade in shades:
        red, green, blue = map(int, re.fullmatch(r"white on rgb\((\d+),(\d+),(\d+)\)", shade).groups())
        linear = [((x / 255 + 0.055) / 1.055) ** 2.4 if x > 10 else x / 255 / 12.92 for x in (red, green, blue)]
        assert 1.05 / (0.05 + np.dot([0.2126, 0.7152, 0.0722], linear)) >= 4.5, shade


def test_figures_are_those_of_the_run(explained, finished):
    sweep, (labels, distances) = stored(finished), labels_of(finished)
    selection = [row["gdig"]["row"] for row in read_jsonl(finished / "selection.jsonl")]
    score = steady(sweep["influence"])
    for row, facts in enumerate(explained.rows):
        influence = sweep["influence"][row]
        assert facts.row == row and facts.problem is None and facts.pool_rows == N_ROWS
        assert facts.score == pytest.approx(score[row], rel=1e-6)
        assert (facts.votes, facts.voters) == ((influence > 0).sum(), N_SEEDS)
        assert facts.loss == sweep["loss"][row] and facts.seen.tokens == sweep["tokens"][row]
        order = np.argsort(-influence)
        assert [seed.seed for seed in facts.helped] == [s for s in order[:3] if influence[s] > 0]
        assert [seed.seed for seed in facts.harmed] == [s for s in order[::-1][:3] if influence[s] < 0]
        for seed in (*facts.helped, *facts.harmed):
            assert seed.influence == seed.relative == influence[seed.seed]
            assert seed.rank == 1 + (sweep["influence"][:, seed.seed] > influence[seed.seed]).sum()
        assert facts.cluster.number == labels[row] and facts.cluster.distance == distances[row]
        members = labels == labels[row]
        assert facts.cluster.rows == members.sum()
        assert facts.cluster.nearer == (distances[members] < distances[row]).sum()
        assert facts.cluster.chosen == sum(labels[i] == labels[row] and i != row for i in selection)
        assert facts.chosen_of == len(selection)
        assert facts.chosen_place == (selection.index(row) + 1 if row in selection else None)
        (place,) = [each for each in facts.places if each.method == "agreement"]
        assert place.chosen == (row in selection)
        assert sum(layer.share for layer in facts.layers) == pytest.approx(1)
        pieces = facts.seen.pieces
        assert sum(piece.influence for piece in pieces) == pytest.approx(facts.sums.tokens)
        assert sum(piece.score for piece in pieces) + facts.sums.offset == pytest.approx(facts.score, abs=1e-5)
        for seed in (*facts.helped, *facts.harmed):
            assert sum(piece.seeds[seed.seed] for piece in pieces) == pytest.approx(seed.influence, rel=1e-3, abs=1e-5)


def test_nearest_rows_are_those_of_the_cosine(explained, finished):
    sketches = stored(finished)["sketch"].astype(np.float64)
    units = sketches / np.linalg.norm(sketches, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    for row, facts in enumerate(explained.rows):
        best = np.sort(cosines[row])[::-1][: len(facts.near)]
        np.testing.assert_allclose([neighbour.cosine for neighbour in facts.near], best, atol=1e-5)
        np.testing.assert_allclose([cosines[row, neighbour.row] for neighbour in facts.near], best, atol=1e-5)
        assert facts.repeats == ()


def test_places_are_those_of_the_methods(explained, run):
    for name in possible_methods(run):
        bare = run.sweep if METHODS[name].clusters else run.sweep.without_clusters()
        options = run.config.with_options(method=name)
        chosen = choose(bare, run.limit, options).rows.tolist()
        whole = choose(bare, Limit("rows", N_ROWS), options).rows.tolist() if METHODS[name].nested else []
        assert whole[: len(chosen)] == chosen or not whole, name
        for row, facts in enumerate(explained.rows):
            (place,) = [each for each in facts.places if each.method == name]
            assert place.chosen == (row in chosen)
            expected = chosen.index(row) + 1 if row in chosen else whole.index(row) + 1 if row in whole else None
            assert place.place == expected and place.of == len(whole if expected and row not in chosen else chosen)


def test_a_row_of_the_pool_given_as_text_is_itself(project, explained, finished):
    facts = gdig.explain(
        run_path=str(finished), text=[json.dumps(project.rows[7], ensure_ascii=False), "a cat"], quiet=True
    )
    row, plain = facts.rows
    assert row.row is None and row.repeats == (7,) and row.near[0].row == 7 and row.near[0].cosine > 0.999
    assert row.near[0].repeat and row.score == pytest.approx(explained.rows[7].score, abs=1e-3)
    assert row.cluster.number == explained.rows[7].cluster.number and row.sums.stored is None
    assert row.sums.tokens == pytest.approx(explained.rows[7].sums.tokens, rel=1e-3)
    scores = steady(stored(finished)["influence"])
    (top,) = [place for place in row.places if place.method == "top"]
    assert (top.place, top.of) == (1 + (scores > np.float32(row.score)).sum(), N_ROWS + 1)
    assert all(piece.target for piece in plain.seen.pieces[1:]) and plain.repeats == ()


def test_a_seed_names_the_rows_that_help_it(finished):
    influence = stored(finished)["influence"].astype(np.float64)
    selection = [row["gdig"]["row"] for row in read_jsonl(finished / "selection.jsonl")]
    (seed,) = gdig.explain(run_path=str(finished), seed=[3], quiet=True).seeds
    order = np.argsort(-influence[:, 3], kind="stable")
    assert [extreme.row for extreme in seed.best] == order[:10].tolist()
    assert [extreme.row for extreme in seed.worst] == order[::-1][:10].tolist()
    assert seed.helped_share == (influence[:, 3] > 0).mean()
    assert seed.chosen_share == (influence[selection, 3] > 0).mean()
    others = np.delete(influence / influence.std(0), 3, axis=1).mean(1)
    assert seed.agreement == pytest.approx(np.corrcoef(influence[:, 3], others)[0, 1])


def test_the_command_prints_text_json_and_a_page(finished, tmp_path, capsys):
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    page = tmp_path / "why.html"
    assert main(["explain", str(finished), "5", "9", "--seed", "1", "--html", str(page), "--no-model-pass"]) == 0
    text = capsys.readouterr().out
    assert "row 5: " in text and "row 9: " in text and "seed 1: " in text and "\x1b" not in text
    assert main(["explain", str(finished), "5", "--json", "--quiet"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"][0]["row"] == 5 and facts["rows"][0]["seen"]["pieces"]
    written = page.read_text(encoding="utf-8")
    assert written.startswith("<!DOCTYPE html>") and "http" not in written.replace("http-equiv", "")
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before


def test_a_heading_keeps_the_place_of_the_row_apart(explained):
    page = explained._repr_html_()
    assert re.search(r"<h2>Row \d+ <span", page) and not re.search(r"<h2>[^<]*\w<span", page)


def test_hostile_text_is_escaped(project, finished, tmp_path):
    hostile = {**project.rows[0], "trg_text": "</span><script>alert(1)</script>\x1b[31m{{ 7*7 }}"}
    explanation = gdig.explain(run_path=str(finished), text=[json.dumps(hostile)], model_pass=False, quiet=True)
    fragment = explanation._repr_html_()
    assert "<script" not in fragment
    assert "&lt;/span&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in re.sub("</?span[^>]*>", "", fragment)
    assert "{{7*7}}" in re.sub("</?span[^>]*>| ", "", fragment), "text is no template"
    assert "\x1b" not in str(explanation)


def test_what_is_wrong_is_said(project, run_copy, tmp_path):
    def explain(**asked):
        return gdig.explain(run_path=str(run_copy), quiet=True, model_pass=False, **asked)

    with pytest.raises(ConfigError, match="got nothing"):
        explain()
    with pytest.raises(ConfigError, match=f"row {N_ROWS}: expected a row of the pool, 0 to {N_ROWS - 1}"):
        explain(rows=[N_ROWS])
    with pytest.raises(ConfigError, match=f"seed {N_SEEDS}: expected a seed"):
        explain(seed=[N_SEEDS])
    with pytest.raises(ConfigError, match=r"methods: expected some of .* got 'less'"):
        explain(rows=[0], methods=["less"])
    other = write_jsonl(tmp_path / "other.jsonl", project.rows[::-1])
    with pytest.raises(RunError, match=r"candidates: .* changed since the run began"):
        explain(rows=[0], candidates=(str(other),))
    with pytest.raises(CorpusError, match=r"row 1: field 'gdig'"):
        explain(rows=[0], selection=str(other))
    with pytest.raises(CorpusError, match=r"text 0, row 0: the fields \(src_text\)"):
        explain(text=['{"src_text": "x"}'])
    (blank,) = explain(text=["   "]).rows
    assert "is empty" in blank.problem and "cannot be selected" in str(explain(text=["   "]))
    (run_copy / "selection.jsonl").unlink()
    facts = explain(rows=[0])
    assert facts.rows[0].chosen_of is None and "what was chosen is not known" in str(facts)


def test_a_run_without_gradients_or_clusters(project, tmp_path):
    options = project.options(tmp_path / "run", gradients=False, method="loss", seeds=(str(project.seeds),))
    gdig.select(**options)
    explanation = gdig.explain(run_path=str(tmp_path / "run"), rows=[4], text=["a dog"], quiet=True)
    row, text = explanation.rows
    assert row.score is None and row.helped == () and row.layers == () and row.cluster is None
    assert row.near and text.near and row.loss == stored(tmp_path / "run")["loss"][4]
    assert "no gradients" in str(explanation)
    with pytest.raises(ConfigError, match="expected a run with influence"):
        gdig.explain(run_path=str(tmp_path / "run"), seed=[0], quiet=True)


def test_a_pool_smaller_than_a_row_has_neighbours(project, tmp_path):
    """Methods over neighbours are not asked, by explain and by compare, also where one source alone is that small."""
    rows = translation_rows(15)
    files = {"few": rows[:3], "many": rows[3:]}
    few, many = (str(write_jsonl(tmp_path / f"{name}.jsonl", lines)) for name, lines in files.items())
    for candidates, quotas in (((few,), None), ((few, many), "equal")):
        run = tmp_path / f"run-{len(candidates)}"
        options = project.options(run, candidates=candidates, source_quotas=quotas, budget="2", n_clusters=2)
        make_swept(options)
        gdig.select(**options)
        (row,) = gdig.explain(run_path=str(run), rows=[0], model_pass=False).rows
        compared = gdig.compare(**options)
        names = {place.method for place in row.places}
        assert names == {summary.method for summary in compared.summaries} - {"dsir", "bm25"}  # before: no token files
        assert {"gdig", "top", "knn"} <= names and not names & {"facility", "g2is", "self-filter"}


def test_pieces_join_to_the_text_and_hold_each_token_once(tiny_tokenizer):
    text = 'Chinese: "今天天气很好"\nthe cat 🐈 sat\u0301 </s>'
    ids = np.array(tiny_tokenizer(text)["input_ids"])
    pieces = split_pieces(ids, tiny_tokenizer)
    assert "".join(piece for piece, _ in pieces) == tiny_tokenizer.decode(ids)
    assert [t for _, tokens in pieces for t in tokens] == list(range(len(ids)))
    assert "天" in [piece for piece, _ in pieces] or any("天" in piece for piece, _ in pieces)
    assert [piece for piece, _ in split_pieces(ids[:2], None)] == [f"{token} " for token in ids[:2]]


def test_a_row_without_any_influence_can_be_shown():
    seen = Seen(1, 1, 0, (Piece("a", True),))
    row = RowExplanation(0, "a.jsonl, row 0", "a", seen, loss=1.0, layers=(LayerShare("up", 0.0, 0.0),))
    explanation = Explanation(Facts("runs/a", "gdig", (row,)))
    assert str(explanation).splitlines()[-1].split() == ["0.0%", "+0", "up"]
    assert "width: 0.0em" in explanation._repr_html_()
