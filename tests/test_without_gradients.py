"""Runs without gradients, from the command to the selection."""

from __future__ import annotations

import numpy as np
import pytest

import gdig
from gdig.api import compare
from gdig.cli.main import main
from gdig.errors import ConfigError
from gdig.run.verify import verify
from gdig.selection.methods import METHODS
from gdig.store.tensor_file import read_tensors
from tests.support.project_fixtures import N_ROWS, N_SEEDS, flags, read_jsonl, stages, stored

WITHOUT = [name for name, method in METHODS.items() if not method.gradients]


@pytest.fixture(scope="module")
def forward(project, tmp_path_factory):
    """A run that `gdig sweep --no-gradients` has made."""
    path = tmp_path_factory.mktemp("forward") / "run"
    assert main(["sweep", *flags(project_sweep_options(project, path)), "--no-gradients"]) == 0
    return path


def project_sweep_options(project, path):
    options = project.options(path)
    return {
        key: value for key, value in options.items() if key not in ("n_clusters", "budget", "report", "method", "tau")
    }


def test_losses_and_states_are_those_of_a_sweep_with_gradients(forward, finished):
    """Both are float32 passes over some 30 tokens of a model of two blocks; float16 rounds the states once more."""
    ours, theirs = stored(forward), stored(finished)
    assert ours["influence"].shape == (N_ROWS, 0) and ours["hidden"].dtype == np.float16
    for name in ("tokens", "cut", "valid", "hash"):
        assert np.array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    np.testing.assert_allclose(ours["hidden"].astype(float), theirs["hidden"].astype(float), atol=2.0**-11)
    np.testing.assert_allclose(np.linalg.norm(ours["hidden"].astype(float), axis=1), 1, atol=2.0**-10)
    seeds, with_gradients = (read_tensors(run / "features" / "seeds.safetensors")[0] for run in (forward, finished))
    assert seeds["hidden"].shape == (N_SEEDS, 32)
    np.testing.assert_allclose(seeds["hidden"].astype(float), with_gradients["hidden"].astype(float), atol=2.0**-11)


def test_there_is_no_fit_and_nothing_of_seeds_is_recorded(forward):
    records = stages(forward)
    assert records["fit"]["state"] == "done" and records["fit"]["layers"] == [] and records["fit"]["seeds"] is None
    assert not (forward / "curvature").exists() and not (forward / "seeds").exists()
    assert records["sweep"]["state"] == "done" and records["sweep"]["seed_health"] is None
    assert records["sweep"]["counts"]["rows"] == N_ROWS
    assert any(line.startswith("sweep: 5 sound") for line in verify(forward).lines())


@pytest.mark.parametrize("method", WITHOUT)
def test_methods_that_need_no_influence_select(project, forward, method, tmp_path):
    result = gdig.select(**project.options(forward, gradients=False, method=method, output=str(tmp_path / "o.jsonl")))
    assert len(result.rows) == len(set(result.rows.tolist())) == 12
    for row in read_jsonl(tmp_path / "o.jsonl"):
        assert row["gdig"]["score"] is None and row["gdig"]["agreement"] is None


def test_methods_that_need_influence_are_refused_by_name(project, forward):
    for method in set(METHODS) - set(WITHOUT):
        with pytest.raises(
            ConfigError, match=f"method='{method}': expected one of .*random.*, or round-robin .*has no gradients"
        ):
            gdig.select(**project.options(forward, gradients=False, method=method))
        with pytest.raises(ConfigError, match=f"method='{method}'"):
            compare(**project.options(forward, gradients=False), methods=["random", method])


def test_compare_shows_what_can_be(project, forward):
    comparison = compare(**project.options(forward, gradients=False))
    assert [summary.method for summary in comparison.summaries] == WITHOUT
    assert all(np.isnan(summary.score) and np.isnan(summary.agreement) for summary in comparison.summaries)
    assert comparison.as_json()["methods"]["random"]["score"] is None and comparison.lines()


def test_a_run_with_gradients_is_another_run(project, forward):
    with pytest.raises(gdig.GdigError, match="gradients: False in the run, True now"):
        gdig.sweep(**project.options(forward))


@pytest.mark.parametrize("options", [{"torch_compile": True}, {"sketch_space": "fisher"}, {"checkpoints": ("a",)}])
def test_options_that_need_gradients(options):
    (name,) = options
    with pytest.raises(ConfigError, match=rf"{name}=.*with gradients=False"):
        gdig.Config.build({"gradients": False, **options})
