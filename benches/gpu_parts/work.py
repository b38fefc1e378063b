"""What the kernels are measured and tuned on: one layer and batch of a model, and what bounds its time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from types import ModuleType

import torch

from gdig import ops
from gdig.ops import ExpertRows, Segments

TOKENS = 16_384
# hidden and intermediate size of the models that the targets speak of.
WIDTHS = {"160M": (768, 3072), "1B": (2048, 8192)}
SIDE, DIM = 32, 512
# Experts of a block, those that a token goes to, and columns that a seed has at an expert.
EXPERTS, SLOTS, EXPERT_RANK = 64, 8, 4
# Words of a vocabulary (SmolLM2, Llama 3), and labelled positions whose logits exist at once.
WORDS, POSITIONS = (49_152, 128_256), 2048


@dataclass(frozen=True)
class Work:
    """run(impl) is the operation through its door; ceiling() what it is measured against, with the share of the
    ceiling's time that is counted (a copy reads and writes, so it moves its bytes twice)."""

    operation: str
    name: str
    run: Callable[[str], None]
    ceiling: Callable[[], object]
    ceiling_name: str
    share: float = 1.0


def module_of(operation: str) -> ModuleType | None:
    """The Triton module of an operation; None while there is none."""
    of_layer = operation.removesuffix("_experts")
    folder = {"squared_gradients": "covariance"}.get(of_layer, of_layer)
    name = f"gdig.kernels.{folder}.triton{operation[len(of_layer) :]}"
    if find_spec(name) is None:
        return None
    from importlib import import_module

    return import_module(name)


