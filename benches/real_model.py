"""gdig at its defaults on a real pretrained model, beside a plain forward and backward pass over the same rows.

    python -m benches.real_model --model DIR --data DIR          # writes benches/record/real_model.json
    python -m benches.real_model ... --rows 200 --seeds 16 --record build/real_model.json
    python -m benches.real_model ... --gdig '{"layers": "mlp"}' --case "all MLP layers" --rows 300 --peer-rows 0

The model is a directory in Hugging Face format, such as SmolLM2-135M. The rows are instructions of a folder of files
JSONL, gzipped or not: those of many tasks are the pool, and rows of one task of it are the seeds. Every step is a
process of its own, one after another: the plain pass, the plan, and fit, sweep and selection of one run. So seconds,
processor seconds and peak memory are those that a user sees, with the start of Python and the loading of the model.

Then a run of fewer rows goes from fit to selection at once while half of the machine's memory is taken: another process
holds what others do not.

Other libraries pass the first rows where they are installed (`pip install 'gdig[peers]'`): EK-FAC factors of the same
layers, and the scores of some seeds. Their costs are compared with those of a plain pass over as many tokens. A library
that fails is recorded with its error. Each step is kept in `build/` as soon as it is done.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.libraries.common import versions
from benches.real_model_parts.taken_memory import taken_memory
from benches.shared.gdig_start import start_gdig
from benches.shared.instructions import write_inputs
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.processes import Measured, measure
from benches.shared.record_cases import write_case
from benches.shared.run_arguments import run_arguments
from benches.shared.tables import markdown
from gdig.run.record_file import read_record

RECORD = ROOT / "benches" / "record" / "real_model.json"
SEEDS_PASS = 300
"""Rows of a plain pass that 64 seeds may cost as much as."""
TARGETS = {
    "the defaults": {
        "fit without the seeds": 1.5,
        "sweep": 0.6,
        "seeds": 1.0,
        "peak GB": 4.0,
        "peak GB, half of the memory taken": 4.0,
    },
    "all MLP layers": {"fit without the seeds": 2.2, "sweep": 1.4, "seeds": 1.0},
    "all layers": {"fit without the seeds": 2.2, "sweep": 1.4, "seeds": 1.0},
}
"""Most of a plain pass over the same rows; the seeds' of one over 300 rows."""


