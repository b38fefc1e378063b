"""What the benches of a real model make of their measurements."""

from __future__ import annotations

import pytest

from benches import plan, real_model


def step(cpu_seconds: float, peak_gb: float, **more) -> dict:
    return {"seconds": 2 * cpu_seconds, "cpu_seconds": cpu_seconds, "peak_gb": peak_gb, **more}


def test_costs_are_compared_with_a_plain_pass_over_as_many_tokens():
    stages = {"before fit: factors": 5.0, "fit: factors": 90.0, "before fit: seeds": 1.0, "fit: seeds": 29.0}
    case = {
        "rows": 600,
        "tokens": 1000,
        "steps": {
            "plain": step(100, 5), "plan": step(10, 2), "fit": step(130, 3, stages=stages), "sweep": step(50, 4.5),
            "select": step(1, 1),
        },
        "peers": {"tokens": 100, "steps": {"another: fit": step(40, 6)}},
    }  # fmt: skip
    real_model._compare(case)
    assert case["steps"]["sweep"]["of_plain"] == 0.5 and case["steps"]["sweep"]["tokens_per_second"] == 10
    assert case["peers"]["steps"]["another: fit"]["of_plain"] == 4, "a tenth of the tokens"
    # Seeds of 30 s, beside a pass over 300 of the 600 rows.
    assert case["figures"] == {"fit without the seeds": 1.0, "sweep": 0.5, "seeds": 0.6, "peak GB": 4.5}
    text = real_model.table(case, "the defaults")
    assert "| peak GB | 4.50 | 4 | missed |" in text and "| sweep | 0.50 | 0.6 | met |" in text
    assert "missed" not in real_model.table(case, "a case without targets")


def test_stages_of_a_run_are_those_of_its_plan():
    names = ["start", "check", "fit: factors", "sweep", "cluster", "select"]
    measured = {
        "before check": 3.0, "check": 1.0, "before fit: factors, partition 1 of 2": 0.5,
        "fit: factors, partition 1 of 2": 7.0, "fit: factors, partition 2 of 2": 8.0, "before sweep": 2.0,
        "sweep": 20.0, "cluster: k-means": 0.25, "cluster: labels": 0.25, "after": 4.0,
    }  # fmt: skip
    by_stage = plan._by_stage(measured, names)
    assert by_stage == pytest.approx(
        {"start": 3.0, "check": 1.0, "fit: factors": 15.5, "sweep": 22.0, "cluster": 0.5, "select": 4.0}
    )
    assert sum(by_stage.values()) == pytest.approx(sum(measured.values()))
