"""Files that somebody made on purpose, with right checksums: an answer or an error that names the file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import gdig
from gdig.data.cache import cached_folder
from gdig.errors import ConfigError, CorpusError, GdigError, RunError, StoreError
from gdig.run.record_file import read_record
from gdig.run.verify import verify
from gdig.selection.chosen_rows import read_chosen_rows
from gdig.selection.quotas import source_weights
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors, write_tensors
from tests.drill.forgery import forge_tensors
from tests.support.limits import within
from tests.support.project_fixtures import as_it_is, edit_record, translation_rows, write_jsonl


@pytest.fixture(scope="module")
def rich(project, whole, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A finished run that also has sources, an evaluation set and a mean of hidden states; and what to select with."""
    folder = tmp_path_factory.mktemp("rich")
    rows = [row | {"source": f"s{i % 3}"} if i % 4 else row for i, row in enumerate(translation_rows())]
    options = {
        "candidates": (str(write_jsonl(folder / "pool.jsonl", rows)),),
        "exclude": (str(write_jsonl(folder / "evaluation.jsonl", rows[5:9])),),
        "source_field": "source",
        "method": "top",
    }
    gdig.select(**project.options(folder / "run", **options))
    return folder / "run", options


def test_each_file_of_sources_and_of_excluded_rows_is_looked_at(project, rich, tmp_path):
    """Selections make these files, beside the shards of the sweep; some hold JSON."""
    source, options = rich
    files = sorted(p.relative_to(source) for name in ("sources", "excluded") for p in (source / name).iterdir())
    files.append(Path("features", "hidden_mean.safetensors"))
    assert len(files) > 8
    rng, run, refused = Random(4), tmp_path / "run", 0
    for file in files * 2:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(source, run)
        what = forge_tensors(run / file, rng)
        with within(10.0):
            try:
                gdig.select(**project.options(run, **options, output=tmp_path / "o.jsonl"))
            except GdigError as error:
                refused += 1
                assert file.parts[0] in str(error), (what, str(error))
    assert refused, "some are made again, and some numbers may be any"


TEXTS = [b"", b"[", b"{}", b"[1]", b"5", b"[" * 5000, b'["a", 1]', b"\xff"]


@pytest.mark.parametrize("text", TEXTS, ids=lambda x: repr(x[:24]))
def test_json_in_a_file_of_a_run_is_looked_at(project, rich, tmp_path, text):
    run = Path(shutil.copytree(rich[0], tmp_path / "run"))
    file = as_it_is(run / "sources" / "00000001.safetensors")
    file.write({**file.read()[0], "names": np.frombuffer(text, np.uint8)})
    with within(5.0), pytest.raises(StoreError, match="sources"):
        gdig.select(**project.options(run, **rich[1]))


@pytest.mark.parametrize(
    "change",
    [
        {"entry": 10**9},
        {"start": 2**31 - 14},
        {"start": -5},
        {"text": 10**9},
        {"words": 2**31 - 1},
        {"row": -1},
        {"equal": [[0, 10**9]]},
        {"equal": [[0, -1]]},
    ],
    ids=str,
)
def test_forged_places_in_excluded_rows_take_no_memory(project, rich, tmp_path, change):
    run = Path(shutil.copytree(rich[0], tmp_path / "run"))
    file = as_it_is(run / "excluded" / "00000000.safetensors")
    tensors = dict(file.read()[0])
    for name, value in change.items():
        tensors[name] = np.array(value, np.int32) if name == "equal" else np.full_like(tensors[name], value)
    file.write(tensors)
    with within(5.0):
        try:
            gdig.select(**project.options(run, **rich[1]))
        except StoreError as error:
            assert "excluded" in str(error)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("hidden", lambda x: x.astype(np.float64)),
        ("hidden", lambda x: x[:, :-1]),
        ("hidden", lambda x: x[..., None]),
        ("hash", lambda x: x.astype(np.float32)),
        ("hash", lambda x: x[:, None]),
        ("influence", lambda x: np.concatenate([x, x], 1)),
        ("valid", lambda x: x.astype(np.int64)),
    ],
)
def test_a_column_of_a_shard_of_another_type_or_width_is_refused(project, whole, tmp_path, name, change):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    file = as_it_is(run / "sweep" / "00000002.safetensors")
    tensors, metadata = read_tensors(file.path)
    write_tensors(file.path, {**tensors, name: np.ascontiguousarray(change(tensors[name]))}, metadata)
    store = SketchStore.open(run / "sweep")
    with pytest.raises(StoreError, match=rf"00000002\.safetensors: tensor '{name}': expected .*; got"):
        [store.tensor(shard, name) for shard in store.shards]
    if name == "hidden":
        with within(10.0), pytest.raises(StoreError, match=r"00000002\.safetensors: tensor 'hidden'"):
            gdig.select(**project.options(run, method="rds"))


def test_no_temporary_file_leads_out_of_a_run(whole, tmp_path):
    """Somebody who knows the number of the process: it is small, so links with all numbers can be there."""
    run, mine = Path(shutil.copytree(whole, tmp_path / "run")), tmp_path / "mine"
    mine.write_text("mine")
    (run / "sweep" / "00000001.safetensors").rename(tmp_path / "shard")
    names = ["run.json", *(f"sweep/{shard:08d}.safetensors" for shard in range(4))]
    for file in map(Path, names):
        (run / file.parent / f".{file.name}.{os.getpid()}.tmp").symlink_to(mine)
    gdig.merge([run, whole], run)
    assert mine.read_text() == "mine" and verify(run).sound