def works(
    device: torch.device,
    *,
    quick: bool = False,
    models: Collection[str] = tuple(WIDTHS),
    dtype: torch.dtype | None = None,
) -> Iterator[Work]:
    """Every piece of work, one at a time: a model's tensors are made when it is asked for.

    quick: tiny shapes, in float16 on the CPU, whose interpreter gets bfloat16 wrong.
    """
    dtype = dtype or (torch.float16 if device.type == "cpu" else torch.bfloat16)
    widths = {"tiny": (24, 40)} if quick else {name: WIDTHS[name] for name in models}
    tokens, lengths = (64, (16,)) if quick else (TOKENS, (32, 64, 256))
    draw = partial(torch.randn, device=device, dtype=dtype)
    for model, (hidden, inner) in widths.items():
        narrow, wide = draw(tokens, hidden), draw(tokens, inner)
        exact = wide.float(), narrow.float()
        for length in lengths:
            examples = Segments(torch.arange(tokens // length + 1) * length)
            for layer, a, d in (("up", narrow, wide), ("down", wide, narrow)):
                yield _project(f"{model} {layer}, {length} tokens", a, d, examples)
            for seeds, rank in ((2, 8),) if quick else ((32, 32), (32, 128), (256, 32)):
                yield _score(f"{model} down, {length} tokens, {seeds} x {rank}", wide, narrow, examples, seeds, rank)
            yield _squares(f"{model} down, {length} tokens", *exact, examples)
            rows = _expert_rows(tokens, 4, 4) if quick else _expert_rows(tokens, EXPERTS, length * SLOTS // EXPERTS)
            yield _project_experts(f"{model} up, {length} tokens", narrow, wide, rows)
            yield _score_experts(f"{model} down, {length} tokens", wide, narrow, rows, 2 if quick else 32)
        for bias in (0, 1):
            for x in (narrow, wide):
                yield _covariance(f"{model} {x.shape[1]} wide{', bias' if bias else ''}", x, bias)
        yield _covariance(f"{model} {hidden} wide, float32", exact[1], 0)
    for words in (40,) if quick else WORDS:
        # No number changes the time, and zeros take no memory where nothing runs, as in the tuner on a CPU.
        logits = torch.zeros(8 if quick else POSITIONS, words, device=device, dtype=dtype)
        yield _cross_entropy(f"{words} words", logits)


def _project(name: str, a: torch.Tensor, d: torch.Tensor, examples: Segments) -> Work:
    sums = partial(torch.randn, device=a.device)
    p, q = (sums(SIDE, x.shape[1]).sign() for x in (d, a))
    columns = torch.randint(0, DIM, (SIDE * SIDE,), device=a.device)
    weights = sums(SIDE * SIDE).sign() / SIDE
    out = torch.zeros(len(examples), DIM, device=a.device)

    # Made once a sweep, so not part of the time.
    prepared = cache(lambda impl: ops.prepare_projection(q, p, columns, weights, a.shape[1], DIM, a.dtype, impl=impl))

    def run(impl: str) -> None:
        ops.project(a, d, examples, q, p, columns, weights, out, impl=impl, prepared=prepared(impl))

    return Work("project", name, run, _copy(a, d), "copy of a and d, half its time", 0.5)


def _copy(a: torch.Tensor, d: torch.Tensor) -> Callable[[], object]:
    # Made when it is timed: the tuner on the CPU never does.
    copied = cache(lambda: torch.empty(2, a.numel() + d.numel(), device=a.device, dtype=a.dtype).zero_())
    return lambda: copied()[0].copy_(copied()[1])


def _expert_rows(n_rows: int, experts: int, each: int) -> ExpertRows:
    """n_rows rows, of which each expert sees so many of each example."""
    examples = n_rows // (experts * each)
    first = torch.arange(experts)[:, None] * examples
    return ExpertRows((first + torch.arange(examples + 1)) * each)


def _project_experts(name: str, a: torch.Tensor, d: torch.Tensor, rows: ExpertRows) -> Work:
    sums = partial(torch.randn, device=a.device)
    projections = [
        (
            sums(SIDE, a.shape[1]).sign(),
            sums(SIDE, d.shape[1]).sign(),
            torch.randint(0, DIM, (SIDE * SIDE,), device=a.device),
            sums(SIDE * SIDE).sign() / SIDE,
        )
        for _ in range(len(rows))
    ]
    out = torch.zeros(rows.examples, DIM, device=a.device)

    # Made once a sweep, so not part of the time.
    prepared = cache(lambda impl: ops.prepare_expert_projections(projections, a.shape[1], DIM, a.dtype, impl=impl))

    def run(impl: str) -> None:
        ops.project_experts(a, d, rows, projections, out, impl=impl, prepared=prepared(impl))

    return Work("project_experts", name, run, _copy(a, d), "copy of a and d, half its time", 0.5)


def _score(name: str, a: torch.Tensor, d: torch.Tensor, examples: Segments, seeds: int, rank: int) -> Work:
    u, v = (torch.randn(x.shape[1], seeds * rank, device=a.device) for x in (d, a))
    columns = Segments(torch.arange(seeds + 1) * rank)
    out = torch.zeros(len(examples), seeds, device=a.device)
    d_products, a_products = (torch.empty(len(a), seeds * rank, device=a.device, dtype=a.dtype) for _ in range(2))
    halves = cache(lambda: (u.to(a.dtype), v.to(a.dtype)))  # made when it is timed

    # Made once a sweep, so not part of the time.
    prepared = cache(lambda impl: ops.prepare_factors(u, v, columns, a.shape[1], a.dtype, impl=impl))

    def run(impl: str) -> None:
        ops.score(a, d, examples, u, v, columns, out, impl=impl, prepared=prepared(impl))

    def products() -> None:
        torch.mm(d, halves()[0], out=d_products)
        torch.mm(a, halves()[1], out=a_products)

    return Work("score", name, run, products, "the two bare products")


def _score_experts(name: str, a: torch.Tensor, d: torch.Tensor, rows: ExpertRows, seeds: int) -> Work:
    columns = [Segments(torch.arange(seeds + 1) * EXPERT_RANK)] * len(rows)
    u, v = (torch.randn(len(rows), x.shape[1], seeds * EXPERT_RANK, device=a.device) for x in (d, a))
    out = torch.zeros(rows.examples, seeds, device=a.device)
    halves = cache(lambda: (u.to(a.dtype), v.to(a.dtype)))  # made when it is timed

    # Made once a sweep, so not part of the time.
    prepared = cache(lambda impl: ops.prepare_expert_factors(u, v, columns, a.shape[1], a.dtype, impl=impl))

    def run(impl: str) -> None:
        ops.score_experts(a, d, rows, u, v, columns, out, impl=impl, prepared=prepared(impl))

    def products() -> None:
        torch.bmm(d.view(len(rows), -1, d.shape[1]), halves()[0])
        torch.bmm(a.view(len(rows), -1, a.shape[1]), halves()[1])

    return Work("score_experts", f"{name}, {seeds} x {EXPERT_RANK}", run, products, "the bare products of each expert")


def _covariance(name: str, x: torch.Tensor, bias: int) -> Work:
    width = x.shape[1]
    keep = torch.ones(len(x), device=x.device)
    keep[::16] = 0
    out = torch.zeros(width + bias, width + bias, device=x.device)
    product = torch.empty(width, width, device=x.device, dtype=x.dtype)

    def run(impl: str) -> None:
        ops.covariance(x, keep, out, impl=impl)

    return Work("covariance", name, run, lambda: torch.mm(x.T, x, out=product), "bare x^T x, both triangles")


def _squares(name: str, a: torch.Tensor, d: torch.Tensor, examples: Segments) -> Work:
    out = torch.zeros(d.shape[1], a.shape[1], device=a.device)
    product = torch.empty_like(out)

    def run(impl: str) -> None:
        ops.squared_gradients(a, d, examples, out, impl=impl)

    return Work("squared_gradients", name, run, lambda: torch.mm(d.T, a, out=product), "bare d^T a in float32")


def _cross_entropy(name: str, logits: torch.Tensor) -> Work:
    labels = torch.arange(len(logits), device=logits.device) % logits.shape[1]
    weights = torch.ones(len(logits), dtype=torch.float64, device=logits.device)
    copy = cache(lambda: torch.empty_like(logits))  # made when it is timed

    def run(impl: str) -> None:
        ops.cross_entropy(logits, labels, labels, weights, impl=impl)

    return Work("cross_entropy", name, run, lambda: copy().copy_(logits), "copy of the logits")
