"""A whole project on disk, tiny: model directories with a tokenizer, a pool, seeds, and runs over them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from gdig.run.record_file import record_checksum
from gdig.store.tensor_file import CheckedFile, read_tensors

WORDS = [
    ("猫", "cat"), ("狗", "dog"), ("今天", "today"), ("天气", "weather"), ("很好", "is fine"), ("公园", "park"),
    ("散步", "walk"), ("酒店", "hotel"), ("提供", "offers"), ("早餐", "breakfast"), ("机场", "airport"),
    ("接送", "pickup"), ("我们", "we"), ("去", "go to"), ("和", "and"),
]  # fmt: skip

N_ROWS, N_SEEDS, ROWS_PER_SHARD = 60, 5, 16

# Small enough for a second a run; every stage has several steps (4 shards, several batches, several iterations).
TINY: dict[str, Any] = {
    "fit_tokens": 1400,  # 24 rows
    "probe_rows": 4,
    "projection_dim": 32,
    "projection_side": 8,
    "rows_per_shard": ROWS_PER_SHARD,
    "token_batch_size": 512,
    "n_clusters": 5,
    "budget": "12",
    "method": "agreement",
    "tau": 1.0,
    "device": "cpu",
    "threads": 1,
    "quiet": True,
    "report": False,  # tests/test_report.py makes the reports
}


def pairs(n: int, random_seed: int) -> list[tuple[str, str]]:
    """`n` different pairs of a Chinese and an English text, 2 to 7 words long."""
    rng, chinese_english = random.Random(random_seed), {}
    while len(chinese_english) < n:
        words = rng.sample(WORDS, rng.randint(2, 7))
        chinese_english["".join(zh for zh, _ in words)] = " ".join(en for _, en in words)
    return list(chinese_english.items())


def translation_rows(n: int = N_ROWS, random_seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"src_lang": "Chinese", "trg_lang": "English", "src_text": zh, "trg_text": en, "meta": {"i": [i, None, 0.5]}}
        for i, (zh, en) in enumerate(pairs(n, random_seed))
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def llama_module(vocab_size: int, *, tied: bool = False, window: int = 128, random_seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(random_seed)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=window, tie_word_embeddings=tied, initializer_range=0.2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2_module(vocab_size: int, *, window: int = 128, random_seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(random_seed)
    config = GPT2Config(
        vocab_size=vocab_size, n_embd=16, n_layer=2, n_head=2, n_positions=window, initializer_range=0.2,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def save_model(path: Path, module: Any, tokenizer: Any = None) -> Path:
    module.save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    return path


@dataclass(frozen=True)
class Project:
    """Paths of the inputs, and the options of a tiny run over them."""

    root: Path
    model: Path
    pool: Path
    seeds: Path
    rows: list[dict[str, Any]] = field(repr=False)

    def options(self, run_path: str | Path, **changes: Any) -> dict[str, Any]:
        inputs = {"model": str(self.model), "candidates": (str(self.pool),), "seeds": (str(self.seeds),)}
        return {**TINY, **inputs, "run_path": str(run_path), **changes}


def make_project(root: Path, tokenizer: Any) -> Project:
    rows = translation_rows()
    return Project(
        root,
        save_model(root / "model", llama_module(len(tokenizer)), tokenizer),
        write_jsonl(root / "pool.jsonl", rows),
        write_jsonl(root / "seeds.jsonl", translation_rows(N_SEEDS, random_seed=1)),
        rows,
    )


def flags(options: dict[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    arguments: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            arguments += [flag, *map(str, value if isinstance(value, (tuple, list)) else (value,))]
    return arguments


def stored(run_path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a sweep, all shards joined; read with safetensors alone."""
    shards = [load_file(file) for file in sorted(Path(run_path).glob("sweep/*.safetensors"))]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def stages(run_path: str | Path) -> dict[str, Any]:
    return json.loads((Path(run_path) / "run.json").read_text(encoding="utf-8"))["stages"]


def as_it_is(path: Path) -> CheckedFile:
    """A file of a run, expected to be made from whatever it says."""
    return CheckedFile(path, read_tensors(path)[1].get("made_from", ""))


