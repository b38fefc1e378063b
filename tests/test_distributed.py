"""Several processes at one run: the same bytes as one process leaves, and one clear word when something goes wrong.

Runs that fail are started by torchrun, because its agent ends ranks too. Their ranks are forked from it, but for one
that starts as a user's does: importing torch takes seconds. The others have the environment that torchrun makes.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig

import gdig
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.distributed.torchrun import TorchrunRanks
from gdig.errors import GdigError, OtherRankError, RunError
from tests.support.project_fixtures import flags, llama_module, stages, translation_rows, write_jsonl
from tests.support.torchrun import Launch, files_of, finish_on_ranks, free_port, start_ranks
from tests.support.training import train

ROWS = 240
# Many small batches, so that every group of the fit has some; many shards, so that there is time to kill a rank.
OPTIONS = {"token_batch_size": 64, "rows_per_shard": 4, "fit_tokens": 2350, "train_rows": "all"}


@pytest.fixture(scope="module")
def inputs(project, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("several")
    module = llama_module(AutoConfig.from_pretrained(project.model).vocab_size)
    checkpoint = train(module, folder, 100).args.output_dir + "/checkpoint-2"
    pool = str(write_jsonl(folder / "pool.jsonl", translation_rows(ROWS)))
    return {**OPTIONS, "candidates": (pool,), "checkpoints": (checkpoint,)}


@pytest.fixture(scope="module")
def alone(project, inputs, tmp_path_factory) -> Path:
    """The run of one process."""
    run_path = tmp_path_factory.mktemp("alone") / "run"
    gdig.select(**project.options(run_path, **inputs))
    return run_path


@pytest.mark.distributed
def test_killed_ranks_are_named_and_other_numbers_of_ranks_go_on_to_the_same_bytes(project, inputs, alone, tmp_path):
    """Three ranks lose rank 1. Then two nodes go on, each with a launcher of its own as on two machines with a common
    disk, and lose rank 0. Then two ranks on two nodes end the run."""
    run_path = tmp_path / "run"
    args = ["select", *flags(project.options(run_path, **inputs))]
    launch = Launch.start(3, args, tmp_path / "three")
    launch.wait_for(lambda: (run_path / "sweep" / "00000004.safetensors").exists())
    os.kill(launch.pid(1), signal.SIGKILL)
    assert launch.wait() != 0
    (line,) = launch.said()
    assert line.startswith("gdig: error: rank 1 is lost: process ") and "ended without a message (killed?)" in line
    assert "its last activity: sweep, " in line and "the same command continues from here [G" in line
    swept = shards_of(run_path)
    # A later shard of another rank may be there before an earlier one.
    assert 0 < len(swept) < ROWS // 4, "the kill must hit a running sweep, or nothing is tested"
    # Three ranks made the fit.
    fitted = [name for name in files_of(alone) if name.startswith(("curvature", "seeds"))]
    assert fitted
    for name in fitted:  # the files say that they are of another pool
        expected, made = load_file(alone / name), load_file(run_path / name)
        assert expected.keys() == made.keys() and all(np.array_equal(expected[key], made[key]) for key in made), name

    at = ("--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    launches = [Launch.start(1, args, tmp_path / f"killed{i}", (*at, "--node-rank", str(i))) for i in (0, 1)]
    launches[0].wait_for(lambda: len(shards_of(run_path)) > len(swept))
    os.kill(launches[0].pid(0), signal.SIGKILL)
    assert all(launch.wait() != 0 for launch in launches)
    (line,) = launches[1].said()
    assert line.startswith("gdig: error: rank 0 is lost: "), line
    assert "the same command continues from here [G" in line
    assert stages(run_path)["sweep"]["state"] == "running"
    assert swept.items() < shards_of(run_path).items(), "a second start makes no shard of the first again"
    swept = shards_of(run_path)

    finish_on_ranks(2, args, tmp_path / "again", nodes=2)
    assert swept.items() <= shards_of(run_path).items()
    assert files_of(run_path) == files_of(alone)


def shards_of(run_path: Path) -> dict[str, int]:
    """The shards of a run's sweep by name, with the time when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (run_path / "sweep").glob("*.safetensors")}


