"""gdig at its defaults on a real pretrained model, beside a plain forward and backward pass over the same rows.

    python -m benches.real_model --model DIR --data DIR          # writes benches/record/real_model.json
    python -m benches.real_model ... --rows 200 --seeds 16 --record build/real_model.json
    python -m benches.real_model ... --gdig '{"layers": "all"}' --case "all layers"   # another case of the record

The model is a directory in Hugging Face format, such as SmolLM2-135M. The rows are instructions of a folder of files
JSONL, gzipped or not: those of many tasks are the pool, and rows of one task of it are the seeds. Every step is a
process of its own, one after another: the plain pass, the plan, and fit, sweep and selection of one run. So seconds,
processor seconds and peak memory are those that a user sees, with the start of Python and the loading of the model.

Other libraries pass the first rows where they are installed (`pip install 'gdig[peers]'`): EK-FAC factors of the same
layers, and the scores of some seeds. Their costs are compared with those of a plain pass over as many tokens.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benches.libraries.common import versions
from benches.shared.gdig_start import start_gdig
from benches.shared.instructions import write_inputs
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.processes import Measured, measure
from benches.shared.run_arguments import run_arguments
from benches.shared.tables import markdown
from gdig.run.record_file import read_record

RECORD = ROOT / "benches" / "record" / "real_model.json"
SEEDS_PASS = 300
"""Rows of a plain pass that 64 seeds may cost as much as."""
TARGETS = {
    "the defaults": {"fit without the seeds": 1.5, "sweep": 0.6, "seeds": 1.0, "peak GB": 4.0},
    "all layers": {"fit without the seeds": 2.2, "sweep": 1.4, "seeds": 1.0},
}
"""Most of a plain pass over the same rows; the seeds' of one over 300 rows."""


def main() -> None:
    """Measure, print and record."""
    arguments = _arguments()
    # For Python's own libraries too, which torch.set_num_threads does not reach.
    environment = {"OMP_NUM_THREADS": str(arguments.threads)}
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
        for kind in ("plan", "fit", "sweep", "select"):
            measured, facts = start_gdig(kind, options, work, environment)
            steps[kind] = _facts(measured)
            if "stages" in facts:
                steps[kind]["stages"] = {name: round(seconds, 1) for name, seconds in facts["stages"].items()}
            _show(kind, steps[kind])
        record = read_record(work / "run" / "run.json")
        assert record.stages.sweep is not None and record.stages.sweep.counts is not None
        case |= {"rows": arguments.rows, "seeds": arguments.seeds, "tokens": record.stages.sweep.counts.tokens}
        if arguments.peer_rows:
            case["peers"] = _peers(arguments.peer_rows, arguments.peer_seeds, work, environment)
    _compare(case)
    print("\n" + table(case, arguments.case))
    _write(arguments.record, arguments.case, case)


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
    ]
    text = markdown(["step", "seconds", "CPU s", "of plain", "tokens/s", "peak GB"], rows)
    targets = [
        [what, f"{case['figures'][what]:.2f}", f"{most:g}", "met" if case["figures"][what] <= most else "missed"]
        for what, most in TARGETS.get(name, {}).items()
    ]
    return text + ("\n\n" + markdown(["", "measured", "at most", ""], targets) if targets else "")


def _peers(rows: int, seeds: int, work: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The steps of the other libraries over the first rows and seeds."""
    steps: dict[str, Any] = {}
    tokens = 0
    installed = versions()
    for library in (name for name, version in installed.items() if version is not None):
        for step in ("fit", "scores"):
            given = [library, step, str(work / "options.json"), str(rows), str(seeds), str(work / library)]
            steps[f"{library}: {step}"] = facts = _command(f"{library} {step}", ["peers", *given], work, environment)
            tokens = int(facts["said"].split(" rows, ")[1].split(" tokens")[0])
    return {"rows": rows, "seeds": seeds, "tokens": tokens, "versions": installed, "steps": steps}


def _command(name: str, arguments: list[str], work: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a module of `real_model_parts`."""
    module, *given = arguments
    measured = measure(f"benches.real_model_parts.{module}", given, work / f"{name}.log", environment)
    facts = _facts(measured) | {"said": measured.text.splitlines()[-1]}
    _show(name, facts)
    return facts


def _compare(case: dict[str, Any]) -> None:
    """Add to each step what share of the plain pass it takes, and to the case the figures that have targets."""
    steps, peers = case["steps"], case.get("peers", {})
    a_token = steps["plain"]["cpu_seconds"] / case["tokens"]
    for group, tokens in ((steps, case["tokens"]), (peers.get("steps", {}), peers.get("tokens", 0))):
        for facts in group.values():
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


def _facts(measured: Measured) -> dict[str, Any]:
    return {
        "seconds": round(measured.seconds, 1),
        "cpu_seconds": round(measured.cpu_seconds, 1),
        "peak_gb": round(measured.peak_bytes / 1e9, 2),
    }


def _show(name: str, facts: dict[str, Any]) -> None:
    print(f"{name}: {facts['seconds']} s, {facts['cpu_seconds']} CPU s, {facts['peak_gb']} GB", flush=True)


def _write(file: Path, name: str, case: dict[str, Any]) -> None:
    """Write the case into the record, beside its other cases."""
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"bench": "real_model", "cases": {}}
    record["cases"][name] = case
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nrecorded in {file}")


def _arguments() -> Any:
    parser = run_arguments(__doc__, RECORD, rows=1000, seeds=64)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--case", default="the defaults", help=f"the case's name; {', '.join(TARGETS)} have targets")
    parser.add_argument("--peer-rows", type=int, default=100, help="rows for the other libraries; 0 leaves them out")
    parser.add_argument("--peer-seeds", type=int, default=16, help="seeds for the other libraries")
    return parser.parse_args()


if __name__ == "__main__":
    main()
