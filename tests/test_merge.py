"""A sweep made in parts, in copies of one fitted run, and put together again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import gdig
from gdig.cli.main import main
from gdig.errors import ConfigError, RunError, StoreError
from gdig.run.merge import merge
from tests.support.project_fixtures import as_it_is, edit_record, stages
from tests.support.torchrun import files_of


@pytest.fixture(scope="module")
def halves(project, tmp_path_factory) -> list[Path]:
    """Two copies of one fitted run, of which one has swept the shards 0 and 2, the other 1 and 3."""
    folder = tmp_path_factory.mktemp("parts")
    a, b = folder / "a", folder / "b"
    gdig.fit(**project.options(a))
    shutil.copytree(a, b)
    for path, share in ((a, "1/2"), (b, "2/2")):
        gdig.sweep(**project.options(path, sweep_part=share))
    return [a, b]


@pytest.fixture
def copies(halves, tmp_path) -> list[Path]:
    """Copies of these, to be changed."""
    return [Path(shutil.copytree(half, tmp_path / half.name)) for half in halves]


def shards(run_path: Path) -> list[str]:
    return [path.stem.lstrip("0") or "0" for path in sorted(run_path.glob("sweep/*.safetensors"))]


def test_each_part_has_its_shards_and_is_not_done(halves):
    assert [shards(path) for path in halves] == [["0", "2"], ["1", "3"]]
    assert [stages(path)["sweep"]["state"] for path in halves] == ["running", "running"]


def test_merged_parts_are_the_run_that_one_machine_makes(project, finished, halves, tmp_path, capsys):
    out = tmp_path / "whole"
    assert main(["merge", *map(str, halves), "--run-path", str(out)]) == 0
    assert f"{out}: 4 shards copied, 4 of 4 are there" in capsys.readouterr().out
    gdig.select(**project.options(out))
    assert files_of(out) == files_of(finished)


def test_merging_into_one_of_them_keeps_what_it_has(project, finished, copies):
    before = (copies[0] / "sweep" / "00000002.safetensors").stat()
    lines = merge(copies, copies[0])
    assert lines == [f"{copies[0]}: 2 shards copied, 4 of 4 are there"]
    assert (copies[0] / "sweep" / "00000002.safetensors").stat().st_ino == before.st_ino
    assert merge(copies, copies[0]) == [f"{copies[0]}: 0 shards copied, 4 of 4 are there"]
    gdig.select(**project.options(copies[0]))
    assert files_of(copies[0]) == files_of(finished)


def test_what_is_still_missing_is_said_and_swept_by_the_next(project, finished, copies, tmp_path):
    (copies[1] / "sweep" / "00000003.safetensors").unlink()
    lines = merge(copies, tmp_path / "whole")
    assert lines[0].endswith("3 shards copied, 3 of 4 are there")
    assert lines[1].startswith("missing: 3;")
    gdig.select(**project.options(tmp_path / "whole"))
    assert files_of(tmp_path / "whole") == files_of(finished)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["stages"]["fit"]["config"].update(damping_factor=0.2), "damping_factor: 0.1 and 0.2"),
        (lambda s: s["stages"]["sweep"]["config"].update(projection_seed=7), "projection_seed: 0 and 7"),
        (lambda s: s["stages"]["sweep"].update(scale=2.0**20), "scale: "),
        (lambda s: s["inputs"]["candidates"].update({"pool.jsonl": "other"}), "candidates: pool.jsonl is not the same"),
    ],
)
def test_parts_of_different_sweeps_are_refused_by_what_differs(copies, tmp_path, change, named):
    edit_record(copies[1], change)
    with pytest.raises(RunError, match="are not parts of one sweep") as refused:
        merge(copies, tmp_path / "whole")
    assert named in str(refused.value)
    assert not (tmp_path / "whole").exists()


def test_another_fit_is_refused_by_its_file(copies, tmp_path):
    layers = sorted((copies[1] / "seeds").iterdir())
    file = as_it_is(layers[1])
    tensors, _ = file.read()
    file.write({**tensors, "u": -tensors["u"]})
    with pytest.raises(RunError, match=f"{layers[1]}: another fit than"):
        merge(copies, tmp_path / "whole")
    shutil.copy(layers[0], layers[1])
    with pytest.raises(StoreError, match=f"{layers[1]}: made from .*: the file belongs to something else"):
        merge(copies, tmp_path / "whole")


def test_a_damaged_shard_is_named_and_not_copied(copies, tmp_path):
    path = copies[1] / "sweep" / "00000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=str(path)):
        merge(copies, tmp_path / "whole")
    assert not (tmp_path / "whole" / "sweep" / path.name).exists()


def test_what_is_no_run_or_not_begun_is_refused(project, copies, tmp_path, finished):
    with pytest.raises(ConfigError, match="merge: expected the run directories to put together, got none"):
        merge([], tmp_path / "whole")
    with pytest.raises(ConfigError, match="is no run directory"):
        merge([tmp_path], tmp_path / "whole")
    edit_record(copies[1], lambda s: s["stages"].pop("sweep"))
    with pytest.raises(RunError, match="its sweep has not begun"):
        merge(copies, tmp_path / "whole")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        merge([finished], tmp_path / "full")


def test_a_part_is_for_the_sweep_alone(project, tmp_path):
    with pytest.raises(ConfigError, match="sweep_part: only gdig sweep makes a part of a sweep"):
        gdig.select(**project.options(tmp_path / "run", sweep_part="1/2"))
