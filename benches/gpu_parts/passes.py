"""The sweep as a user's run does it, beside the plain forward and backward of the same model, in turn.

Each model is profiled besides: where the device's time goes, how many kernels are launched a batch, and how often the
host waits for the device inside a batch.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PretrainedConfig

from benches.gpu_parts.predictions import OF_SORTED, TARGETS_TOKENS, TOKENS_PER_SECOND, beside
from benches.gpu_parts.profiles import profile
from benches.sweep_parts.plain_passes import file_order, padding, plain_pass, rectangles, trainable
from benches.sweep_parts.random_examples import make_examples, make_lengths
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.seed_factors import SeedFactors
from gdig.model.batches import make_batches
from gdig.model.causal_model import wrap_model
from gdig.passes.encode_ahead import EncodedShard
from gdig.passes.influence_pass import make_influence_pass
from gdig.passes.row_pass import RowPass
from gdig.progress import Progress

QUIET = Progress(quiet=True)
SEEDS, RANK = 256, 32

# name: (sketch / plain in file order, sketch / plain sorted, sketch and seeds / plain sorted), at most.
SMALL, LARGE = (0.60, 0.65, 1.00), (0.60, 0.65, 0.85)
TARGETS = {"160M": SMALL, "SmolLM2-135M": SMALL, "1B": LARGE, "1B Llama": LARGE}


@dataclass(frozen=True)
class Size:
    """A model of random weights, and how much of it a round takes."""

    name: str
    config: PretrainedConfig
    blocks: int
    down: str
    examples: int
    token_batch_size: int
    compiled: bool = False
    shards: int = 0
    """Shards of another pass, once with the last batches of a shard during the next one, and once without."""


def sizes(quick: bool) -> list[Size]:
    """GPT-NeoX with the shapes of Pythia 160M and 1B, and Llamas of 135M and 1B; quick: both architectures, tiny."""
    if quick:
        return [
            Size("tiny NeoX", _neox(32, 64, 2, 2, 512), 2, "dense_4h_to_h", 24, 512, compiled=True),
            Size("tiny Llama", _llama(32, 64, 2, 2, 512), 2, "down_proj", 24, 512, shards=3),
        ]
    return [
        Size("160M", _neox(768, 3072, 12, 12, 50_304), 12, "dense_4h_to_h", 4096, 32_768, compiled=True),
        Size("SmolLM2-135M", _llama(576, 1536, 30, 9, 49_152), 30, "down_proj", 2048, 16_384, compiled=True, shards=4),
        Size("1B", _neox(2048, 8192, 16, 8, 50_304), 16, "dense_4h_to_h", 1024, 16_384),
        Size("1B Llama", _llama(2048, 8192, 16, 32, 128_256), 16, "down_proj", 512, 16_384),
    ]


def measure_passes(device: torch.device, seconds: float, rounds: int, *, quick: bool = False) -> list[dict[str, Any]]:
    """The figures of each model, as far as the time goes.

    A model that runs out of memory is tried with batches half as large, all passes alike, and says so.
    """
    end, rows, todo = time.monotonic() + seconds, [], sizes(quick)
    for number, size in enumerate(todo):
        if time.monotonic() > end:
            print(f"not measured: {size.name}: no time left", flush=True)
            continue
        stop = time.monotonic() + (end - time.monotonic()) / (len(todo) - number)
        while True:
            try:
                rows.append(measure_model(size, device, rounds, stop))
                break
            except torch.OutOfMemoryError as error:
                print(f"{size.name}: {str(error)[:120]}; half of {size.token_batch_size} tokens", flush=True)
                size = replace(size, token_batch_size=size.token_batch_size // 2)
                if size.token_batch_size < 1024:
                    rows.append({"model": size.name, "fault": str(error)[:200]})
                    break
            gc.collect()
            torch.cuda.empty_cache()
        print(sweep_table(rows[-1]), flush=True)
    return rows


def sweep_table(figures: dict[str, Any]) -> str:
    """One model's figures."""
    if "fault" in figures:
        return f"{figures['model']}: {figures['fault']}"
    predicted, of_sorted = beside(figures["predicted_tokens_per_second"]), beside(figures["predicted_of_sorted"])
    lines = [
        f"{figures['model']}: {figures['parameters'] / 1e6:.0f}M parameters, {figures['tokens']} tokens, batches of "
        f"{figures['token_batch_size']}, pads {figures['pads']['file order']:.0%} in file order, "
        f"{figures['pads']['sorted']:.0%} sorted; predicted of the sketch: {predicted} tokens/s, {of_sorted} of sorted",
        "| pass | tokens/s | of plain, file order | of plain, sorted | peak GiB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, result in figures["passes"].items():
        peak = "" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 2**30:.2f}"
        ratios = f"{result['of_file_order']:.3f} | {result['of_sorted']:.3f}"
        lines.append(f"| {name} | {result['tokens_per_second']:,.0f} | {ratios} | {peak} |")
    for target in figures["targets"]:
        verdict = "met" if target["met"] else "MISSED"
        lines.append(f"{verdict}: {target['pass']}, {target['what']}: {target['measured']:,.3f}, {target['target']:,}")
    return "\n".join(lines)