@pytest.mark.distributed
def test_two_ranks_fit_alike_and_rank_0_alone_shows_it(project, inputs, alone, tmp_path):
    run_path = tmp_path / "run"
    unknown = ("rows_per_shard", "projection_dim", "projection_side", "checkpoints")
    options = {k: v for k, v in sweep_options(project, run_path, inputs).items() if k not in unknown}
    ranks = start_ranks(2, ["fit", *flags({**options, "quiet": False})], tmp_path / "two")
    assert [rank.wait() for rank in ranks] == [0, 0]
    text = "".join(rank.error for rank in ranks)
    assert sum("fit: factors: " in rank.error for rank in ranks) == 1 and text.count("model: ") == 1
    fitted = {name: data for name, data in files_of(alone).items() if name.startswith(("curvature", "seeds"))}
    assert fitted and fitted.items() <= files_of(run_path).items()


@pytest.mark.distributed
def test_a_bad_row_is_told_once(project, inputs, tmp_path):
    rows = translation_rows(ROWS)
    for row in (8, 9, ROWS // 2, ROWS // 2 + 1):  # of two parts: each rank may meet one
        rows[row]["trg_text"] = ""
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    args = ["select", *flags(project.options(tmp_path / "run", **{**inputs, "candidates": (str(pool),)}))]
    ranks = start_ranks(2, args, tmp_path / "two")
    assert [rank.wait() for rank in ranks] == [2, 2]
    (line,) = (line for rank in ranks for line in rank.error.splitlines() if line.startswith("gdig: "))
    assert (
        line.startswith(("gdig: error: rank 1: ", "gdig: error: ")) and f"{pool}, row " in line and "trg_text" in line
    )


@pytest.mark.distributed
def test_ctrl_c_ends_all_with_130_and_one_word(project, inputs, alone, tmp_path):
    run_path = tmp_path / "run"
    launch = Launch.start(
        2, ["sweep", *flags(sweep_options(project, run_path, inputs))], tmp_path / "two", by_exec=(0,)
    )
    launch.wait_for(lambda: len(shards_of(run_path)) > 2)
    launch.send(signal.SIGINT)
    assert launch.wait() != 0
    assert launch.said() == ["interrupted; the same command goes on from here"]
    swept = {name: data for name, data in files_of(run_path).items() if re.match("sweep/[0-9]", name)}
    assert 2 < len(swept) <= ROWS // 4 and swept.items() <= files_of(alone).items()
    assert list(run_path.rglob("*.tmp")) == []


def sweep_options(project, run_path, inputs) -> dict:
    unknown = ("n_clusters", "budget", "report", "method", "tau", "train_rows")
    return {k: v for k, v in project.options(run_path, **inputs).items() if k not in unknown}


def test_the_entry_points_alone_import_the_launcher():
    """Everything else works with the interface, `Ranks`: importing it, or `Exchange`, loads no torchrun."""
    package = Path(gdig.__file__).parent
    files = [file for file in package.rglob("*.py") if "gdig.distributed.torchrun import" in file.read_text("utf-8")]
    assert sorted(str(file.relative_to(package)) for file in files) == [
        "api.py", "cli/main.py", "cli/stop.py", "showing.py",
    ]  # fmt: skip


# The ranks' words, in threads of this process.


def together(n: int, work: Callable[[TorchrunRanks], object]) -> list:
    """Run `work` as n ranks, in threads; return what each returned or raised."""
    port = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    results: list = [None] * n

    def be(rank: int) -> None:
        store = torch.distributed.TCPStore("localhost", port.port, is_master=False, wait_for_workers=False)
        try:
            ranks = TorchrunRanks(torch.distributed.PrefixStore("t", store), rank, n, wake=lambda: None)
        except OtherRankError as error:  # another rank has failed before this one joined
            results[rank] = error
            return
        try:
            results[rank] = work(ranks)
        except BaseException as error:
            results[rank] = ranks.fail(error)
        else:
            ranks.close()

    threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_values_come_by_rank_and_numbers_go_to_one_rank_each():
    def work(ranks: TorchrunRanks) -> tuple:
        if ranks.main:
            ranks.task("add", x=0.1 + 0.2)
            task = ("add", {"x": 0.1 + 0.2})
        else:
            task = next(ranks.tasks())
        gathered = ranks.gather([ranks.rank, 1 / 3])
        return task, gathered, list(ranks.claim(20)), list(ranks.claim(3)), ranks.first_to_say("a word")

    results = together(3, work)
    assert [result[0] for result in results] == [("add", {"x": 0.1 + 0.2})] * 3
    assert [result[1] for result in results] == [[[0, 1 / 3], [1, 1 / 3], [2, 1 / 3]]] * 3
    assert sorted(number for result in results for number in result[2]) == list(range(20))
    assert sorted(number for result in results for number in result[3]) == list(range(3))
    assert sum(result[4] for result in results) == 1


def test_rank_0_shows_what_all_have_done():
    class Counting:
        done = 0

        tokens = skipped = 0

        def advance(self, k: int, note: str = "", *, tokens: int = 0) -> None:
            self.done += k
            self.tokens += tokens

        def skip(self, k: int, *, tokens: int = 0) -> None:
            self.skipped += k

    def work(ranks: TorchrunRanks) -> tuple[int, int, int]:
        shown = Counting()
        bar = ranks.shared_bar(shown)
        bar.skip(5 * ranks.rank)
        for _ in range(10 * (ranks.rank + 1)):
            bar.advance(2, tokens=7)
        ranks.gather(None, bar)
        return shown.done, shown.tokens, shown.skipped

    assert together(3, work) == [(120, 420, 15), (0, 0, 0), (0, 0, 0)]


def test_the_first_failure_is_told_and_ends_the_others_with_its_status():
    def work(ranks: TorchrunRanks) -> None:
        if ranks.rank == 1:
            raise RunError("the disk is full")
        ranks.gather(None)

    first, failed, third = together(3, work)
    assert isinstance(failed, RunError) and str(failed) == "rank 1: the disk is full"
    for other in (first, third):
        assert isinstance(other, OtherRankError) and other.status == 2


def test_an_interrupted_rank_ends_all_with_130():
    def work(ranks: TorchrunRanks) -> None:
        if ranks.main:
            raise KeyboardInterrupt
        ranks.gather(None)

    interrupted, other = together(2, work)
    assert isinstance(interrupted, KeyboardInterrupt)
    assert isinstance(other, OtherRankError) and other.status == 130


def test_a_rank_whose_process_is_gone_is_named_with_what_it_did(monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def work(ranks: TorchrunRanks) -> None:
        ranks.doing("sweep, rows 5 to 9")
        ranks.gather(None)
        ranks.heartbeat.processes[1] = replace(ranks.heartbeat.processes[1], pid=gone.pid)
        if ranks.main:
            raise RuntimeError("Connection closed by peer")
        with pytest.raises(OtherRankError):
            ranks.gather(None)

    zero, _ = together(2, work)
    assert isinstance(zero, RunError)
    assert str(zero).startswith(f"rank 1 is lost: process {gone.pid} on ")
    assert "its last activity: sweep, rows 5 to 9" in str(zero)


def test_a_rank_that_falls_silent_counts_as_lost(monkeypatch):
    monkeypatch.setattr("gdig.distributed.heartbeat._SILENCE_S", 0.3)
    monkeypatch.setattr("gdig.distributed.heartbeat._BEAT_S", 0.05)
    heard = threading.Event()

    def work(ranks: TorchrunRanks) -> None:
        if ranks.rank == 1:
            ranks.heartbeat.stop()
            heard.wait(30)
            return
        lost = ranks.heartbeat.lost_rank(20)
        heard.set()
        assert lost is not None
        raise lost

    zero, _ = together(2, work)
    assert isinstance(zero, GdigError) and "rank 1 is lost" in str(zero) and "has been silent for" in str(zero)


@pytest.mark.parametrize(("n", "world"), [(0, 3), (2, 3), (5, 1), (7, 3), (64, 8)])
def test_shares_follow_one_another_and_are_even(n, world):
    shares = []
    for rank in range(world):
        ranks = Ranks()
        ranks.rank, ranks.world = rank, world
        shares.append(ranks.share(n))
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_parts_are_added_in_order_by_one_process_too():
    exchange, totals = Exchange(Ranks(), torch.device("cpu")), [None]
    terms = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 3, 3)).astype(np.float32))
    expected = terms[0].clone()
    for term in terms[1:]:
        expected += term
    for term in terms:
        exchange.add_in_order([term], totals, [0], 1)
    assert torch.equal(totals[0], expected)
    assert totals[0].data_ptr() != terms[0].data_ptr()


