"""The command line: flags from the option groups, YAML, presets, continuing a run, errors. The pipeline is a double."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gdig.cli import main as cli
from gdig.cli.commands import COMMANDS
from gdig.cli.flags import group_type
from gdig.cli.help import docs
from gdig.config.config import Config
from gdig.config.options import (
    GROUPS,
    PRESETS,
    STAGE_GROUPS,
    STAGES,
    CheckpointOptions,
    PresetOptions,
    RunOptions,
    TrainOptions,
)
from gdig.config.read import read_yaml
from gdig.errors import ConfigError, CorpusError, code_of
from gdig.run.record import RunRecord
from gdig.run.record_file import write_record
from gdig.run.verify import FileReport, Verification

MINIMUM = ["--model", "m", "--candidates", "a.jsonl", "b.jsonl", "--seeds", "s.jsonl", "--run-path", "r"]


class Pipeline(types.ModuleType):
    """Stands for the modules that do the work: records the calls."""

    def __init__(self) -> None:
        super().__init__("gdig.api")
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.error: BaseException | None = None
        self.preview_error: CorpusError | None = None
        self.state: Any = "sound"

    def _call(self, name: str, config: Any, **kwargs: Any) -> None:
        self.calls.append((name, config, kwargs))
        if self.error is not None:
            raise self.error

    def select(self, config: Any, **kwargs: Any) -> Any:
        self._call("select", config, **kwargs)
        return types.SimpleNamespace(rows=[7, 3], summary=["chose 2 of 10 rows", "selection: r/selection.jsonl"])

    def fit(self, config: Any, **kwargs: Any) -> None:
        self._call("fit", config, **kwargs)

    def sweep(self, config: Any, **kwargs: Any) -> None:
        self._call("sweep", config, **kwargs)

    def cluster(self, config: Any, **kwargs: Any) -> None:
        self._call("cluster", config, **kwargs)

    def preview(self, config: Any, **kwargs: Any) -> types.SimpleNamespace:
        self._call("preview", config, **kwargs)
        return types.SimpleNamespace(texts=["a row"], error=self.preview_error)

    def verify(self, run_path: Any, **kwargs: Any) -> Verification:
        self._call("verify", run_path, **kwargs)
        return Verification(Path(run_path), (FileReport("run.json", self.state, "r/run.json: is cut", 7),))

    @property
    def config(self) -> Config:
        return self.calls[-1][1]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pipeline:
    double = Pipeline()
    for module in ("gdig.api", "gdig.showing", "gdig.run.verify"):
        monkeypatch.setitem(sys.modules, module, double)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GDIG_TRACEBACK", raising=False)
    return double


@pytest.fixture
def help_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.setenv("COLUMNS", "100")

    def text(name: str, flag: str = "--help-all") -> str:
        assert cli.main([name, flag]) == 0
        return capsys.readouterr().out

    return text


def shows(text: str, option: str) -> bool:
    return re.search(rf" --{option.replace('_', '-')}(?![a-z-])", text) is not None


def test_flags_reach_the_pipeline_as_a_config(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--budget", "500", "--train-rows", "all", "--overwrite", "--damping-factor", "1e-3", "--output", "o.jsonl"]
    assert cli.main(["select", *MINIMUM, *flags]) == 0
    wanted = Config(
        model="m", candidates=("a.jsonl", "b.jsonl"), seeds=("s.jsonl",), run_path="r", budget="500", train_rows="all",
        overwrite=True, damping_factor=1e-3, output="o.jsonl",
    )  # fmt: skip
    assert pipeline.calls[0][:2] == ("select", wanted)
    captured = capsys.readouterr()
    assert captured.out == (
        "chose 2 of 10 rows\nselection: r/selection.jsonl\nwhy row 7: gdig explain r 7\n"
        "other methods, from the same sweep: gdig compare r\n"
    )
    assert captured.err == ""


def test_every_option_of_config_is_a_flag_of_select_with_help(help_of: Callable[..., str]) -> None:
    text = " ".join(help_of("select").split())
    for option in fields(Config):
        assert shows(text, option.name)
    for group in (*GROUPS, PresetOptions):
        texts, names = docs(group), {option.name for option in fields(group)}
        assert names == set(texts), "an option without a docstring would have no help"
        for name in names:
            assert texts[name] in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_every_option_in_its_group(name: str, help_of: Callable[..., str]) -> None:
    text = help_of(name)
    assert max(map(len, text.splitlines())) <= 100
    command, flat = COMMANDS[name], " ".join(text.split())
    for group in fields(command.options):
        assert f"\n{group.name}: " in text
        texts = docs(group_type(group))
        for option in fields(group_type(group)):
            assert texts[option.name] in flat, option.name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_basic_options_below_60_lines(name: str, help_of: Callable[..., str]) -> None:
    text, everything = help_of(name, "--help"), help_of(name)
    lines = text.splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 100
    flags = set(re.findall(r"^  (--[a-z-]+)", text, re.M))
    assert len(flags) <= 20 and flags <= set(re.findall(r"^  (--[a-z-]+)", everything, re.M))
    assert f"gdig {name} --help-all shows" in text
    assert text.rpartition("example:\n")[2].count("\n") == 2, "an example of two lines"


def test_help_of_select_shows_what_a_new_user_needs(help_of: Callable[..., str]) -> None:
    text = help_of("select", "--help")
    wanted = "model candidates seeds method budget tau task_field output n_clusters checkpoints run_path device preset"
    for name in (*wanted.split(), "config"):
        assert shows(text, name)
    for name in ("damping_factor", "projection_dim", "workers", "kmeans_tol"):
        assert not shows(text, name)
    for heading in ("data", "selection", "clusters", "checkpoints", "run", "defaults"):
        assert f"\n{heading}: " in text


def test_every_option_of_training_is_a_flag_of_score_net_with_help(help_of: Callable[..., str]) -> None:
    text = " ".join(help_of("score-net").split())
    names = {option.name for option in fields(TrainOptions)}
    assert not names & {option.name for option in fields(Config)}, "one name, one option"
    assert set(docs(TrainOptions)) == names
    for name, doc in docs(TrainOptions).items():
        assert shows(text, name) and doc in text
    assert shows(text, "features") and not shows(text, "tau") and not shows(text, "overwrite")


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_shows_the_options_it_needs_and_no_others(stage: str, help_of: Callable[..., str]) -> None:
    text = help_of(stage)
    needed = [g for s in STAGES[: STAGES.index(stage) + 1] for g in STAGE_GROUPS[s]] + [RunOptions]
    if stage == "cluster":
        needed.remove(CheckpointOptions)  # methods of select read checkpoints, the clusters do not
    for group in GROUPS:
        for option in fields(group):
            assert shows(text, option.name) == (group in needed), option.name


def test_every_command_reaches_its_function(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    for name, then in {"fit": "sweep", "sweep": "select", "cluster": "select"}.items():
        assert cli.main([name, *MINIMUM]) == 0
        assert (pipeline.calls[-1][0], pipeline.config.candidates) == (name, ("a.jsonl", "b.jsonl"))
        assert capsys.readouterr().out == f"{name}: done, in r\nnext: gdig {then} --run-path r\n"
    assert cli.main(["sweep", *MINIMUM, "--sweep-part", "1/4"]) == 0
    said = "sweep: part 1/4 done, in r\nnext: gdig merge DIRECTORIES --run-path OUT, when all parts are done\n"
    assert capsys.readouterr().out == said
    without_seeds = [word for word in MINIMUM if word not in ("--seeds", "s.jsonl")]
    for given, method in ((MINIMUM, "rds"), (without_seeds, "diverse")):
        assert cli.main(["sweep", *given, "--no-gradients"]) == 0
        assert capsys.readouterr().out.endswith(f"\nnext: gdig select --method {method} --run-path r\n")
    assert cli.main(["preview", *MINIMUM, "--rows", "3"]) == 0
    assert (pipeline.calls[-1][0], pipeline.calls[-1][2]["rows"]) == ("preview", 3)
    assert cli.main(["verify", "--run-path", "r"]) == 0
    assert pipeline.calls[-1][:2] == ("verify", "r")
    assert capsys.readouterr().out == "a row\nrun: 1 sound, 7 bytes\nr: 1 sound\n"
    assert cli.main(["verify", "s", "--quiet"]) == 0
    assert pipeline.calls[-1][:2] == ("verify", "s")
    assert cli.main(["verify", "--run-path", "r", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    pipeline.state = "damaged"
    assert cli.main(["verify", "--run-path", "r", "--quiet"]) == 1
    said = "damaged: r/run.json: is cut\nrun: 1 damaged, 7 bytes\nr: 1 damaged; not sound\n"
    assert capsys.readouterr().out == said
    assert cli.main(["verify", "--run-path", "r", "--json"]) == 1
    file = {"file": "run.json", "state": "damaged", "what": "r/run.json: is cut", "bytes": 7}
    assert json.loads(capsys.readouterr().out) == {"run_path": "r", "sound": False, "files": [file]}
    pipeline.preview_error = CorpusError("a.jsonl, row 7: bad")
    assert cli.main(["preview", *MINIMUM]) == 2
    assert capsys.readouterr() == ("a row\n", "gdig: error: a.jsonl, row 7: bad [G200]\n")


def test_quiet_prints_no_result(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["select", *MINIMUM, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_flags_win_over_yaml_and_yaml_over_the_preset(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "model: m\ncandidates: a.jsonl\nseeds: [s.jsonl, t.jsonl]\nbudget: 500\nkmeans_tol: 1e-3\ntau: 1\n"
        "preset: paper\nseed_rank: 8\ndamping_factor: 0.25\nrun_path: r\nquiet: true\n"
    )
    assert cli.main(["fit", "--config", "run.yaml", "--damping-factor", "0.125", "--no-quiet"]) == 0
    config = pipeline.config
    assert (config.candidates, config.seeds) == (("a.jsonl",), ("s.jsonl", "t.jsonl"))
    assert (config.budget, config.kmeans_tol, config.tau) == ("500", 1e-3, 1.0)  # not fit's, yet kept
    assert (config.damping_factor, config.seed_rank, config.inversion) == (0.125, 8, "kfac")
    assert (config.preset, config.quiet) == ("paper", False)


def test_a_preset_gives_its_values_and_no_other(pipeline: Pipeline) -> None:
    assert cli.main(["select", *MINIMUM, "--preset", "paper", "--fit-tokens", "7"]) == 0
    base = {"model": "m", "candidates": ("a.jsonl", "b.jsonl"), "seeds": ("s.jsonl",), "run_path": "r"}
    assert pipeline.config == Config(**base, **PRESETS["paper"], preset="paper", fit_tokens=7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tau: 1\ndamping_facter: 2\n", "run.yaml:2: unknown key 'damping_facter'; did you mean 'damping_factor'?"),
        ("fit_tokens: many\n", "run.yaml:1: fit_tokens='many': expected a whole number"),
        ("fit_tokens: true\n", "run.yaml:1: fit_tokens=True: expected a whole number"),
        ("fit_tokens: 1.5\n", "run.yaml:1: fit_tokens=1.5: expected a whole number"),
        ("quiet: 1\n", "run.yaml:1: quiet=1: expected true or false"),
        ("tau: high\n", "run.yaml:1: tau='high': expected a number"),
        ("inversion: svd\n", "run.yaml:1: inversion='svd': expected one of ekfac, kfac, identity, cg"),
        ("train_rows: some\n", "train_rows='some': expected a whole number or all or null"),
        ("seeds: [a, [b]]\n", "run.yaml:1: seeds=['a', ['b']]: expected text or a list of texts"),
        ("model: {a: b}\n", "run.yaml:1: model={'a': 'b'}: expected text or null"),
        ("tau: 1\ntau: 0.5\n", "run.yaml:2: key 'tau' is given twice"),
        ("- tau\n", "run.yaml: expected a mapping of option names to values, got list"),
        ("tau: [\n", "run.yaml: expected YAML, but "),
        ("tau: 7\n", "tau=7.0: expected a share above 0 and up to 1"),
    ],
)
def test_bad_yaml(
    text: str, message: str, pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert cli.main(["select", "--config", "run.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gdig: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not pipeline.calls


def test_yaml_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: the YAML file of options cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def store_run(path: Path, **options: Any) -> None:
    path.mkdir()
    config = Config.build({"model": "stored", "candidates": ("x.jsonl",), "seeds": ("s.jsonl",), **options})
    write_record(path / "run.json", RunRecord(config=config.to_dict()))


def test_without_a_model_the_options_of_the_run_go_on(pipeline: Pipeline, tmp_path: Path) -> None:
    once = {"overwrite": True, "quiet": True, "run_path": "elsewhere", "budget": "3%", "output": "old.jsonl"}
    store_run(tmp_path / "r", preset="paper", fit_tokens=77, **once)
    (tmp_path / "run.yaml").write_text("seed_rank: 8\n")
    assert cli.main(["select", "--run-path", "r", "--method", "top", "--config", "run.yaml"]) == 0
    config = pipeline.config
    assert (config.model, config.candidates, config.fit_tokens) == ("stored", ("x.jsonl",), 77)
    assert (config.preset, config.damping_mode, config.seed_rank) == ("paper", "factored_tikhonov", 8)
    assert (config.method, config.run_path) == ("top", "r")
    assert (config.overwrite, config.quiet) == (False, False), "these belong to one start"
    assert (config.budget, config.output) == ("10%", None), "these belong to one choice"


def test_a_preset_given_to_a_run_replaces_that_of_the_run(pipeline: Pipeline, tmp_path: Path) -> None:
    store_run(tmp_path / "r", preset="paper", fit_tokens=77)
    assert cli.main(["select", "--run-path", "r", "--preset", "default"]) == 0
    assert (pipeline.config.inversion, pipeline.config.fit_tokens) == ("ekfac", 77)
    store_run(tmp_path / "q")
    assert cli.main(["select", "--run-path", "q", "--preset", "paper"]) == 0
    assert (pipeline.config.inversion, pipeline.config.model) == ("kfac", "stored")


def test_with_a_model_the_run_gives_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    store_run(tmp_path / "r", budget="3%")
    assert cli.main(["select", *MINIMUM]) == 0
    assert (pipeline.config.model, pipeline.config.budget) == ("m", "10%")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": 3}', '{"config": {"tua": 1}}'])
def test_a_damaged_record_of_a_run(
    text: str, pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.json").write_text(text)
    assert cli.main(["select", "--run-path", "r"]) == 2
    assert capsys.readouterr().err.startswith("gdig: error: r/run.json: ")


def test_errors_are_one_line_without_a_traceback(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.error = CorpusError("pool.jsonl: row 17: src_text: expected text, got null")
    assert cli.main(["select", *MINIMUM]) == 2
    assert capsys.readouterr() == ("", f"gdig: error: {pipeline.error} [{code_of(pipeline.error)}]\n")
    pipeline.error = OSError(28, "No space left on device", "r/sweep/00000000.safetensors.tmp")
    assert cli.main(["select", *MINIMUM]) == 2
    assert "No space left on device: 'r/sweep/00000000.safetensors.tmp'" in capsys.readouterr().err
    monkeypatch.setenv("GDIG_TRACEBACK", "1")
    assert cli.main(["select", *MINIMUM]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_shows_its_traceback(pipeline: Pipeline) -> None:
    pipeline.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        cli.main(["select", *MINIMUM])


def test_ctrl_c(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.error = KeyboardInterrupt()
    assert cli.main(["select", *MINIMUM]) == 130
    assert capsys.readouterr() == ("", "interrupted; the same command goes on from here\n")


def test_compare_has_no_flag_for_a_single_method(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "r", "--method", "top"]) == 2
    assert "unknown flag '--method' of gdig compare; did you mean '--methods'? [G102]" in capsys.readouterr().err
    assert not pipeline.calls


def test_only_commands_that_go_on_say_that_they_do(help_of: Callable[..., str]) -> None:
    says = {name for name in COMMANDS if "the same command continues it" in " ".join(help_of(name).split())}
    assert says == {"fit", "sweep", "cluster", "select", "plan", "compare"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["selekt"], "unknown command 'selekt'; did you mean 'select'?"),
        (["dance"], "expected one of " + ", ".join(COMMANDS)),
        (["select", *MINIMUM, "--budget", "lots"], "budget='lots': expected rows (500)"),
        (["verify"], "run_path: required, but missing; give the flag --run-path"),
    ],
)
def test_bad_arguments(args: list[str], message: str, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 2
    assert message in capsys.readouterr().err
    assert not pipeline.calls


def test_an_unknown_flag_is_refused_with_the_nearest(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--damping-facter", "--damping_facter", "--damping-facter=1"):
        assert cli.main(["select", *MINIMUM, flag, "1"]) == 2
        assert "of gdig select; did you mean '--damping-factor'? [G102]" in capsys.readouterr().err
    assert cli.main(["report", "r", "--zzz"]) == 2
    assert "unknown flag '--zzz' of gdig report; gdig report --help-all has the flags [G102]" in capsys.readouterr().err
    assert cli.main(["report", "r", "--zzz", "--", "5"]) == 2 and "'--zzz'" in capsys.readouterr().err
    cli.main(["report", "r", "--", "--zzz"])
    assert "unknown flag" not in capsys.readouterr().err
    assert not pipeline.calls


@pytest.mark.parametrize(
    "args",
    [
        ["select", *MINIMUM, "--max-length", "many"],
        ["select", *MINIMUM, "--precision", "float31"],
        ["select", "--run-path"],
        ["explain", "r", "first"],
        ["report", "r", "another"],
    ],
    ids=" ".join,
)
def test_arguments_that_cannot_be_read_end_with_a_code(
    args: list[str], pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """tyro says in a box what is wrong; the line after it has the code, as after every other error."""
    assert cli.main(args) == 2
    box, last = capsys.readouterr().err.strip().rsplit("\n", 1)
    assert args[-1] in box
    assert last.startswith(f"gdig: error: gdig {args[0]}: the arguments cannot be read") and last.endswith("[G100]")
    assert not pipeline.calls


def test_overview_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 32, "more than a screen"
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert cli.main([]) == 2
    assert capsys.readouterr().out == text
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gdig 0.")


# What only a process of its own shows.

SETUP = """
import sys, threading, types
pipeline = types.ModuleType("gdig.run.merge")
sys.modules["gdig.run.merge"] = pipeline
pipeline.merge = lambda runs, run_path, progress: {body}
from gdig.cli.main import main
sys.exit(main(["merge", "a", "--run-path", "r"]))
"""


@pytest.mark.parametrize(("args", "most"), [(["--help"], 130), (["select", "--help"], 400)], ids=["overview", "select"])
def test_help_imports_few_modules(args: list[str], most: int) -> None:
    """A start is quick because it imports little: 88 modules for the overview, 265 for the options of a command."""
    program = (
        "import sys; before = len(sys.modules)\n"
        "from gdig.cli.main import main\n"
        "try: main(sys.argv[2:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'triton', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert len(sys.modules) - before <= int(sys.argv[1]), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(most), *args], check=True, stdout=subprocess.DEVNULL)


def test_python_m_gdig() -> None:
    result = subprocess.run([sys.executable, "-m", "gdig", "dance"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("gdig: error: unknown command 'dance'")


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SETUP.format(body="['x' * 1000] * 1000")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (141, b"")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_a_real_sigint_ends_a_command() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SETUP.format(body="(print('started', flush=True), threading.Event().wait())")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, b"interrupted; the same command goes on from here\n")
