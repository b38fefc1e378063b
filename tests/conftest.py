"""Fixtures shared by the tests."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Tiny matrices: a second thread only waits, and beside other work on the same cores its spinning costs seconds. Set
# before torch is imported; commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test asks for two threads, the one that waits sleeps. The order of sums is the same.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Read when transformers is imported: bars of other libraries would stand among what the tests look at.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Read then too: no test asks the hub. A name that the cache lacks is an error at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Read when a Triton kernel is defined: here they are interpreted, on the CPU. Whoever tests them on a GPU sets it to 0;
# triton_compile.py compiles them, in processes of their own. Without a GPU gdig itself never imports triton.
os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

# torch and transformers take seconds to import, and the process that hands out tests to workers needs neither.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tests.support.project_fixtures import Project

# A file of a run is synced when it is written, which takes a disk milliseconds and memory none. Tests write tens of
# thousands. Set TMPDIR to test on a disk.
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 << 30


def files_in_memory() -> bool:
    """Whether this machine keeps files in memory: enough of them, and programs among them."""
    if not os.access(MEMORY, os.W_OK):
        return False
    of = os.statvfs(MEMORY)
    return of.f_bavail * of.f_frsize >= MEMORY_BYTES and not of.f_flag & os.ST_NOEXEC


if "TMPDIR" not in os.environ and files_in_memory():
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)  # for what tests start, and for this process

# A shell lets a command in the background ignore Ctrl-C, and whatever it starts inherits that; tests send Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

MOST_WORKERS = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers of `-n auto`: the cores that this process may use. Each worker takes about 1.5 GB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each idle worker the next test. All tests of a module that has fixtures of its own go to one worker, so that
    each fixture is made once. xdist's loadgroup does the same by a mark, but not under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def shares(module: str) -> bool:
        return 'scope="module"' in (config.rootpath / module).read_text(encoding="utf-8")

    class ByFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if shares(module) else nodeid

    config.option.loadscopereorder = False  # the workers' order: below
    return ByFixture(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Set up a process that runs tests: not the one that hands them out."""
    if session.config.pluginmanager.has_plugin("dsession"):
        return
    import torch

    from tests.support import profiles

    # The commands that tests start have one thread by the variable above; this process may have been given more.
    torch.set_num_threads(1)
    profiles.load()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several workers: the slow tests first, so that no worker waits long for another at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("slow", "distributed")))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays to the end: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The end of the interpreter collects all, or extensions tell of leaks."""
    gc.unfreeze()


TEXTS = [
    "Render the following Chinese text faithfully in English.",
    "The cat sat on the mat. A dog ran after the cat; the mat lay on the floor.",
    "Hotel amenities: airport pickup, breakfast included, luggage storage.",
    "今天天气很好，我们去公园散步。酒店提供早餐和机场接送。",
]


def make_tokenizer(*, add_bos: bool = True, add_eos: bool = False, vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the spot, with <s>, </s> and <pad>; ids are the same on every run."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if add_bos or add_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=("<s> " if add_bos else "") + "$A" + (" </s>" if add_eos else ""),
            special_tokens=[("<s>", 0), ("</s>", 1)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="right"
    )


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Adds BOS by itself, EOS not. Session-wide: do not change it."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_factory():
    """`make_tokenizer`, for tests that need another kind, or one of their own to change."""
    return make_tokenizer


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory) -> Iterator[None]:
    """Keep what is derived from input files out of the home of whoever runs the tests; processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def project(tmp_path_factory, tiny_tokenizer) -> Project:
    """A model directory with a tokenizer, a pool and seeds, tiny. Session-wide: copy what you change."""
    from tests.support.project_fixtures import make_project

    return make_project(tmp_path_factory.mktemp("project"), tiny_tokenizer)


@pytest.fixture(scope="session")
def finished(project, tmp_path_factory) -> Path:
    """The run directory of one uninterrupted `gdig.select` over the project. Session-wide: copy it to go on in it."""
    import gdig

    run_path = tmp_path_factory.mktemp("finished") / "run"
    gdig.select(**project.options(run_path))
    return run_path


@pytest.fixture(scope="session")
def whole(project, finished, tmp_path_factory) -> Path:
    """A finished run that also has the token files. Session-wide: copy it to go on in it."""
    import gdig

    run = Path(shutil.copytree(finished, tmp_path_factory.mktemp("whole") / "run"))
    gdig.select(**project.options(run, method="bm25"))
    return run


@pytest.fixture(scope="session")
def other(project, tmp_path_factory) -> Path:
    """A run like `whole` over other rows. Session-wide: copy it to go on in it."""
    import gdig
    from tests.support.project_fixtures import translation_rows, write_jsonl

    folder = tmp_path_factory.mktemp("other")
    pool = write_jsonl(folder / "pool.jsonl", translation_rows(random_seed=5))
    for method in ("agreement", "bm25"):
        gdig.select(**project.options(folder / "run", candidates=(str(pool),), method=method))
    return folder / "run"


@pytest.fixture(scope="session")
def swept(project, tmp_path_factory) -> Path:
    """A run directory over the project with generated numbers in its sweep, and clusters. Session-wide: copy it."""
    import gdig
    from tests.support.swept_run import make_swept

    options = project.options(tmp_path_factory.mktemp("swept") / "run")
    make_swept(options)
    return gdig.cluster(**options)


@pytest.fixture(scope="session")
def hostile(project, tmp_path_factory) -> Path:
    """A run over texts that try to leave their places in a page, with its report. Session-wide: copy it."""
    from tests.support.hostile_run import make_hostile

    return make_hostile(project, tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def swept_copy(swept, tmp_path) -> Path:
    """A swept run of one's own, for the methods: no model pass, and nothing chosen yet."""
    return Path(shutil.copytree(swept, tmp_path / "run"))


@pytest.fixture
def run_copy(finished, tmp_path) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def failing(project, tmp_path, capsys, monkeypatch):
    """Run a command that must fail as a user sees it: status 2, one message on stderr, no traceback, no temporary
    file. Returns the message. In this process, where an exception that is not explained would come through."""
    from gdig.cli.main import main
    from tests.support.project_fixtures import flags

    monkeypatch.delenv("GDIG_TRACEBACK", raising=False)

    def run(**changes) -> str:
        options = project.options(changes.pop("run_path", tmp_path / "run"), **changes)
        capsys.readouterr()
        assert main(["select", *flags(options)]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("gdig: error: ") and "Traceback" not in error
        assert list(tmp_path.rglob("*.tmp")) == []
        assert not (Path(options["run_path"]) / "selection.jsonl").exists()
        return error

    return run


@pytest.fixture
def model_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every batch that goes through a model."""
    from gdig.model.capture import GradientPass

    passes: list[int] = []
    run = GradientPass.run

    def counted(self: Any, batch: Any, sink: Any, states_sink: Any = None, **sinks: Any) -> Any:
        passes.append(len(batch.rows))
        return run(self, batch, sink, states_sink, **sinks)

    monkeypatch.setattr(GradientPass, "run", counted)
    return passes
