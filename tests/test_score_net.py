"""Self-Filter's score net: its loss and gradient against plain loops, what it learns, row numbers, checkpoints."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gdig.data.features import Features
from gdig.errors import ConfigError, ModelError, StoreError
from gdig.store.sketches import SketchStore
from gdig.training import ScoreNet, ScoreNetTrainer, difficulty
from gdig.training.score_net import weighted_loss
from gdig.training.trainer import SCORE_NET, last_saved_state
from tests.support.score_nets import auroc, padded, trainer
from tests.support.tiny_models import VOCAB, gpt2, llama, without_float32_norms


def rows_of_tokens(n: int, random_seed: int = 0, longest: int = 12) -> list[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(random_seed)
    rows = []
    for length in rng.integers(4, longest + 1, n):
        ids = torch.tensor(rng.integers(0, VOCAB, length))
        labels = ids.clone()
        labels[: length // 3] = -100
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def plain_loss(
    logits: np.ndarray, labels: np.ndarray, scores: np.ndarray, reduction: str, shift: bool
) -> tuple[float, list[float]]:
    """The loss, and its derivative by each row's f, one token at a time in float64."""
    sums, counts = [], []
    for line, row_labels in zip(logits.astype(np.float64), labels, strict=True):
        total, count = 0.0, 0
        for position, label in enumerate(row_labels):
            if label == -100 or (shift and position == 0):
                continue
            z = line[position - 1 if shift else position]
            total += math.log(math.fsum(math.exp(v - z.max()) for v in z)) + z.max() - z[label]
            count += 1
        sums.append(total)
        counts.append(count)
    used = [b for b, count in enumerate(counts) if count]
    powers = {b: math.exp(scores[b] - max(scores[used])) for b in used}
    weights = [powers.get(b, 0.0) / math.fsum(powers.values()) for b in range(len(sums))]
    if reduction == "mean":
        losses = [s / max(1, c) for s, c in zip(sums, counts, strict=True)]
    else:
        losses = [len(used) * s / sum(counts) for s in sums]
    loss = math.fsum(w * m for w, m in zip(weights, losses, strict=True))
    # d softmax: dw_c/df_b = w_c ((b == c) - w_b)
    return loss, [w * (m - loss) for w, m in zip(weights, losses, strict=True)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shift", [True, False])
def test_the_loss_and_its_gradient_are_the_plain_ones(reduction, shift):
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.standard_normal((5, 7, 11)) * 3, requires_grad=True)
    labels = torch.tensor(np.where(rng.random((5, 7)) < 0.4, -100, rng.integers(0, 11, (5, 7))))
    labels[2] = -100  # a row without a target: no part in the softmax
    labels[3, 1:] = -100
    labels[3, 0] = 4  # in a causal model the first token is no target
    scores = torch.tensor(rng.standard_normal(5) * 2, requires_grad=True)
    loss = weighted_loss(logits, labels, scores, reduction, shift)
    loss.backward()
    expected, gradient = plain_loss(logits.detach().numpy(), labels.numpy(), scores.detach().numpy(), reduction, shift)
    # Sums of less than a hundred float64 terms of size 10 or less: 100 * 10 * 2^-53 is 1e-13.
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(scores.grad, gradient, rtol=0, atol=1e-12)
    assert scores.grad[2] == 0 and (scores.grad[3] == 0) == shift
    assert logits.grad[2].abs().max() == 0


def test_equal_weights_give_the_mean_over_rows_or_over_tokens():
    logits = torch.randn(4, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(np.random.default_rng(0).integers(0, 9, (4, 6)))
    labels[1, 3:] = -100
    each = [
        torch.nn.functional.cross_entropy(x[:-1], y[1:], ignore_index=-100) for x, y in zip(logits, labels, strict=True)
    ]
    over_tokens = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 9), labels[:, 1:].reshape(-1))
    zeros = torch.zeros(4, dtype=torch.float64)
    torch.testing.assert_close(weighted_loss(logits, labels, zeros), torch.stack(each).mean())
    torch.testing.assert_close(weighted_loss(logits, labels, zeros, "sum"), over_tokens)