def measure_model(size: Size, device: torch.device, rounds: int, end: float) -> dict[str, Any]:
    """Tokens a second and peak memory of each pass; medians of `rounds` in turn, fewer when the time is up."""
    gc.collect()  # the model before, whose hooks make cycles
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    examples = make_examples(make_lengths(size.examples), size.examples, size.config.vocab_size)
    window = size.config.max_position_embeddings
    plain, ordered = file_order(examples), rectangles(examples, size.token_batch_size, window)
    module = trainable(build(size.config, device, dtype))
    passes: dict[str, Callable[[], object]] = {
        "plain, file order": lambda: plain_pass(module, plain),
        "plain, sorted": lambda: plain_pass(module, ordered),
        "sketch": _sweep(size, device, dtype, examples, 0),
        f"sketch, {SEEDS} seeds": _sweep(size, device, dtype, examples, SEEDS),
    }
    if size.compiled:
        passes["sketch, compiled"] = _sweep(size, device, dtype, examples, 0, torch_compile=True)
    if size.shards:
        sweeper, spans = _sweeper(size, device, dtype, 0), _spans(examples, size, window)
        passes[f"sketch, {size.shards} shards"] = lambda: _pass_shards(sweeper, spans, overlap=True)
        passes[f"sketch, {size.shards} shards, each to its end"] = lambda: _pass_shards(sweeper, spans, overlap=False)
    times: dict[str, list[float]] = {name: [] for name in passes}
    peaks = {}
    for name, run in passes.items():  # not counted: kernels are compiled, memory is taken
        peaks[name] = _peak(device, run)
    for turn in range(rounds):
        if turn and time.monotonic() > end:
            break
        for name, run in passes.items():
            times[name].append(_seconds(device, run))
    tokens = sum(len(example) for example in examples)
    seconds = {name: statistics.median(runs) for name, runs in times.items()}
    pads = {"file order": padding(plain, examples), "sorted": padding(ordered, examples)}
    figures = {
        "model": size.name, "parameters": sum(p.numel() for p in module.parameters()), "examples": len(examples),
        "tokens": tokens, "token_batch_size": size.token_batch_size, "pads": pads, "rounds": len(times["sketch"]),
        "passes": {
            name: {
                "seconds": times[name], "tokens_per_second": tokens / seconds[name], "peak_bytes": peaks[name],
                "of_file_order": _ratio(times[name], times["plain, file order"]),
                "of_sorted": _ratio(times[name], times["plain, sorted"]),
            }
            for name in passes
        },
    }  # fmt: skip
    figures["predicted_tokens_per_second"] = TOKENS_PER_SECOND.get(size.name)
    figures["predicted_of_sorted"] = OF_SORTED.get(size.name)
    figures["targets"] = _targets(size.name, figures["passes"])
    batches = len(rectangles(examples, size.token_batch_size, window))
    figures["profile"] = profile(passes["sketch"], device, batches)
    return figures