GROWN = [
    [(0, 10)], [(1, 10)], [(2, 10)], [(1, 0)], [(1, 61)], [(1, -5)], [(-1, 10)], [(1, 10), (1, 20)],
]  # fmt: skip


@pytest.mark.parametrize("steps", GROWN, ids=str)
def test_a_growth_without_files_or_rows_is_refused(whole, tmp_path, steps):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    growth = [{"files": files, "first_row": row, "drift": None} for files, row in steps]
    edit_record(run, lambda state: state["stages"]["sweep"].update(growth=growth))
    with pytest.raises(RunError, match="sweep: growth: expected files and rows that rise to 1 and 60, got"):
        read_record(run / "run.json")


def test_a_message_shows_the_beginning_of_a_long_value(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    edit_record(run, lambda state: state.update(versions=["x" * 10**5]))
    with pytest.raises(RunError) as caught:
        read_record(run / "run.json")
    assert len(str(caught.value)) < 1000


LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    "text", [LAUGHS, "a: &a [*a]", "a: -0x" + "f" * 5000, "a: " + "[" * 40 + "]" * 40, "a: " + "x" * 10**5]
)
def test_hostile_weights_of_sources_are_refused(tmp_path, text):
    (tmp_path / "w.yaml").write_text(text)
    with within(2.0), pytest.raises(ConfigError) as caught:
        source_weights(str(tmp_path / "w.yaml"), ["a"], [3])
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("text", ["tau: -0x" + "f" * 5000, "tau: " + "x" * 10**5])
def test_a_value_of_any_length_is_an_error_of_a_line(tmp_path, text):
    from gdig.config.read import read_yaml

    (tmp_path / "o.yaml").write_text(text)
    with within(1.0), pytest.raises(ConfigError, match="tau=") as caught:
        read_yaml(tmp_path / "o.yaml")
    assert len(str(caught.value)) < 2000


def test_a_long_file_of_options_is_not_read(tmp_path):
    from gdig.config.read import read_yaml

    with (tmp_path / "o.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with within(1.0), pytest.raises(ConfigError, match=r"o\.yaml: expected a flat mapping"):
        read_yaml(tmp_path / "o.yaml")


def test_a_pipe_in_the_place_of_a_selection_or_in_the_cache(tmp_path):
    os.mkfifo(tmp_path / "s.jsonl")
    with within(1.0), pytest.raises(CorpusError, match="expected the file of a selection, found none"):
        read_chosen_rows(tmp_path / "s.jsonl", 3)
    (tmp_path / "source").write_text("x")

    def build(folder: Path) -> None:
        (folder / "file").write_text("made")

    folder = cached_folder(tmp_path / "cache", "kind", tmp_path / "source", build)
    (folder / "sums.json").unlink()
    os.mkfifo(folder / "sums.json")
    with within(1.0):
        folder = cached_folder(tmp_path / "cache", "kind", tmp_path / "source", build)
    assert (folder / "file").read_text() == "made" and (folder / "sums.json").is_file()


@pytest.mark.parametrize("line", [b'{"gdig": ' + b"[" * 5000, b"\x1f\x8b\x08", b"{}", b'{"gdig": {"row": true}}'])
def test_a_hostile_selection_is_refused(tmp_path, line):
    for name in ("s.jsonl", "s.jsonl.gz"):
        (tmp_path / name).write_bytes(line + b"\n")
        with pytest.raises(CorpusError, match=r"s\.jsonl"):
            read_chosen_rows(tmp_path / name, 3)


def test_a_resume_file_of_any_name_ends_no_fit(project, finished, tmp_path):
    def unfinish(state: dict[str, Any]) -> None:
        fit = {**state["stages"]["fit"], "state": "running", "curvature": None, "seeds": None}
        state["stages"] = {"fit": fit}

    run = Path(shutil.copytree(finished, tmp_path / "run"))
    edit_record(run, unfinish)
    folder = run / "curvature" / "resume"
    folder.mkdir()
    for name in ("rank-x", "rank-0-of-9-x", "rank-0-of-99999999999999999999-x", "partition-x", "factors-"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    gdig.select(**project.options(run))
    assert (run / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()


def test_verify_reads_what_selections_leave_when_they_need_it(rich, tmp_path):
    run = Path(shutil.copytree(rich[0], tmp_path / "run"))
    assert verify(run).sound
    for file in ("features/hidden_mean.safetensors", "sources/00000001.safetensors", "excluded/entries.safetensors"):
        content = bytearray((run / file).read_bytes())
        content[-1] ^= 1
        (run / file).write_bytes(content)
        assert {r.file: r.state for r in verify(run).files if r.state != "sound"} == {file: "damaged"}
        shutil.copy2(run / "features" / "seeds.safetensors", run / file)
        assert {r.file: r.state for r in verify(run).files if r.state != "sound"} == {file: "foreign"}
        shutil.copy2(rich[0] / file, run / file)


def test_verify_reads_the_resume_file_of_k_means(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    resume = run / "clusters" / "fit.safetensors"
    shutil.copy2(run / "sweep" / "00000000.safetensors", resume)
    assert verify(run).sound, "what it was made from is compared when k-means goes on from it"
    resume.write_bytes(b"cut")
    assert {r.file: r.state for r in verify(run).files if r.state != "sound"} == {"clusters/fit.safetensors": "damaged"}