def test_a_batch_without_any_target_teaches_nothing():
    logits, scores = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, requires_grad=True)
    loss = weighted_loss(logits, torch.full((2, 3), -100), scores)
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all() and (scores.grad == 0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_compute_loss_goes_down_to_the_nets_weight(tmp_path, reduction):
    rng = np.random.default_rng(3)
    rows, x = rows_of_tokens(6), rng.standard_normal((6, 5)) * rng.uniform(0.01, 100, (6, 1))
    made = trainer(tmp_path, without_float32_norms(llama()).double(), rows, x, reduction=reduction)
    made.score_net.double()
    weight = rng.standard_normal(5) * 3
    made.score_net.weight.data.copy_(torch.tensor(weight))
    order = [4, 0, 3]
    batch = made.data_collator([made.train_dataset[i] for i in order])
    loss = made.compute_loss(made.model, batch)
    loss.backward()
    with torch.no_grad():
        logits = made.model(input_ids=batch["input_ids"]).logits
    units = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    z = (units - made.score_net.mean.numpy()) * made.score_net.scale.item()
    expected, by_f = plain_loss(logits.numpy(), batch["labels"].numpy(), (z @ weight / 5)[order], reduction, True)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(made.score_net.weight.grad, np.array(by_f) @ z[order] / 5, rtol=0, atol=1e-12)


def test_the_net_sees_directions_of_root_mean_square_one():
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((50, 7)) + 3) * rng.uniform(1e-3, 1e3, (50, 1))
    x[5] = 0
    net = ScoreNet.of(Features(x))
    length = np.linalg.norm(x, axis=1, keepdims=True)
    units = x / np.where(length > 0, length, 1)
    z = (units - units.mean(0)) * net.scale.item()
    # Entries of units and mean are rounded to float32 once: 2^-24 of at most 1, and as much again by the scale.
    np.testing.assert_allclose(net.mean, units.mean(0), rtol=0, atol=2**-23)
    assert (z * z).mean() == pytest.approx(1, rel=1e-5)
    net.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    learned = difficulty(net, x)
    assert learned.dtype == np.float32 and learned.shape == (50,)
    np.testing.assert_allclose(learned, -z @ net.weight.detach().double().numpy() / 7, rtol=0, atol=1e-5)


def test_the_scale_of_the_features_has_no_say(tmp_path):
    rows, x = rows_of_tokens(12), np.random.default_rng(2).standard_normal((12, 6)).astype(np.float32)
    learned = []
    for features in (x, x * 2.0**20, x.astype(np.float64) * 2.0**-300):
        made = trainer(tmp_path, llama(), rows, features)
        made.train()
        learned.append(difficulty(made.score_net, features))
    assert len(np.unique(learned[0])) == 12
    assert (learned[0] == learned[1]).all() and (learned[0] == learned[2]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "float32"])
def test_features_of_a_store_are_its_sketches(tmp_path, dtype):
    x = np.random.default_rng(4).standard_normal((23, 6)).astype(np.float32) * 50
    with SketchStore.create(tmp_path, 6, dtype=dtype, rows_per_shard=5) as store:
        store.append(x)
    rows = np.array([22, 3, 4, 5, 17, 0])
    features = Features(SketchStore.open(tmp_path), rows)
    assert (len(features), features.dim) == (6, 6)
    whole = np.concatenate([store.rows_float32(shard) for shard in store.shards]).astype(np.float64)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    at = np.array([5, 1, 0, 3])
    np.testing.assert_allclose(features.units(at), whole[rows[at]], rtol=0, atol=2**-23)