def edit_record(run_path: str | Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a run.json as somebody does who knows how its checksum is made."""
    file = Path(run_path) / "run.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    del state["checksum"]
    change(state)
    file.write_text(json.dumps({**state, "checksum": record_checksum(state)}), encoding="utf-8")


COLUMNS = ["row", "score", "agreement", "cluster", "distance", "rank", "loss", "tokens"]


def labels_of(run_path: Path) -> tuple[np.ndarray, np.ndarray]:
    files = [load_file(file) for file in sorted((run_path / "clusters" / "labels").glob("*.safetensors"))]
    return tuple(np.concatenate([file[name] for file in files]) for name in ("labels", "distances"))


def steady(influence: np.ndarray) -> np.ndarray:
    """The default score [...] of influence [..., S]: mean over root of the mean square."""
    x = influence.astype(np.float64)
    return (x.sum(-1) / np.sqrt(x.shape[-1] * (x * x).sum(-1))).astype(np.float32)


def check_selection(selection: list[dict], run_path: Path, rows: list[dict], *, clustered: bool = True) -> np.ndarray:
    """Every chosen row is whole, and its `gdig` object says what the files of the run say. Returns the rows chosen."""
    sweep = stored(run_path)
    chosen = np.array([row["gdig"]["row"] for row in selection])
    assert len(set(chosen.tolist())) == len(chosen)
    assert all(sweep["valid"][chosen])
    if clustered:
        labels, distances = labels_of(run_path)
        centroids = load_file(run_path / "clusters" / "centroids.safetensors")["centroids"]
    for rank, row in enumerate(selection, 1):
        facts, i = row["gdig"], row["gdig"]["row"]
        assert {key: value for key, value in row.items() if key != "gdig"} == rows[i]
        assert list(facts) == COLUMNS
        influence = sweep["influence"][i].astype(np.float64)
        assert facts["score"] == steady(influence)[()]
        assert facts["agreement"] == (influence > 0).sum() / len(influence)
        assert (facts["rank"], facts["tokens"]) == (rank, sweep["tokens"][i])
        assert facts["loss"] == sweep["loss"][i]
        if clustered:
            assert facts["cluster"] == labels[i] < len(centroids)
            assert facts["distance"] == distances[i]
        else:
            assert facts["cluster"] is None and facts["distance"] is None
    return chosen


@dataclass(frozen=True)
class SignalAt:
    """The moment before a method is called for the n-th time, at which the process gets a signal.

    method: "module:Class.method". count: n, from 1. number: the signal.
    """

    method: str
    count: int
    number: int = signal.SIGKILL

    def arm(self) -> None:
        """Make this process send itself the signal at the moment."""
        module, _, path = self.method.partition(":")
        owner: Any = importlib.import_module(module)
        *owners, name = path.split(".")
        for pairs in owners:
            owner = getattr(owner, pairs)
        method, calls = getattr(owner, name), itertools.count(1)

        @functools.wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == self.count:
                os.kill(os.getpid(), self.number)
            return method(*args, **kwargs)

        setattr(owner, name, counted)


_FORKING = multiprocessing.get_context("forkserver")
# Imported once, in a server that computes nothing: a command then starts in milliseconds, forked with no threads.
_FORKING.set_forkserver_preload(["tests.support.warm"])


def fork(target: Callable[..., object], *args: Any) -> Any:
    """Start `target(*args)` in a process forked from the server. Its Triton compiles, and interprets nothing."""
    with without_variable("TRITON_INTERPRET"):
        process = _FORKING.Process(target=target, args=args)
        process.start()
    return process


@contextlib.contextmanager
def without_variable(name: str) -> Iterator[None]:
    """Within the block, a process that starts has no environment variable of the name."""
    before = os.environ.pop(name, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


@dataclass
class Command:
    """`gdig ARGS` in a process of its own, as `python -m gdig` runs it but for the seconds that imports take.
    Or another program, "module:function", which finds its arguments in sys.argv."""

    process: Any
    stdout: Path
    stderr: Path

    @classmethod
    def start(
        cls,
        args: list[str],
        folder: Path,
        *,
        limit_bytes: int | None = None,
        environment: dict[str, str] | None = None,
        signal_at: SignalAt | None = None,
        program: str | None = None,
    ) -> Command:
        """Start it; `limit_bytes` is the longest file it may write (RLIMIT_FSIZE stands for a full disk), `environment`
        holds further variables, `signal_at` a moment at which it gets a signal."""
        folder.mkdir(parents=True, exist_ok=True)
        stdout, stderr = folder / "stdout", folder / "stderr"
        stdout.touch()
        stderr.touch()
        process = fork(_command, args, str(stdout), str(stderr), limit_bytes, environment or {}, signal_at, program)
        return cls(process, stdout, stderr)

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    @property
    def output(self) -> str:
        return self.stdout.read_text(encoding="utf-8")

    @property
    def error(self) -> str:
        return self.stderr.read_text(encoding="utf-8")


def _command(
    args: list[str],
    stdout: str,
    stderr: str,
    limit_bytes: int | None,
    environment: dict[str, str],
    signal_at: SignalAt | None,
    program: str | None,
) -> None:
    os.environ.update(environment)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    if signal_at is not None:
        signal_at.arm()
    if program is not None:
        module, _, function = program.partition(":")
        sys.argv = [module, *args]
        sys.exit(getattr(importlib.import_module(module), function)())
    from gdig.cli.main import main

    sys.exit(main(args))
