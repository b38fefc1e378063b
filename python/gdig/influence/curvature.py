"""Fit the curvature: the Kronecker factors of each layer, their eigenvectors, and the corrected eigenvalues of EK-FAC.

a are the inputs of a layer and d its output gradients, at every token of the sample that is no pad. Tokens enter the
factors in one of two ways (Martens and Grosse 2015; Eschenhagen et al. 2023):

    expand:  A = (1/T) sum_t a_t a_t^T                 S = (1/T) sum_t d_t d_t^T
    reduce:  A = (1/N) sum_e (sum_t a_t)(sum_t a_t)^T  S likewise

EK-FAC (George et al. 2018; Grosse et al. 2023, section 2.2) has the same eigenvectors Q_A, Q_S. It replaces the
eigenvalues by L = (1/N) sum_e (Q_S^T G_e Q_A)^2, elementwise. L takes a second pass with the same labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from gdig import ops
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.errors import ModelError
from gdig.influence.curvature_resume import CurvatureResume
from gdig.influence.factors import Factors, eigenbasis
from gdig.influence.sample_sums import SampleSums
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass, Sink
from gdig.model.causal_model import Model
from gdig.model.host_copy import HostCopy
from gdig.model.layers import Layer
from gdig.model.memory import BatchRunner, resolve_token_batch_size, typical_length
from gdig.model.precision import float32_products
from gdig.progress import Progress
from gdig.run.record import CurvatureReport

_HEAD_CACHE_BYTES = 1 << 30
"""Most memory for results of the head that the second pass takes from the first."""

Pairs = list[tuple[torch.Tensor, torch.Tensor]]
"""For each layer a matrix [J, J] of its inputs and a matrix [O, O] of its output gradients."""


def fit_curvature(
    model: Model,
    examples: Sequence[Example],
    keys: np.ndarray,
    config: Config,
    progress: Progress,
    ranks: Ranks | None = None,
    resume: CurvatureResume | None = None,
) -> tuple[list[Factors], CurvatureReport]:
    """Fit the factors of every layer of the model on `examples`.

    Args:
        model: the frozen model.
        examples: the sample.
        keys: uint64 [len(examples)], the row of each example in the pool. It names the example's stream of drawn
            labels.
        config: inversion, kfac_approx, use_empirical_fisher, loss_reduction, token_batch_size, random_seed.
        progress: shows the bars.
        ranks: the ranks that share the fit. All of them call this function with the same arguments.
        resume: has what an earlier start has done, and keeps what this start does; None keeps nothing.

    Returns:
        The factors of the layers that this rank owns (`Ranks.owners`), in order. One rank alone owns all layers.
        The number of examples and tokens in the factors, and of examples whose loss is not finite.

    Raises:
        ModelError: if no example has a finite loss, or if a sum is not finite; the message names the layer.
    """
    ranks = ranks or Ranks()
    random_seed = None if config.use_empirical_fisher else config.random_seed
    corrects = config.inversion in ("ekfac", "cg")
    gradients = GradientPass(
        model, config.loss_reduction, random_seed, head_cache_bytes=_HEAD_CACHE_BYTES if corrects else 0
    )
    size = resolve_token_batch_size(
        config.token_batch_size,
        model.device,
        lambda batch: gradients.run(batch, lambda *_: None),
        typical_length(examples),
    )
    size = ranks.gather(size)[0]  # all ranks make the same batches
    batches = make_batches(examples, size, keys=keys, window=model.window)
    batch_runner: BatchRunner = BatchRunner(size, model.device, progress, model.save_memory)
    exchange = Exchange(ranks, model.device)
    sums_resume = (resume or CurvatureResume()).of_batches(batches, size, model, config, ranks)
    sample = SampleSums(batches, len(examples), batch_runner, progress, ranks, exchange, sums_resume)
    owners = ranks.owners(len(model.layers))
    own_layers = [index for index, owner in enumerate(owners) if owner == ranks.rank]
    reduce = config.kfac_approx == "reduce"
    sums = _zeros(model)

    def add_moments(batch: Batch, added: set) -> HostCopy:
        with float32_products(config.matmul_precision):
            return HostCopy([gradients.run(batch, _moments_sink(batch, model.layers, sums, reduce, added))])

    flat_sums = [side for pair in sums for side in pair]
    flat_owners = [owner for owner in owners for _ in range(2)]
    finite, totals = sample.sum("fit: factors", add_moments, flat_sums, flat_owners)
    lengths = np.array([len(example.input_ids) for example in examples])
    report = CurvatureReport(int(finite.sum()), int(lengths[finite].sum()), int((~finite).sum()))
    if report.examples == 0:
        raise ModelError(
            f"fit: expected rows with a finite loss, but none of the {len(examples)} rows of the sample has one; "
            "check the model's weights"
        )
    factors = _factorise(model, own_layers, totals, report, reduce)
    if corrects:
        ranks.gather(None)  # the ranks end their eigenvectors at different times; an exchange of tensors has a limit
        _share_eigenvectors(factors, sums, owners, ranks.rank, exchange)
        squares = [torch.zeros(len(s), len(a), dtype=a.dtype, device=a.device) for a, s in sums]

        def add_squares(batch: Batch, added: set) -> HostCopy:
            with float32_products(config.matmul_precision):
                return HostCopy([gradients.run(batch, _squares_sink(batch, model.layers, sums, squares, added))])

        _, totals = sample.sum("fit: eigenvalues", add_squares, squares, owners)
        for index in own_layers:
            factors[index].corrected = _mean(totals[index], report.examples, model.layers[index].device)
    return [factors[index] for index in own_layers], report


def with_ones(a: torch.Tensor, width: int, ones: torch.Tensor | None = None) -> torch.Tensor:
    """Append the constant input of the bias to a [T, I], if the layer's gradient has `width` = I + 1 columns."""
    if a.shape[1] == width:
        return a
    ones = torch.ones(len(a), dtype=a.dtype, device=a.device) if ones is None else ones
    return torch.cat([a, ones[:, None]], dim=1)