def noisy_task(n: int = 160) -> tuple[list[dict[str, torch.Tensor]], np.ndarray, np.ndarray]:
    """Rows that count in a circle, which is learnt at once, but every fourth is random tokens. One of the 16 features
    tells them apart, if badly."""
    rng = np.random.default_rng(0)
    noisy = np.arange(n) % 4 == 0
    rows = []
    for is_noise in noisy:
        length = int(rng.integers(8, 20))
        ids = rng.integers(1, VOCAB, length) if is_noise else (rng.integers(1, 8) + np.arange(length)) % 8 + 1
        rows.append({"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)})
    x = rng.standard_normal((n, 16))
    x[:, 0] += np.where(noisy, 1.0, -1.0)
    return rows, x * rng.uniform(0.1, 10, (n, 1)), noisy


def test_rows_that_nobody_can_learn_end_as_the_harder_ones(tmp_path):
    """Their features alone, known to the full, tell them apart with an AUROC of 0.92; a net that learnt nothing stays
    within 3 standard errors, 0.16, of a half."""
    rows, x, noisy = noisy_task()
    made = trainer(
        tmp_path, llama(), rows, x, per_device_train_batch_size=8, num_train_epochs=4, learning_rate=3e-3, seed=0
    )
    made.train()
    learned = difficulty(made.score_net, x)
    assert auroc(learned, noisy) > 0.8
    assert learned[noisy].mean() > learned[~noisy].mean()


def test_row_numbers_stay_with_their_rows(tmp_path):
    """Shuffled, through a collator that knows nothing of them and turns items of its own kind around."""
    n = 22
    rows = [("text", [row, row, 40], f"image {row}") for row in range(n)]
    x = np.eye(n)
    seen: list[int] = []

    def collate(items: list[Any]) -> dict[str, torch.Tensor]:
        assert all(kind == "text" and image == f"image {ids[0]}" for kind, ids, image in items)
        ids = torch.tensor([ids for _, ids, _ in items])
        return {"input_ids": ids, "labels": ids.clone()}

    made = trainer(tmp_path, llama(), rows, x, collator=collate, num_train_epochs=2, remove_unused_columns=False)
    compute = made.compute_loss

    def watched(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        named = inputs["input_ids"][:, 0].tolist()
        (units,) = [value for value in inputs.values() if value.is_floating_point()]
        assert units.argmax(1).tolist() == named
        seen.extend(named)
        return compute(model, inputs, *args, **kwargs)

    made.compute_loss = watched
    made.train()
    assert sorted(seen) == sorted(2 * list(range(n)))
    assert seen[:n] != sorted(seen[:n]) and seen[:n] != seen[n:], "the order must be shuffled, or nothing is tested"


@pytest.mark.parametrize("removed", [True, False])
def test_columns_that_the_model_does_not_take(tmp_path, removed):
    rows = [{**row, "note": "of the user"} for row in rows_of_tokens(4)]
    keys: set[str] = set()

    def collate(items: list[Any]) -> dict[str, torch.Tensor]:
        keys.update(*items)
        return padded(items)

    trainer(tmp_path, llama(), rows, np.eye(4), collator=collate, remove_unused_columns=removed).train()
    assert keys == {"input_ids", "labels"} | (set() if removed else {"note"})


def test_accumulated_batches_have_weights_of_their_own(tmp_path):
    """Two batches of 3 in one step leave the mean of their gradients, and the next step starts from nothing."""
    rows, x = rows_of_tokens(12), np.random.default_rng(5).standard_normal((12, 4))
    made = trainer(tmp_path, llama(), rows, x, per_device_train_batch_size=3, gradient_accumulation_steps=2)
    steps: list[np.ndarray] = []
    alone: list[np.ndarray] = []
    compute, net = made.compute_loss, made.score_net

    def watched(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(model, inputs, *args, **kwargs)
        alone.append(torch.autograd.grad(loss, net.weight, retain_graph=True)[0].numpy())
        return loss

    made.compute_loss = watched
    made.create_optimizer().register_step_pre_hook(lambda *_: steps.append(net.weight.grad.numpy().copy()))
    made.train()
    assert len(alone) == 4 and len(steps) == 2
    for number, gradient in enumerate(steps):
        # Float32 sums of a few terms, twice in another order.
        np.testing.assert_allclose(gradient, (alone[2 * number] + alone[2 * number + 1]) / 2, rtol=1e-5, atol=1e-9)


def spread_out(folder: Path, accumulated: int) -> ScoreNetTrainer:
    """A training of 4 steps; two processes with a batch each do what one does with two."""
    x = np.random.default_rng(8).standard_normal((24, 6))
    return trainer(
        folder, llama(), rows_of_tokens(24), x, per_device_train_batch_size=3,
        gradient_accumulation_steps=accumulated,
    )  # fmt: skip


def be_a_rank(rank: int, port: int, folder: str) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    made = spread_out(Path(folder), 1)
    assert made.args.world_size == 2
    made.train()
    np.save(f"{folder}/{rank}.npy", made.score_net.weight.detach().numpy())


@pytest.mark.distributed
def test_two_processes_do_what_one_does_that_accumulates(tmp_path):
    alone = spread_out(tmp_path / "alone", 2)
    alone.train()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    forking = multiprocessing.get_context("forkserver")
    processes = [forking.Process(target=be_a_rank, args=(rank, port, str(tmp_path))) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    ranks = [np.load(tmp_path / f"{rank}.npy") for rank in (0, 1)]
    assert (ranks[0] == ranks[1]).all()
    # Adam divides a gradient by its own size, so its rounding (1e-6 of it, sums in another order) stays relative: over
    # 4 steps of at most 0.01 each, 4e-8, unless an entry's gradients cancel, where a few times as much is left.
    np.testing.assert_allclose(ranks[0], alone.score_net.weight.detach().numpy(), rtol=0, atol=1e-6)
    assert np.abs(ranks[0]).min() > 1e-4


def test_the_net_has_its_own_learning_rate(tmp_path):
    made = trainer(tmp_path, llama(), rows_of_tokens(8), np.eye(8), score_lr=0.25, weight_decay=0.1)
    groups = made.create_optimizer().param_groups
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 0.25]
    assert groups[2]["params"] == [made.score_net.weight] and groups[2]["weight_decay"] == 0
    assert made.create_optimizer().param_groups == groups, "no second time"


def test_evaluation_weighs_all_rows_the_same(tmp_path):
    rows = rows_of_tokens(6, random_seed=1)
    made = trainer(tmp_path, llama(), rows_of_tokens(4), np.eye(4), per_device_eval_batch_size=2)
    made.score_net.weight.data += 5
    loss = made.evaluate(rows)["eval_loss"]
    with torch.no_grad():
        each = [
            torch.nn.functional.cross_entropy(
                made.model(input_ids=r["input_ids"][None]).logits[0, :-1], r["labels"][1:]
            )
            for r in rows
        ]
    assert loss == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)


def weights(made: ScoreNetTrainer) -> dict[str, torch.Tensor]:
    return {**made.model.state_dict(), "score net": made.score_net.weight.detach()}


@pytest.mark.slow
@pytest.mark.parametrize("newer", ["none", "killed", "damaged"])
def test_a_training_that_goes_on_ends_the_same(tmp_path, newer):
    """In the middle of an epoch, with dropout, and with the moments of both learning rates."""
    rows, x = rows_of_tokens(26), np.random.default_rng(6).standard_normal((26, 8))
    options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 5, "gradient_accumulation_steps": 1}
    whole = trainer(tmp_path / "whole", gpt2(), rows, x, **options)
    whole.train()
    assert whole.state.max_steps == 21 and last_saved_state(tmp_path / "whole").endswith("checkpoint-21")
    begun = tmp_path / "begun"
    shutil.copytree(tmp_path / "whole" / "checkpoint-10", begun / "checkpoint-10")
    if newer != "none":
        state = Path(shutil.copytree(tmp_path / "whole" / "checkpoint-15", begun / "checkpoint-15"))
        if newer == "killed":  # before the net was written
            (state / SCORE_NET).unlink()
            (state / "optimizer.pt").write_bytes(b"")
        else:
            content = bytearray((state / "model.safetensors").read_bytes())
            content[-3] ^= 16
            (state / "model.safetensors").write_bytes(content)
            warnings: list[str] = []
            assert last_saved_state(begun, warnings.append) == str(begun / "checkpoint-10")
            assert "checkpoint-15/model.safetensors: checksum: expected" in warnings[0]
            with pytest.raises(StoreError, match=r"checkpoint-15/model\.safetensors: checksum"):
                trainer(begun, gpt2(), rows, x, **options).train(resume_from_checkpoint=str(state))
    again = trainer(begun, gpt2(), rows, x, **options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 21
    expected = weights(whole)
    for name, tensor in weights(again).items():
        assert torch.equal(tensor, expected[name]), name
    assert again.score_net.weight.abs().min() > 0


def test_checkpoints_that_cannot_be_gone_on_from(tmp_path):
    made = trainer(tmp_path, llama(), rows_of_tokens(8), np.eye(8))
    with pytest.raises(ConfigError, match=f"no saved state to resume from, expected checkpoint-STEP/{SCORE_NET}"):
        made.train(resume_from_checkpoint=True)
    ScoreNet(3).save(tmp_path / "checkpoint-1" / SCORE_NET, {"sums": "{}"})
    with pytest.raises(ModelError, match=r"expected the tensors .*'weight': \[8\].* of a score net, got"):
        made.train(resume_from_checkpoint=True)


def test_a_saved_net_is_the_same(tmp_path):
    x = np.random.default_rng(7).standard_normal((9, 4))
    net, other = ScoreNet.of(Features(x)), ScoreNet(4)
    net.weight.data.normal_()
    net.save(tmp_path / "net.safetensors", {"training": json.dumps({})})
    other.load(tmp_path / "net.safetensors")
    assert (difficulty(other, x) == difficulty(net, x)).all()


BAD_FEATURES = {
    "shorter": (np.eye(8)[:7], "features: expected 8 rows, as many as train_dataset, got 7"),
    "flat": (np.zeros(8), r"features: expected an array \[rows, any\] of floats, got float64 \[8\]"),
    "whole": (np.eye(8, dtype=np.int64), "of floats, got int64"),
    "nan": (np.where(np.arange(64).reshape(8, 8) == 30, np.nan, 1.0), "features: row 3: expected finite numbers"),
    "alike": (np.outer(np.arange(1.0, 9), np.ones(3)), "all rows have the same direction"),
    "none": (None, "expected an array"),
}


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_bad_features(tmp_path, case):
    features, message = BAD_FEATURES[case]
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, llama(), rows_of_tokens(8), features)


def test_bad_arguments(tmp_path):
    rows = rows_of_tokens(8)
    with pytest.raises(ConfigError, match="per_device_train_batch_size: expected at least 2 rows"):
        trainer(tmp_path, llama(), rows, np.eye(8), per_device_train_batch_size=1)
    with pytest.raises(ConfigError, match="at least 2 rows to compare, got 1"):
        trainer(tmp_path, llama(), rows[:1], np.eye(1))
    with pytest.raises(ConfigError, match="train_dataset: expected a dataset with a length and rows by number, got "):
        trainer(tmp_path, llama(), iter(rows), np.eye(8))


BAD_COLLATORS = {
    "no labels": (
        lambda items: {"input_ids": padded(items)["input_ids"]},
        "data_collator: expected labels, got only input_ids",
    ),
    "list": (lambda items: [padded(items)], "expected one that returns a mapping, got list"),
    "one line": (
        lambda items: {name: x.reshape(1, -1)[:, :40] for name, x in padded(items).items()},
        "expected a line of labels for each row",
    ),
    "shorter": (
        lambda items: {name: x[:, int(name == "labels") :] for name, x in padded(items).items()},
        r"a label for each position of the logits, got labels \[4, \d+\] and logits \[4, \d+, 48\]",
    ),
}


@pytest.mark.parametrize("case", BAD_COLLATORS)
def test_bad_collators(tmp_path, case):
    collate, message = BAD_COLLATORS[case]
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, llama(), rows_of_tokens(8), np.eye(8), collator=collate).train()
