"""How far the plan of a run is from the run: seconds by stage, and peak memory.

    python -m benches.plan --model DIR --data DIR                  # writes benches/record/plan.json
    python -m benches.plan ... --cases "many seeds"                # one case, beside those that the record has

The cases are a pretrained model, such as SmolLM2-135M, and a small Llama with random weights and the same tokenizer,
both with a few rows and seeds; and the pretrained model with the seeds and rows of `benches.real_model`.
For each, `gdig plan` and then `gdig select` run in processes of their own, with one thread. Seconds are those of the
processor, so that other work on the machine counts as little as possible; on a machine without other work they are what
a user waits for. The rows are those of `benches.real_model`.

The plan is to be within 25 % of the time and 15 % of the memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benches.shared.gdig_start import start_gdig
from benches.shared.instructions import write_inputs
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.record_cases import write_case
from benches.shared.run_arguments import run_arguments
from benches.shared.small_model import write_small_model
from benches.shared.tables import markdown

RECORD = ROOT / "benches" / "record" / "plan.json"
TIME_TARGET, MEMORY_TARGET = 0.25, 0.15
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
CASES = {"small": (100, 16), "pretrained": (100, 16), "many seeds": (1000, 64)}
"""Rows and seeds of each case."""


def main() -> None:
    """Measure, print and record."""
    parser = run_arguments(__doc__, RECORD)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="cases to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        for name in arguments.cases:
            model = write_small_model(arguments.model, work / "model") if name == "small" else arguments.model
            rows, n_seeds = CASES[name]
            pool, seeds = write_inputs(arguments.data, work, arguments.rows or rows, arguments.seeds or n_seeds)
            inputs = {"model": str(model), "candidates": [str(pool)], "seeds": [str(seeds)]}
            place = {"run_path": str(work / f"run-{name}"), "device": "cpu", "threads": 1}
            where = {"machine": machine() | {"threads": 1}, **provenance(ROOT)}
            case = where | compare(inputs | place | arguments.gdig, work)
            print(f"\n{name}\n\n{table(case)}", flush=True)
            write_case(arguments.record, "plan", name, case)


def compare(options: dict[str, Any], work: Path) -> dict[str, Any]:
    """Plan a run, do it, and return both."""
    planned_by, planned = start_gdig("plan", options, work, ONE_THREAD)
    run_by, run = start_gdig("select", options, work, ONE_THREAD)
    plan = planned["plan"]
    expected = {stage["name"]: stage["seconds"] for stage in plan["stages"]}
    measured = _by_stage(run["stages"], list(expected))
    return {
        "rows": plan["pool"]["rows"],
        "tokens": plan["pool"]["tokens"],
        "seeds": plan["seeds"],
        "layers": len(plan["layers"]),
        "stages": {
            name: {"planned_s": round(expected[name], 2), "measured_s": round(measured[name], 2)} for name in expected
        },
        "planned_s": round(sum(expected.values()), 1),
        "measured_s": round(sum(measured.values()), 1),
        "time_error": round(sum(expected.values()) / sum(measured.values()) - 1, 3),
        "spread": round(plan["spread"], 3),
        "planned_gb": round(plan["peak_memory"] / 1e9, 3),
        "measured_gb": round(run_by.peak_bytes / 1e9, 3),
        "memory_error": round(plan["peak_memory"] / run_by.peak_bytes - 1, 3),
        "trial_s": round(plan["rates"]["seconds"], 1),
        "plan_s": round(planned["seconds"], 1),
        "plan_peak_gb": round(planned_by.peak_bytes / 1e9, 3),
    }


def table(case: dict[str, Any]) -> str:
    """A case as a table in Markdown, and whether it is within the targets."""
    rows = [[name, f"{stage['planned_s']:.1f}", f"{stage['measured_s']:.1f}"] for name, stage in case["stages"].items()]
    rows.append(["all", f"{case['planned_s']:.1f}", f"{case['measured_s']:.1f}"])
    rows.append(["peak memory, GB", f"{case['planned_gb']:.2f}", f"{case['measured_gb']:.2f}"])
    lines = [markdown(["", "planned", "measured"], rows), ""]
    for what, target in (("time", TIME_TARGET), ("memory", MEMORY_TARGET)):
        error = case[f"{what}_error"]
        lines.append(f"{what}: {error:+.1%}, {'within' if abs(error) <= target else 'beyond'} {target:.0%}")
    lines.append(f"the trial took {case['trial_s']} s, the plan {case['plan_s']} s")
    return "\n".join(lines)


def _by_stage(stages: dict[str, float], names: list[str]) -> dict[str, float]:
    """The seconds of each stage of the plan. What lies before a bar belongs to it; before the first, to the start."""
    seconds = dict.fromkeys(names, 0.0)
    for number, (name, value) in enumerate(stages.items()):
        stage = "select" if name == "after" else name.removeprefix("before ").partition(", partition")[0]
        seconds["start" if number == 0 else "cluster" if stage.startswith("cluster: ") else stage] += value
    return seconds


if __name__ == "__main__":
    main()