class Queues:
    """The processes of a k-means fit, as threads."""

    def __init__(self, rank: int, world: int, given: list[queue.Queue], sent: list[queue.Queue]) -> None:
        self.rank, self.world, self.given, self.sent = rank, world, given, sent
        self.received = 0

    def give(self, centroids: np.ndarray) -> None:
        for rank_queue in self.given[1:]:
            rank_queue.put(centroids.copy())

    def take(self) -> np.ndarray | None:
        return self.given[self.rank].get()

    def send(self, content: np.ndarray) -> None:
        self.sent[self.rank].put(content.copy())

    def receive(self, source: int, n_bytes: int) -> np.ndarray:
        self.received += 1
        return self.sent[source].get()

    def end(self) -> None:
        for rank_queue in self.given[1:]:
            rank_queue.put(None)


def shared_fit(world: int, x: np.ndarray, **options) -> tuple[gdig.KMeans, Queues]:
    given, sent = [queue.Queue() for _ in range(world)], [queue.Queue() for _ in range(world)]
    models = [gdig.KMeans(n_threads=1 + rank, **options) for rank in range(world)]
    ranks = [Queues(rank, world, given, sent) for rank in range(world)]
    threads = [threading.Thread(target=models[i].fit_shared, args=(x, ranks[i]), daemon=True) for i in range(1, world)]
    for thread in threads:
        thread.start()
    models[0].fit_shared(x, ranks[0])
    for thread in threads:
        thread.join()
    return models[0], ranks[0]


