"""What the benches of a real model make of their measurements."""

from __future__ import annotations

import json

import pytest

from benches import plan, real_model
from benches.real_model_parts.taken_memory import missing, taken_memory
from benches.shared.record_cases import write_case


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


def test_a_run_beside_taken_memory_has_a_peak_of_its_own():
    steps = {name: step(10, 2) for name in ("plain", "plan", "sweep", "select")}
    steps["fit"] = step(10, 2, stages={"fit: seeds": 1.0})
    case = {"rows": 600, "tokens": 1000, "steps": steps, "taken": step(5, 2.5, plan_gb=4.25)}
    real_model._compare(case)
    assert case["figures"]["peak GB"] == 2 and case["figures"]["peak GB, half of the memory taken"] == 4.25
    assert "| peak GB, half of the memory taken | 4.25 | 4 | missed |" in real_model.table(case, "the defaults")


def test_a_library_that_fails_is_recorded_and_does_not_stop_the_others(tmp_path, monkeypatch):
    def command(name, arguments, work, environment):
        if name == "one fit":
            raise RuntimeError("x" * 600 + "out of memory")
        return step(10, 1, said="7 rows, 500 tokens")

    kept = []
    monkeypatch.setattr(real_model, "_command", command)
    peers = {"rows": 7, "seeds": 2, "versions": {"one": "1", "two": "2", "missing": None}}
    real_model._peers(peers, tmp_path, {}, lambda: kept.append(len(peers["steps"])))
    assert list(peers["steps"]) == ["one: fit", "two: fit", "two: scores"] and kept == [1, 2, 3]
    assert peers["steps"]["one: fit"]["failed"].endswith("out of memory")
    steps = {name: step(100, 2) for name in ("plain", "plan", "sweep", "select")}
    case = {"rows": 10, "tokens": 1000, "peers": peers, "steps": steps | {"fit": step(1, 1, stages={})}}
    real_model._compare(case)
    assert peers["steps"]["two: fit"]["of_plain"] == 0.2, "half of the tokens"
    assert "of_plain" not in peers["steps"]["one: fit"]
    text = real_model.table(case, "the defaults")
    assert "two: fit" in text and "one: fit" not in text


def test_another_process_holds_memory_while_it_is_measured():
    assert missing(0.5, all_memory=1000, free=900) == 400
    assert missing(0.5, all_memory=1000, free=450) == 0, "others hold half"
    with taken_memory(0.0) as size:
        assert size == 0
    with pytest.raises(RuntimeError, match="could not be taken"), taken_memory(float("inf")):
        pass


def test_a_case_is_written_beside_the_other_cases(tmp_path):
    file = tmp_path / "records" / "bench.json"
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        write_case(file, "bench", name, {"value": value})
    assert json.loads(file.read_text()) == {"bench": "bench", "cases": {"a": {"value": 3}, "b": {"value": 2}}}
    assert [path.name for path in file.parent.iterdir()] == ["bench.json"]


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