def main() -> None:
    """Measure, print and record."""
    arguments = _arguments()
    # For Python's own libraries too, which torch.set_num_threads does not reach. A thread that waits for another one
    # sleeps: beside other work, waiting in a loop doubled the processor seconds.
    environment = {"OMP_NUM_THREADS": str(arguments.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    case: dict[str, Any] = {"machine": machine() | {"threads": arguments.threads}, **provenance(ROOT)}
    case |= {"model": arguments.model.name, "options": arguments.gdig, "steps": {}}
    steps = case["steps"]
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        pool, seeds = write_inputs(arguments.data, work, arguments.rows, arguments.seeds)
        options = {"model": str(arguments.model), "candidates": [str(pool)], "seeds": [str(seeds)]}
        options |= {"run_path": str(work / "run"), "threads": arguments.threads, **arguments.gdig}
        (work / "options.json").write_text(json.dumps(options), encoding="utf-8")
        steps["plain"] = _command("plain", ["plain", str(work / "options.json")], work, environment)
        _keep(arguments.case, case)
        for kind in ("plan", "fit", "sweep", "select"):
            measured, facts = start_gdig(kind, options, work, environment)
            steps[kind] = _facts(measured)
            if "stages" in facts:
                steps[kind]["stages"] = {name: round(seconds, 1) for name, seconds in facts["stages"].items()}
            _show(kind, steps[kind])
            _keep(arguments.case, case)
        record = read_record(work / "run" / "run.json")
        assert record.stages.sweep is not None and record.stages.sweep.counts is not None
        case |= {"rows": arguments.rows, "seeds": arguments.seeds, "tokens": record.stages.sweep.counts.tokens}
        _write(arguments, case)
        if arguments.taken_rows:
            case["taken"] = _with_memory_taken(arguments.taken, arguments.taken_rows, pool, options, work, environment)
            _write(arguments, case)
        if arguments.peer_rows:
            case["peers"] = {"rows": arguments.peer_rows, "seeds": arguments.peer_seeds, "versions": versions()}
            # The starts of gdig have written their own.
            (work / "options.json").write_text(json.dumps(options), encoding="utf-8")
            _peers(case["peers"], work, environment, lambda: _keep(arguments.case, case))
    _write(arguments, case)
    print("\n" + table(case, arguments.case))
    _kept(arguments.case).unlink(missing_ok=True)


def table(case: dict[str, Any], name: str) -> str:
    """A case as tables in Markdown: the steps, and the targets where the case has some."""
    steps = {**case["steps"], **case.get("peers", {}).get("steps", {})}
    rows = [
        [
            step,
            f"{facts['seconds']:.0f}",
            f"{facts['cpu_seconds']:.0f}",
            f"{facts['of_plain']:.2f}",
            f"{facts['tokens_per_second']:.0f}",
            f"{facts['peak_gb']:.2f}",
        ]
        for step, facts in steps.items()
        if "failed" not in facts
    ]
    text = markdown(["step", "seconds", "CPU s", "of plain", "tokens/s", "peak GB"], rows)
    targets = [
        [what, f"{case['figures'][what]:.2f}", f"{most:g}", "met" if case["figures"][what] <= most else "missed"]
        for what, most in TARGETS.get(name, {}).items()
        if what in case["figures"]
    ]
    return text + ("\n\n" + markdown(["", "measured", "at most", ""], targets) if targets else "")


def _with_memory_taken(
    share: float, rows: int, pool: Path, options: dict[str, Any], work: Path, environment: dict[str, str]
) -> dict[str, Any]:
    """Select from the first rows in one process, while a share of the memory is taken by others."""
    few = work / "few.jsonl"
    few.write_text("".join(pool.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]), encoding="utf-8")
    own = options | {"candidates": [str(few)], "run_path": str(work / "run-taken")}
    with taken_memory(share) as size:
        planned, facts = start_gdig("plan", own, work, environment)
        run, _ = start_gdig("select", own, work, environment)
    told = {"planned_gb": round(facts["plan"]["peak_memory"] / 1e9, 2), "plan_gb": round(planned.peak_bytes / 1e9, 2)}
    taken = {"rows": rows, "taken_gb": round(size / 1e9, 1), **told, **_facts(run)}
    _show("select, with memory taken", taken)
    return taken


def _peers(peers: dict[str, Any], work: Path, environment: dict[str, str], keep: Callable[[], None]) -> None:
    """Add the steps of the other libraries over the first rows and seeds. One that fails does not stop the others."""
    peers["steps"] = steps = {}
    for library in (name for name, version in peers["versions"].items() if version is not None):
        for step in ("fit", "scores"):
            given = [library, step, str(work / "options.json"), *(str(peers[name]) for name in ("rows", "seeds"))]
            try:
                facts = _command(f"{library} {step}", ["peers", *given, str(work / library)], work, environment)
            except RuntimeError as error:
                steps[f"{library}: {step}"] = {"failed": str(error)[-500:]}
                print(f"{library} {step} failed: {str(error)[-2000:]}", flush=True)
                keep()
                break  # its scores need its fit
            steps[f"{library}: {step}"] = facts
            peers["tokens"] = int(facts["said"].split(" rows, ")[1].split(" tokens")[0])
            keep()


def _command(name: str, arguments: list[str], work: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a module of `real_model_parts`."""
    module, *given = arguments
    measured = measure(f"benches.real_model_parts.{module}", given, work / f"{name}.log", environment)
    facts = _facts(measured) | {"said": measured.text.splitlines()[-1]}
    _show(name, facts)
    return facts


def _write(arguments: Any, case: dict[str, Any]) -> None:
    """Compare what is there, and write it into the record."""
    _compare(case)
    write_case(arguments.record, "real_model", arguments.case, case)


def _compare(case: dict[str, Any]) -> None:
    """Add to each step what share of the plain pass it takes, and to the case the figures that have targets."""
    steps, peers = case["steps"], case.get("peers", {})
    a_token = steps["plain"]["cpu_seconds"] / case["tokens"]
    for group, tokens in ((steps, case["tokens"]), (peers.get("steps", {}), peers.get("tokens", 0))):
        for facts in (each for each in group.values() if "failed" not in each):
            facts["of_plain"] = round(facts["cpu_seconds"] / (a_token * tokens), 3)
            facts["tokens_per_second"] = round(tokens / facts["seconds"], 1)
    of_seeds = sum(seconds for name, seconds in steps["fit"]["stages"].items() if "fit: seeds" in name)
    plain = steps["plain"]["cpu_seconds"]
    case["figures"] = {
        "fit without the seeds": round((steps["fit"]["cpu_seconds"] - of_seeds) / plain, 3),
        "sweep": steps["sweep"]["of_plain"],
        "seeds": round(of_seeds / (plain * SEEDS_PASS / case["rows"]), 3),
        "peak GB": max(steps[name]["peak_gb"] for name in ("plan", "fit", "sweep", "select")),
    }
    if "taken" in case:
        case["figures"]["peak GB, half of the memory taken"] = max(
            case["taken"][name] for name in ("plan_gb", "peak_gb")
        )


def _facts(measured: Measured) -> dict[str, Any]:
    return {
        "seconds": round(measured.seconds, 1),
        "cpu_seconds": round(measured.cpu_seconds, 1),
        "peak_gb": round(measured.peak_bytes / 1e9, 2),
    }


def _show(name: str, facts: dict[str, Any]) -> None:
    print(f"{name}: {facts['seconds']} s, {facts['cpu_seconds']} CPU s, {facts['peak_gb']} GB", flush=True)


def _kept(name: str) -> Path:
    return ROOT / "build" / "real_model" / f"{name}.json"


def _keep(name: str, case: dict[str, Any]) -> None:
    """Keep the steps that are done, for a start that does not end."""
    file = _kept(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(case, indent=1) + "\n", encoding="utf-8")


def _arguments() -> Any:
    parser = run_arguments(__doc__, RECORD, rows=1000, seeds=64)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--case", default="the defaults", help=f"the case's name; {', '.join(TARGETS)} have targets")
    parser.add_argument("--taken", type=float, default=0.5, help="share of the memory that others hold in one run")
    parser.add_argument("--taken-rows", type=int, default=100, help="rows of the run beside it; 0 leaves it out")
    parser.add_argument("--peer-rows", type=int, default=100, help="rows for the other libraries; 0 leaves them out")
    parser.add_argument("--peer-seeds", type=int, default=16, help="seeds for the other libraries")
    return parser.parse_args()


if __name__ == "__main__":
    main()
