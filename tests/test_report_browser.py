"""The report in a real browser: it loads without errors or requests, and its parts work. One start serves all tests."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gdig
from gdig.reporting.comparison import gather_comparison, write_comparison
from tests.support.browser import Browser, browser, find_browser
from tests.support.project_fixtures import read_jsonl
from tests.support.swept_run import open_finished

NAMED = ("button", "textbox", "searchbox", "combobox", "link", "region")
ARTEFACTS = Path(os.environ.get("GDIG_ARTEFACTS", "build/report-test"))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in GDIG_CHROMIUM")
    with browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


def open_report(page: Browser, file: Path) -> None:
    page.look(1280, 900)
    page.open(file)
    page.wait(
        "document.body.dataset.ready === 'yes'"
        " && charts.every((one) => one.view && one.node.querySelector('svg, canvas'))"
    )
    assert page.messages == [] and page.requests == [file.resolve().as_uri()]


def centre(page: Browser, of: str) -> tuple[float, float]:
    box: dict[str, Any] = page.script(
        f"(() => {{ const n = {of}; n.scrollIntoView({{block: 'center', behavior: 'instant'}});"
        " const b = n.getBoundingClientRect(); return {x: b.x + b.width / 2, y: b.y + b.height / 2}; })()"
    )
    return box["x"], box["y"]


def test_a_browser_draws_all_charts_without_an_error_or_a_request(page, hostile):
    open_report(page, hostile / "report.html")
    n = page.script("charts.length")
    assert n == 3 + 1 + 1 + 1  # distributions, votes, map, methods
    assert page.script("charts.every((one) => one.node.getBoundingClientRect().height > 100)")
    bars = "[...document.querySelectorAll('#histograms svg')].every((s) => s.querySelectorAll('path').length > 20)"
    assert page.script(bars)
    assert page.script(
        "(() => { const c = document.querySelector('#map-chart canvas');"
        " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((x) => x !== 0); })()"
    )
    assert page.script("document.title").startswith("gdig report") and page.script("document.images.length") == 0
    page.screenshot(ARTEFACTS / "report-hostile.png")
    for control, values in (("map-colour", ["score", "loss", "cluster", "source"]), ("map-form", ["pca", "layout"])):
        assert set(values) <= set(page.script(f"[...document.getElementById('{control}').options].map((o) => o.value)"))
        for value in values:
            page.script(
                f"(() => {{ const control = document.getElementById('{control}'); control.value = '{value}';"
                " control.dispatchEvent(new Event('change')); })()"
            )
    assert page.script("Promise.resolve().then(() => charts.every((one) => one.view !== null))") and page.messages == []


def test_the_table_sorts_and_filters(page, hostile):
    open_report(page, hostile / "report.html")
    column = "[...document.querySelectorAll('#chosen tbody tr')].map((r) => r.children[{}].textContent)"
    assert page.script(column.format(0)) == [str(i) for i in range(1, 21)]
    sort = "[...document.querySelectorAll('#chosen th button')].find((b) => b.textContent === 'loss')"
    at = page.script(f"[...document.querySelectorAll('#chosen th button')].indexOf({sort})")
    page.script(f"{sort}.click()")
    losses = [float(text) for text in page.script(column.format(at))]
    assert losses == sorted(losses, reverse=True)
    assert page.script(f"{sort}.parentElement.getAttribute('aria-sort')") == "descending"
    page.script(f"{sort}.click()")
    assert [float(text) for text in page.script(column.format(at))] == sorted(losses)
    page.script(
        "(() => { const s = document.querySelector('#chosen input'); s.value = 'OFFERS';"
        " s.dispatchEvent(new Event('input')); })()"
    )
    chosen = [row["gdig"]["row"] for row in read_jsonl(hostile / "selection.jsonl")]
    texts = page.script("facts.chosen.map((row) => facts.rows[row].text)")
    expected = sum("offers" in text.lower() for text in texts)
    assert len(texts) == len(chosen) and page.script("document.querySelectorAll('#chosen tbody tr').length") == expected
    assert f"of {expected} rows shown" in page.script("document.querySelector('#chosen [role=status]').textContent")


def test_pointing_at_the_map_shows_the_text_and_a_click_explains_the_row(page, hostile):
    open_report(page, hostile / "report.html")
    spot = page.script(
        "(() => { const canvas = document.querySelector('#map-chart canvas');"
        " canvas.scrollIntoView({block: 'center', behavior: 'instant'}); const box = canvas.getBoundingClientRect();"
        " const view = charts.find((one) => one.node.contains(canvas)).view; let found = null;"
        " const visit = (item, x, y) => { if (item.marktype === 'group') for (const g of item.items)"
        "   for (const mark of g.items || []) visit(mark, x + (g.x || 0), y + (g.y || 0));"
        "  else if (item.marktype === 'symbol' && item.name === 'marks') { const i = item.items[item.items.length - 1];"
        "   found = {x: x + i.x, y: y + i.y, row: i.datum.row}; } };"
        " visit(view.scenegraph().root, view.origin()[0] + view.padding().left, view.origin()[1] + view.padding().top);"
        " return {x: box.x + found.x, y: box.y + found.y, row: found.row}; })()"
    )
    page.mouse("mouseMoved", spot["x"] - 40, spot["y"] - 3)
    page.mouse("mouseMoved", spot["x"], spot["y"])
    page.wait("!tip.hidden && tip.isConnected")
    row = int(re.match(r"row (\d+)\n", page.script("tip.textContent"))[1])
    assert page.script("tip.textContent") == f"row {row}\n" + page.script(f"facts.rows[{row}].text")
    page.screenshot(ARTEFACTS / "report-hover.png")
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, spot["x"], spot["y"])
    page.wait("document.getElementById('row').open")
    assert page.script("document.querySelector('#row .text').textContent") == page.script(f"facts.rows[{row}].text")
    assert f"gdig explain {hostile} {row}" in page.script("document.getElementById('row').textContent")
    assert page.script("'tasks' in facts.rows[" + str(row) + "].reasons")  # an object: a number for each task
    assert "[object" not in page.script("document.getElementById('row').textContent")
    page.screenshot(ARTEFACTS / "report-row.png")
    page.key("Escape", 27)
    page.wait("!document.getElementById('row').open")
    assert page.messages == []


def test_keyboard_screen_readers_phone_and_dark(page, hostile):
    open_report(page, hostile / "report.html")
    names = {
        node["name"]["value"] if "name" in node else ""
        for node in page.call("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"] and node.get("role", {}).get("value") in NAMED
    }
    assert "" not in names and "chosen rows" in names
    named = "(one.node.querySelector('[aria-label]') || one.node).getAttribute('aria-label')"
    charts = page.script(f"charts.map((one) => {named})")
    assert all(charts) and len(set(charts)) == len(charts)
    page.script("document.querySelector('#chosen .row-link').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", windowsVirtualKeyCode=13, text="\r")
    page.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", windowsVirtualKeyCode=13)
    page.wait("document.getElementById('row').open")
    assert page.script("document.getElementById('row').contains(document.activeElement)")
    page.key("Escape", 27)
    page.wait("!document.getElementById('row').open")
    colours = []
    for dark in (False, True):
        page.look(390, 844, dark=dark, mobile=True)
        page.wait("document.documentElement.scrollWidth <= 390")
        colours.append(page.script("getComputedStyle(document.body).backgroundColor"))
        for table in ("chosen", "seeds", "best"):  # a row's text and all of its numbers, without a move sideways
            cells = page.script(
                f"[...document.querySelector('#{table} tbody tr').children].map((cell) => [cell.getBoundingClientRect()"
                ".right, cell.matches('.words') || getComputedStyle(cell, '::before').content !== 'none'])"
            )
            assert len(cells) >= 7 and all(right <= 390 and named for right, named in cells), cells
        page.screenshot(ARTEFACTS / f"report-phone-{'dark' if dark else 'light'}.png")
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 24, 31)"] and page.messages == []


def test_a_report_and_an_explanation_of_a_real_run(page, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    open_report(page, gdig.report(run_path=str(tmp_path / "run"), quiet=True))
    page.screenshot(ARTEFACTS / "report.png", whole=True)
    why = tmp_path / "why.html"
    gdig.explain(run_path=str(finished), rows=[3], seed=[1], quiet=True).write_html(why)
    page.open(why)
    assert page.messages == [] and page.requests == [why.resolve().as_uri()]
    assert page.script("document.querySelectorAll('.token').length") > 10
    page.screenshot(ARTEFACTS / "explanation.png", whole=True)


def test_a_comparison_draws_and_sorts(page, hostile, tmp_path):
    run = open_finished(hostile)
    selections = {"</script>one": run.chosen.rows, "two": run.chosen.rows[::-1][:5]}
    file = tmp_path / "compare.html"
    write_comparison(gather_comparison(run, selections), file)
    open_report(page, file)
    assert page.script("document.querySelectorAll('#side-0 tbody tr').length") == len(run.chosen.rows) - 5
    page.script("document.querySelector('#side-0 .row-link').click()")
    page.wait("document.getElementById('row').open")
    page.screenshot(ARTEFACTS / "comparison.png")