@pytest.mark.parametrize("train_rows", ["all", 290_000])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_fit_k_means_to_the_bits_of_one(world, train_rows):
    """Three waves of chunks and a piece, dealt to 2 or 3 ranks; some clusters start empty, and one row is far away."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3 * 16 * 8192 + 5, 3)).astype(np.float32)
    x[-1] = 1000
    start = np.concatenate([x[:6], np.full((2, 3), 500, np.float32) + np.arange(2)[:, None].astype(np.float32)])
    options = {"n_clusters": 8, "init": start, "max_iter": 4, "tol": 0.0, "train_rows": train_rows}
    alone = gdig.KMeans(**options).fit(x)
    model, ranks = shared_fit(world, x, **options)
    assert ranks.received > 4 * 16, "the other ranks must have done a part"
    np.testing.assert_array_equal(model.cluster_centers_, alone.cluster_centers_)
    np.testing.assert_array_equal(model.counts_, alone.counts_)
    assert (model.inertia_, model.n_iter_) == (alone.inertia_, alone.n_iter_)


def test_what_another_rank_raises_ends_the_fit():
    class Gone(Queues):
        def receive(self, source: int, n_bytes: int) -> np.ndarray:
            raise OtherRankError(2)

    with pytest.raises(OtherRankError):
        gdig.KMeans(2, train_rows="all").fit_shared(
            np.zeros((20 * 8192, 2), np.float32) + np.arange(2, dtype=np.float32),
            Gone(0, 2, [queue.Queue(), queue.Queue()], []),
        )

    class Short(Queues):
        def receive(self, source: int, n_bytes: int) -> np.ndarray:
            return np.zeros(n_bytes - 1, np.uint8)

    with pytest.raises(GdigError, match="sums of another shape"):
        gdig.KMeans(2, train_rows="all").fit_shared(
            np.zeros((20 * 8192, 2), np.float32) + np.arange(2, dtype=np.float32),
            Short(0, 2, [queue.Queue(), queue.Queue()], []),
        )