def _sweep(
    size: Size, device: torch.device, dtype: torch.dtype, examples: Sequence[Example], seeds: int, **more: bool
) -> Callable[[], object]:
    sweeper = _sweeper(size, device, dtype, seeds, **more)
    return lambda: sweeper.compute(examples)


def _sweeper(size: Size, device: torch.device, dtype: torch.dtype, seeds: int, **more: bool) -> RowPass:
    """With seeds: sketch and scores on the down projection of every third block; the factors are random, since what
    they cost depends on their shapes alone. Without: the sketch of all MLP layers."""
    options: dict[str, Any] = {"token_batch_size": size.token_batch_size, "device": str(device), "quiet": True, **more}
    if seeds:
        third = "|".join(map(str, range(0, size.blocks, 3)))
        options["filter_modules"] = rf"\.({third})\.mlp\.{size.down}$"
    config = Config.build(options)
    model = wrap_model(build(size.config, device, dtype), config)
    generator = torch.Generator(device).manual_seed(0)
    factors = [
        SeedFactors(
            torch.randn(layer.out_features, seeds * RANK, generator=generator, device=device),
            torch.randn(layer.width, seeds * RANK, generator=generator, device=device),
            torch.arange(seeds + 1) * RANK,
            np.ones(seeds),
        )
        for layer in model.layers
    ]
    return make_influence_pass(model, factors, config, QUIET)


def _spans(examples: Sequence[Example], size: Size, window: int | None) -> list[EncodedShard]:
    """The examples as shards of equal numbers of rows."""
    spans = []
    for start, stop in pairwise(np.linspace(0, len(examples), size.shards + 1).astype(int).tolist()):
        some = examples[start:stop]
        lengths = np.array([len(example) for example in some], np.int32)
        nothing = np.zeros(len(some))
        spans.append(
            EncodedShard(
                start, stop, np.arange(len(some)), lengths, nothing.astype(np.int32), nothing.astype(np.uint64), [],
                make_batches(some, size.token_batch_size, window=window),
            )
        )  # fmt: skip
    return spans


def _pass_shards(sweeper: RowPass, spans: Sequence[EncodedShard], *, overlap: bool) -> None:
    with patch.object(RowPass, "overlaps", property(lambda self: overlap)), sweeper.landing():
        for span in spans:
            sweeper.shard(span, lambda tensors: None)


def build(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The model with random weights, the same at every call."""
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _neox(hidden: int, inner: int, blocks: int, heads: int, vocabulary: int) -> PretrainedConfig:
    return GPTNeoXConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=blocks,
        num_attention_heads=heads, max_position_embeddings=2048,
    )  # fmt: skip


def _llama(hidden: int, inner: int, blocks: int, heads: int, vocabulary: int) -> PretrainedConfig:
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=blocks,
        num_attention_heads=heads, num_key_value_heads=max(1, heads // 4), max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip


def _seconds(device: torch.device, run: Callable[[], object]) -> float:
    _wait(device)
    begin = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - begin


def _peak(device: torch.device, run: Callable[[], object]) -> int | None:
    if device.type != "cuda":
        run()
        return None
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ratio(times: Sequence[float], plain: Sequence[float]) -> float:
    return statistics.median(mine / other for mine, other in zip(times, plain, strict=True))


def _targets(name: str, passes: dict[str, Any]) -> list[dict[str, Any]]:
    if name not in TARGETS:
        return []
    many = f"sketch, {SEEDS} seeds"
    asked = (("sketch", "of_file_order"), ("sketch", "of_sorted"), (many, "of_sorted"))
    ratios = [
        {"pass": p, "what": r.replace("_", " "), "target": most, "measured": passes[p][r], "met": passes[p][r] <= most}
        for (p, r), most in zip(asked, TARGETS[name], strict=True)
    ]
    rate, least = max(passes[p]["tokens_per_second"] for p in passes if p.startswith("sketch")), TARGETS_TOKENS[name]
    met = rate >= least
    return [*ratios, {"pass": "fastest sketch", "what": "tokens/s", "target": least, "measured": rate, "met": met}]
