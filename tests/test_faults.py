"""Every file of a run, damaged in every way: verify says so, and no method gives another answer in silence.

`make drill` does the same for ten minutes, with several faults at a time and with disks that fail (tests/drill).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest

import gdig
from gdig.data.features import read_features
from gdig.errors import ConfigError, CorpusError, GdigError, ModelError, RunError, StoreError
from gdig.run.verify import verify
from tests.drill.faults import KINDS, Fault, files_of, inject
from tests.support.limits import within
from tests.support.project_fixtures import edit_record, translation_rows

METHODS = ("gdig", "top", "bm25")


@pytest.fixture(scope="module")
def chosen(project, whole, tmp_path_factory) -> dict[str, bytes]:
    """What each method chooses from the whole run."""
    run = Path(shutil.copytree(whole, tmp_path_factory.mktemp("chosen") / "run"))
    outputs = {}
    for method in METHODS:
        output = run.with_name(f"{method}.jsonl")
        gdig.select(**project.options(run, method=method, output=output))
        outputs[method] = output.read_bytes()
    return outputs


def test_a_swap_takes_no_file_that_was_struck(tmp_path):
    """Two swaps of the same files would undo one another, and the drill would wait for a fault that is none."""
    for name in "abc":
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    fault = inject(tmp_path, "a.safetensors", "swapped", Random(0), struck={"b.safetensors"})
    assert fault is not None and fault.other == "c.safetensors"
    assert inject(tmp_path, "a.safetensors", "swapped", Random(0), struck={"b.safetensors", "c.safetensors"}) is None


@pytest.mark.parametrize("kind", KINDS)
def test_verify_names_each_file_that_is_not_sound(whole, other, tmp_path, kind):
    rng, run = Random(7), Path(shutil.copytree(whole, tmp_path / "run"))
    faults = 0
    for file in files_of(whole):
        fault = inject(run, file, kind, rng, other)
        if fault is None:
            continue
        states = {report.file: report.state for report in verify(run).files}
        expected = {"deleted": {"missing"}, "swapped": {"foreign", "damaged"}, "foreign": {"foreign", "damaged"}}
        if file == "run.json" and kind == "foreign":  # sound by itself, and every other file is of something else
            assert states["sweep/store.json"] == states["features/seeds.safetensors"] == "foreign"
        else:
            assert not fault.must_be_seen(with_record=True) or states[file] in expected.get(kind, {"damaged"}), (
                str(fault),
                states[file],
            )
        for changed in {file, fault.other} & set(files_of(whole)):
            shutil.copy2(whole / changed, run / changed)
        faults += 1
    assert faults > 15
    assert verify(run).sound


LABELS = "clusters/labels/00000001.safetensors"


@pytest.mark.parametrize(
    "lost",
    [
        ("sweep/00000000.safetensors",),
        ("sweep/00000001.safetensors",),
        ("sweep/store.json",),
        ("clusters/centroids.safetensors",),
        ("sweep/store.json", "sweep/00000001.safetensors"),
        ("sweep/00000000.safetensors", "clusters/centroids.safetensors"),
    ],
    ids=" and ".join,
)
def test_a_foreign_file_is_seen_whatever_else_is_lost(whole, other, tmp_path, lost):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in lost:
        (run / file).unlink()
    foreign = {LABELS, "sweep/00000002.safetensors", "features/seeds.safetensors"}
    states = {report.file: report.state for report in verify(run).files if report.state != "sound"}
    assert states == dict.fromkeys(lost, "missing"), "what is sound is called so"
    for file in foreign:
        shutil.copy2(other / file, run / file)
    states = {report.file: report.state for report in verify(run).files if report.state != "sound"}
    assert states == {**dict.fromkeys(lost, "missing"), **dict.fromkeys(foreign, "foreign")}


def test_swapped_shards_are_seen_without_the_description(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for folder in ("sweep", "clusters/labels"):
        for n, m in ((0, 1), (1, 0)):
            shutil.copy2(whole / folder / f"{n:08d}.safetensors", run / folder / f"{m:08d}.safetensors")
    (run / "sweep" / "store.json").write_text("{}")
    states = {report.file: report.state for report in verify(run).files if report.state != "sound"}
    swapped = {f"{folder}/{n:08d}.safetensors" for folder in ("sweep", "clusters/labels") for n in (0, 1)}
    assert states == {"sweep/store.json": "damaged", **dict.fromkeys(swapped, "foreign")}


@pytest.mark.parametrize("kind", ["changed", "emptied", "deleted"])
def test_files_are_compared_with_their_checksums_where_the_record_is_lost(whole, tmp_path, kind):
    run, rng = Path(shutil.copytree(whole, tmp_path / "run")), Random(3)
    inject(run, "run.json", kind, rng)
    expected = {"run.json": "missing" if kind == "deleted" else "damaged"}
    verification = verify(run)
    assert {report.file: report.state for report in verification.files if report.state != "sound"} == expected
    assert any(line.endswith("and what they are made from") for line in verification.lines())
    for file in files_of(whole):
        if Fault("emptied", file).must_be_seen(with_record=False) and file != "run.json":
            inject(run, file, rng.choice(("changed", "cut", "emptied")), rng)
            expected[file] = "damaged"
    assert {report.file: report.state for report in verify(run).files} == expected


@pytest.mark.parametrize("random_seed", range(3))
def test_no_method_gives_another_answer_in_silence(project, whole, other, chosen, tmp_path, random_seed):
    rng, run = Random(random_seed), Path(shutil.copytree(whole, tmp_path / "run"))
    files = [file for file in files_of(whole) if file not in ("run.json", "selection.jsonl")]
    for file in rng.sample(files, 8):
        if (run / file).is_file():
            inject(run, file, rng.choice(KINDS), rng, other)
    for method in rng.sample(METHODS, len(METHODS)):
        output = tmp_path / f"{method}.jsonl"
        gdig.select(**project.options(run, method=method, output=output))
        assert output.read_bytes() == chosen[method], "what was damaged is made again"


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_was_changed_is_refused(project, whole, other, tmp_path, kind):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    if inject(run, "run.json", kind, Random(1), other) is not None:
        with pytest.raises(GdigError, match=r"run\.json|holds a run with another configuration or other inputs"):
            gdig.select(**project.options(run, method="top"))


def test_a_scale_or_a_batch_size_changed_by_hand_is_refused(project, whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    text = (run / "run.json").read_text()
    for key in ("scale", "token_batch_size"):
        state = json.loads(text)
        state["stages"]["sweep"][key] *= 2
        (run / "run.json").write_text(json.dumps(state))
        with pytest.raises(RunError, match=r"run\.json: checksum: expected [0-9a-f]{32}, got"):
            gdig.select(**project.options(run, method="top"))


def test_files_of_a_scale_that_somebody_forged_are_foreign(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    edit_record(run, lambda state: state["stages"]["sweep"].update(scale=state["stages"]["sweep"]["scale"] * 2))
    states = {report.file: report.state for report in verify(run).files}
    assert states["sweep/store.json"] == states["features/seeds.safetensors"] == "foreign"
    assert states["clusters/centroids.safetensors"] == "foreign" and states["run.json"] == "sound"


# A read-only disk.


def test_a_finished_run_on_a_read_only_disk(project, whole, chosen, tmp_path, monkeypatch):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    real = os.open

    def read_only(path, flags, *args, **options):
        if str(path).startswith(str(run)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", read_only)
    output = tmp_path / "top.jsonl"
    gdig.select(**project.options(run, method="top", output=output))
    assert output.read_bytes() == chosen["top"] and verify(run).sound
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    os.mkfifo(run / ".lock")  # it has no writer
    with within(5.0):
        gdig.select(**project.options(run, method="top", output=output))
    with pytest.raises(RunError, match=r"cannot be written: Read-only file system, and the cluster stage has work"):
        shutil.rmtree(run / "clusters")
        gdig.select(**project.options(run, method="agreement", output=output))


# Inputs.


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "arrow", "jsonl.gz", "csv.zst"])
def test_a_pipe_in_the_place_of_an_input_is_refused_at_once(project, tmp_path, ending):
    pipe = tmp_path / f"pool.{ending}"
    os.mkfifo(pipe)
    with within(5.0), pytest.raises(CorpusError, match="expected a file, got something else, such as a pipe"):
        gdig.preview(model=project.model, candidates=(str(pipe),))


def test_a_pipe_in_a_model_or_among_features_is_refused_at_once(project, tmp_path):
    model = Path(shutil.copytree(project.model, tmp_path / "model"))
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    with (
        within(5.0),
        pytest.raises(ModelError, match=r"config\.json: expected a file, got something else"),
    ):
        gdig.preview(model=model, candidates=(str(project.pool),))
    os.mkfifo(tmp_path / "x.safetensors")
    with within(5.0), pytest.raises(ConfigError, match="expected a file, found none"):
        read_features(tmp_path / "x.safetensors", np.ones(3, bool))


@pytest.mark.parametrize("kind", KINDS[:4])
def test_a_damaged_cache_is_made_again_in_silence(project, tmp_path, capsys, kind):
    from gdig.data.corpus import open_corpus

    rows = open_corpus([project.pool], cache_dir=tmp_path / "cache").rows(0, 60)
    for file in files_of(tmp_path / "cache"):
        if (tmp_path / "cache" / file).stat().st_size:
            inject(tmp_path / "cache", file, kind, Random(3))
            assert open_corpus([project.pool], cache_dir=tmp_path / "cache").rows(0, 60) == rows
    assert capsys.readouterr().err == ""


def test_an_input_that_changes_while_it_is_read_is_noticed(tmp_path):
    datasets = pytest.importorskip("datasets")
    from gdig.data.corpus import open_corpus

    folder = tmp_path / "pool"
    datasets.Dataset.from_list(translation_rows()).save_to_disk(folder)
    corpus = open_corpus([folder], cache_dir=tmp_path / "cache")
    assert len(corpus.rows(0, 2)) == 2
    arrow = next(folder.glob("*.arrow"))
    os.utime(arrow, ns=(1, 1))
    with pytest.raises(CorpusError, match=r"\.arrow: the file changed since it was opened"):
        corpus.rows(0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tau: " + "[" * 3000, "expected a flat mapping"),
        ("tau:\n" + "- " * 3000 + "1", "expected YAML, but|expected a flat mapping"),
        ("tau: &a [*a]", "expected a flat mapping"),
        ("tau: [[[[[[1]]]]]]", "expected a flat mapping"),
        ("? [a, b]\n: 1", "expected the name of an option|expected YAML, but"),
        ("tau: 2001-13-45", "expected YAML, but|tau"),
        ("tau: " + "9" * 5000, "expected YAML, but|tau"),
    ],
)
def test_hostile_yaml_is_refused(tmp_path, text, message):
    from gdig.config.read import read_yaml

    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "o.yaml")


@pytest.mark.parametrize("header", ["(-1, 4)", "(9999999999, 9999999999)", "('x',)", "(1,) * 3", "[3]"])
def test_a_hostile_npy_header_is_refused(tmp_path, header):
    from gdig.store.npy import open_npy

    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {header}, }}\n".encode()
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(48))
    with pytest.raises(StoreError, match=r"x\.npy: expected"):
        open_npy(tmp_path / "x.npy")


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_rows_nested_too_deep_are_refused_when_the_file_is_opened(tmp_path, ending):
    from gdig.data.corpus import open_corpus

    row = '{"text": ' + "[" * 980 + "]" * 980 + "}"
    (tmp_path / f"pool.{ending}").write_text(f"[{row}]" if ending == "json" else row + "\n")
    with pytest.raises(CorpusError, match=r"deep|recursion"):
        open_corpus([tmp_path / f"pool.{ending}"], cache_dir=tmp_path / "cache")
    row = '{"text": ' + "[" * 200 + "]" * 200 + "}"
    (tmp_path / f"pool.{ending}").write_text(f"[{row}]" if ending == "json" else row + "\n")
    assert len(open_corpus([tmp_path / f"pool.{ending}"], cache_dir=tmp_path / "cache").rows(0, 1)) == 1