def _factorise(
    model: Model, own_layers: Sequence[int], totals: list[torch.Tensor | None], report: CurvatureReport, reduce: bool
) -> dict[int, Factors]:
    """Make the factors of this rank's layers from the totals of A and S. Layers with one input share its factor."""
    count = report.examples if reduce else report.tokens
    factors: dict[int, Factors] = {}
    inputs: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for index in own_layers:
        layer = model.layers[index]
        if layer.input_name not in inputs:
            a = _mean(totals[2 * index], count, layer.device)
            inputs[layer.input_name] = (a, *eigenbasis(a, layer.name))
        a, q_a, l_a = inputs[layer.input_name]
        s = _mean(totals[2 * index + 1], count, layer.device)
        q_s, l_s = eigenbasis(s, layer.name)
        factors[index] = Factors(a, s, q_a, q_s, l_a, l_s, None, report.tokens, report.examples, reduce)
    return factors


def _share_eigenvectors(
    factors: dict[int, Factors], sums: Pairs, owners: Sequence[int], rank: int, exchange: Exchange
) -> None:
    """Overwrite the sums with the eigenvectors of all layers. The owner of a layer sends its eigenvectors."""
    for index, (owner, pair) in enumerate(zip(owners, sums, strict=True)):
        for basis, name in zip(pair, ("q_a", "q_s"), strict=True):
            if owner == rank:
                basis.copy_(getattr(factors[index], name))
            exchange.broadcast(basis, owner)


def _mean(total: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor:
    assert total is not None
    return (total / count).to(device)


def _zeros(model: Model) -> Pairs:
    """Sums of A and S for each layer. Layers that read the same input share one tensor for A."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    inputs: dict[str, torch.Tensor] = {}
    sums = []
    for layer in model.layers:
        if layer.input_name not in inputs:
            inputs[layer.input_name] = torch.zeros(layer.width, layer.width, dtype=dtype, device=layer.device)
        outputs = torch.zeros(layer.out_features, layer.out_features, dtype=dtype, device=layer.device)
        sums.append((inputs[layer.input_name], outputs))
    return sums


def _moments_sink(
    batch: Batch, layers: Sequence[Layer], sums: Pairs, reduce: bool, added: set[tuple[int, str]]
) -> Sink:
    """Make a sink that adds to the sums, and notes each (layer, side) in `added`. It skips the noted ones."""
    shape = batch.shape

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor) -> None:
        sum_a, sum_s = sums[index]
        reads_first = layers[index].input_name == layers[index].name
        mask = mask.to(sum_a.dtype)
        if reduce:
            if reads_first:
                a = with_ones(a.to(sum_a.dtype) * mask[:, None], sum_a.shape[0], mask).unflatten(0, shape).sum(1)
            d = d.to(sum_s.dtype).unflatten(0, shape).sum(1)
            mask = torch.ones(len(d), dtype=sum_a.dtype, device=d.device)
        for side, x, total in (("a", a, sum_a), ("s", d, sum_s)):
            if (index, side) not in added and (side == "s" or reads_first):
                ops.covariance(x, mask, total)
                added.add((index, side))

    return sink


def _squares_sink(
    batch: Batch, layers: Sequence[Layer], bases: Pairs, squares: list[torch.Tensor], added: set[int]
) -> Sink:
    """Make a sink that adds the squares in the eigenbases (q_a, q_s), and notes each layer in `added`."""
    examples = batch.segments
    readers = Counter(layer.input_name for layer in layers)
    rotated: dict[str, torch.Tensor] = {}  # inputs that a later layer reads too

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor) -> None:
        (q_a, q_s), total, name = bases[index], squares[index], layers[index].input_name
        readers[name] -= 1
        x = rotated.pop(name, None)
        if x is None:
            x = with_ones(a.to(q_a.dtype), len(q_a), mask.to(q_a.dtype)) @ q_a
        if readers[name]:
            rotated[name] = x
        if index in added:
            return
        # Memory can run out during the sum. So the total gets all squares of the batch at once.
        batch_squares = torch.zeros_like(total)
        ops.squared_gradients(x, d.to(q_a.dtype) @ q_s, examples, batch_squares)
        total += batch_squares
        added.add(index)

    return sink
