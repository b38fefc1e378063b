"""A whole run over a mixture of experts: what it leaves, restarts, ranks, and the plan of its memory."""

from __future__ import annotations

import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers

import gdig
from gdig.influence.seed_factors import SeedFactors
from gdig.passes import sweep_stage
from gdig.store.tensor_file import read_tensors
from tests.support.families import tiny_model
from tests.support.project_fixtures import Command, SignalAt, flags, save_model, stages, stored
from tests.support.torchrun import files_of, finish_on_ranks, start_ranks

pytestmark = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="experts are fused since transformers 5"
)
OPTIONS = {"token_batch_size": 128, "fit_tokens": 350, "filter_modules": r"experts\.down_proj|layers\.1\.mlp\.experts"}

PASS = "gdig.model.capture:GradientPass.run"
KEEP_ALL = {"GDIG_RESUME_INTERVAL": "0"}


@pytest.fixture(scope="module")
def options(project, tiny_tokenizer, tmp_path_factory) -> dict:
    """Of a run over a Qwen3-MoE of 16 experts, of which some see next to nothing of the sample."""
    module = tiny_model(
        "qwen3_moe", vocab_size=len(tiny_tokenizer), max_position_embeddings=128, num_experts=16, num_local_experts=16
    )
    model = save_model(tmp_path_factory.mktemp("mixture") / "model", module, tiny_tokenizer)
    return {**OPTIONS, "model": str(model)}


@pytest.fixture(scope="module")
def whole(project, options, tmp_path_factory) -> Path:
    run_path = tmp_path_factory.mktemp("whole") / "run"
    gdig.select(**project.options(run_path, **options))
    return run_path


def test_a_run_has_a_file_for_each_expert(whole):
    fit = stages(whole)["fit"]
    assert len(fit["layers"]) == 3 * 16 and all(".mlp.experts." in name for name in fit["layers"])
    counts = {path.stem: read_tensors(path)[1] for path in sorted((whole / "curvature").iterdir())}
    assert set(counts) == set(fit["layers"])
    of_block = [counts[f"model.layers.1.mlp.experts.down_proj.{number}"] for number in range(16)]
    slots, tokens = 2, int(of_block[0]["tokens"])
    assert sum(int(count["seen"]) for count in of_block) == slots * tokens
    assert {count["shared"] for count in of_block} == {"0", "1"}
    assert all((count["shared"] == "1") == (int(count["seen"]) < 16) for count in of_block)
    widths = [read_tensors(path)[0]["u"].shape[1] for path in (whole / "seeds").glob("*.safetensors")]
    assert min(widths) < max(widths)  # a seed has factors where it goes
    assert np.isfinite(stored(whole)["influence"]).all() and np.abs(stored(whole)["influence"]).min() > 0


def test_a_fit_of_one_expert_says_that_no_row_compares_scores(project, options, whole, tmp_path, capfd):
    counts = {path.stem: read_tensors(path)[1] for path in (whole / "curvature").iterdir()}
    rarest = min(counts, key=lambda name: int(counts[name]["seen"]))
    chosen = {"filter_modules": f"^{re.escape(rarest)}$", "probe_rows": 1, "quiet": False}
    gdig.fit(**project.options(tmp_path / "run", **{**options, **chosen}))
    said = capfd.readouterr().err
    assert stages(tmp_path / "run")["fit"]["seeds"]["correlation"] is None
    assert "whose numbers do not differ; raise probe_rows" in said and "nan" not in said


def test_missing_files_are_made_again_with_the_same_bytes(project, options, whole, tmp_path):
    run_path = Path(shutil.copytree(whole, tmp_path / "run"))
    for folder in ("curvature", "seeds", "sweep"):
        sorted((run_path / folder).glob("*.safetensors"))[1].unlink()
    gdig.select(**project.options(run_path, **options))
    assert files_of(run_path) == files_of(whole)


def test_a_sweep_that_reads_the_factors_of_all_experts_by_batch_has_the_same_bytes(
    project, options, whole, tmp_path, monkeypatch
):
    run_path = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in (run_path / "sweep").glob("*.safetensors"):
        file.unlink()
    within, load, loads = sweep_stage.plan_sweep_within, SeedFactors.load, []
    monkeypatch.setattr(
        sweep_stage, "plan_sweep_within", lambda *given, **more: replace(within(*given, **more), from_files=range(48))
    )
    monkeypatch.setattr(SeedFactors, "load", lambda *given: loads.append(given) or load(*given))
    gdig.select(**project.options(run_path, **options))
    assert len(loads) > 3 * 48
    assert files_of(run_path) == files_of(whole)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_leave_the_bytes_of_one(project, options, whole, tmp_path):
    run_path = tmp_path / "run"
    ranks = start_ranks(2, ["select", *flags(project.options(run_path, **options))], tmp_path / "two")
    assert [rank.wait() for rank in ranks] == [0, 0], "".join(rank.error for rank in ranks)
    assert files_of(run_path) == files_of(whole)


def kept_in(run_path: Path) -> set[str]:
    """Which work in progress a run has kept: sums of a pass of the fit, its factors, or rows of a shard."""
    return {
        name
        for name, pattern in {
            "factors' sums": "curvature/resume/*-fit-factors-*",
            "factors": "curvature/resume/factors-*",
            "eigenvalues' sums": "curvature/resume/*-fit-eigenvalues-*",
            "rows": "sweep/resume/*",
        }.items()
        if any(run_path.glob(pattern))
    }


@pytest.mark.slow
def test_a_run_killed_in_the_fit_and_in_the_sweep_ends_with_the_same_bytes(project, options, whole, tmp_path):
    run_path = tmp_path / "run"
    args = ["select", *flags(project.options(run_path, **options))]
    counts = []
    for count in (4, 5, 22):
        moment = SignalAt(PASS, count)
        command = Command.start(args, tmp_path / str(count), environment=KEEP_ALL, signal_at=moment)
        assert command.wait() == -signal.SIGKILL, command.error
        counts.append(kept_in(run_path))
    assert counts == [{"factors' sums"}, {"factors", "eigenvalues' sums"}, {"rows"}], "each kill must hit its pass"
    gdig.select(**project.options(run_path, **options))
    assert files_of(run_path) == files_of(whole)


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_killed_in_the_fit_and_in_the_sweep_leave_the_bytes_of_one(project, options, whole, tmp_path):
    run_path = tmp_path / "run"
    args = ["select", *flags(project.options(run_path, **options))]
    counts = []
    for number, (rank, count) in enumerate(((1, 2), (0, 4), (1, 12))):
        moments = {rank: SignalAt(PASS, count)}
        ranks = start_ranks(2, args, tmp_path / str(number), environment=KEEP_ALL, signal_at=moments)
        statuses = [each.wait() for each in ranks]
        assert statuses[rank] == -signal.SIGKILL and statuses[1 - rank] != 0
        counts.append(kept_in(run_path))
    assert counts == [{"factors' sums"}, {"factors", "eigenvalues' sums"}, {"rows"}], "each kill must hit its pass"
    finish_on_ranks(2, args, tmp_path / "last")
    assert files_of(run_path) == files_of(whole)
