"""Fit the curvature: the Kronecker factors of each layer, their eigenbases, and (EK-FAC) the corrected eigenvalues.

For a layer with inputs a and output gradients d, over every token of the sample that is no pad (Martens and Grosse
2015; Eschenhagen et al. 2023 for the two ways that tokens enter):

    expand:  A = (1/T) sum_t a_t a_t^T                 S = (1/T) sum_t d_t d_t^T
    reduce:  A = (1/N) sum_e (sum_t a_t)(sum_t a_t)^T  S likewise

EK-FAC (George et al. 2018; Grosse et al. 2023, section 2.2) keeps the eigenbases Q_A, Q_S and replaces the eigenvalues
by L = (1/N) sum_e (Q_S^T G_e Q_A)^2, elementwise, which takes a second pass with the same labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gdig import ops
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.errors import ModelError
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass, Sink
from gdig.model.causal_model import Model
from gdig.model.host_copy import HostCopy
from gdig.model.layers import Layer
from gdig.model.memory import BatchRunner, resolve_token_batch_size, typical_length
from gdig.model.precision import float32_products
from gdig.progress import Progress
from gdig.run.record import CurvatureReport
from gdig.store.tensor_file import read_tensors, write_tensors


@dataclass
class Factors:
    """Curvature of one layer.

    a [J, J] and s [O, O]: the factors, in the dtype of the sums. q_a, q_s: their eigenvectors in columns, same dtype.
    l_a [J], l_s [O]: eigenvalues, float64, >= 0. corrected [O, J]: EK-FAC's eigenvalues, or None. tokens, examples: how
    many were summed. reduce: which of the two averages the factors are.
    """

    a: torch.Tensor
    s: torch.Tensor
    q_a: torch.Tensor
    q_s: torch.Tensor
    l_a: torch.Tensor
    l_s: torch.Tensor
    corrected: torch.Tensor | None
    tokens: int
    examples: int
    reduce: bool

    def eigenvalues(self) -> torch.Tensor:
        """L [O, J] of the mean per-example Hessian in the eigenbasis: EK-FAC's, or l_S l_A^T x tokens per example."""
        if self.corrected is not None:
            return self.corrected.double()
        per_example = 1.0 if self.reduce else self.tokens / self.examples
        return torch.outer(self.l_s, self.l_a) * per_example

    def save(self, path: Path, layer: str) -> None:
        """Write one file; complete or absent."""
        names = ("a", "s", "q_a", "q_s", "l_a", "l_s") + (() if self.corrected is None else ("corrected",))
        tensors = {name: getattr(self, name).cpu().numpy() for name in names}
        counts = {"tokens": self.tokens, "examples": self.examples, "reduce": int(self.reduce)}
        write_tensors(path, tensors, {"layer": layer, **{name: str(value) for name, value in counts.items()}})

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Factors:
        """Read what `save` wrote."""
        arrays, metadata = read_tensors(path)
        tensors = {name: torch.tensor(array).to(device) for name, array in arrays.items()}
        return cls(
            a=tensors["a"],
            s=tensors["s"],
            q_a=tensors["q_a"],
            q_s=tensors["q_s"],
            l_a=tensors["l_a"],
            l_s=tensors["l_s"],
            corrected=tensors.get("corrected"),
            tokens=int(metadata["tokens"]),
            examples=int(metadata["examples"]),
            reduce=metadata["reduce"] == "1",
        )


def fit_curvature(
    model: Model,
    examples: Sequence[Example],
    keys: np.ndarray,
    config: Config,
    progress: Progress,
    ranks: Ranks | None = None,
) -> tuple[list[Factors], CurvatureReport]:
    """Fit the factors of every layer of the model on `examples`.

    The batches of the sample are dealt to `_GROUPS` groups. A group is summed by one rank, and the groups' sums are
    added in order, so that the bits do not depend on how many ranks there are.

    Args:
        model: the frozen model.
        examples: the sample.
        keys: uint64 [len(examples)], each example's row in the pool: names its stream of drawn labels.
        config: inversion, kfac_approx, use_empirical_fisher, loss_reduction, token_batch_size, seed.
        progress: where to show it.
        ranks: who takes part; all are here with the same arguments.

    Returns:
        The factors of this rank's layers (`Ranks.owners`), in order: of all layers, where there is one rank.

    Raises:
        ModelError: when no example has a finite loss, or a sum is not finite (the message names the layer).
    """
    ranks = ranks or Ranks()
    random_seed = None if config.use_empirical_fisher else config.random_seed
    corrects = config.inversion in ("ekfac", "cg")
    gradients = GradientPass(model, config.loss_reduction, random_seed, head_cache_bytes=_HEAD_BYTES if corrects else 0)
    size = resolve_token_batch_size(
        config.token_batch_size,
        model.device,
        lambda batch: gradients.run(batch, lambda *_: None),
        typical_length(examples),
    )
    size = ranks.gather(size)[0]  # all cut the same batches
    batches = make_batches(examples, size, keys=keys, window=model.window)
    batch_runner: BatchRunner = BatchRunner(size, model.device, progress, model.save_memory)
    work = _Groups(batches, len(examples), batch_runner, progress, ranks)
    exchange = Exchange(ranks, model.device)
    owners = ranks.owners(len(model.layers))
    mine = [index for index, owner in enumerate(owners) if owner == ranks.rank]
    reduce = config.kfac_approx == "reduce"
    sums = _zeros(model)

    def moments(batch: Batch, added: set) -> HostCopy:
        with float32_products(config.matmul_precision):
            return HostCopy([gradients.run(batch, _moments_sink(batch, model.layers, sums, reduce, added))])

    flat = [side for pair in sums for side in pair]
    good, totals = work.sum("fit: factors", moments, flat, [owner for owner in owners for _ in range(2)], exchange)
    lengths = np.array([len(example.input_ids) for example in examples])
    report = CurvatureReport(int(good.sum()), int(lengths[good].sum()), int((~good).sum()))
    if report.examples == 0:
        raise ModelError("fit: no example of the sample has a finite loss; is the model's checkpoint sound?")
    count = report.examples if reduce else report.tokens
    factors: dict[int, Factors] = {}
    inputs: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for index in mine:
        layer = model.layers[index]
        if layer.input_name not in inputs:
            a = _mean(totals[2 * index], count, layer.device)
            inputs[layer.input_name] = (a, *_eigen(a, layer))
        a, q_a, l_a = inputs[layer.input_name]
        s = _mean(totals[2 * index + 1], count, layer.device)
        q_s, l_s = _eigen(s, layer)
        factors[index] = Factors(a, s, q_a, q_s, l_a, l_s, None, report.tokens, report.examples, reduce)
    if corrects:
        ranks.gather(None)  # a rank's eigenvectors take as long as they take; no time limit for tensors covers that
        # The memory of the sums now holds the eigenvectors of all layers; each comes from its owner.
        for index, (owner, pair) in enumerate(zip(owners, sums, strict=True)):
            for basis, own in zip(pair, ("q_a", "q_s"), strict=True):
                if owner == ranks.rank:
                    basis.copy_(getattr(factors[index], own))
                exchange.broadcast(basis, owner)
        squares = [torch.zeros(len(s), len(a), dtype=a.dtype, device=a.device) for a, s in sums]

        def corrected(batch: Batch, added: set) -> HostCopy:
            with float32_products(config.matmul_precision):
                return HostCopy([gradients.run(batch, _corrected_sink(batch, model.layers, sums, squares, added))])

        _, totals = work.sum("fit: eigenvalues", corrected, squares, owners, exchange)
        for index in mine:
            factors[index].corrected = _mean(totals[index], report.examples, model.layers[index].device)
    return [factors[index] for index in mine], report


_HEAD_BYTES = 1 << 30
"""What the head gave in the first pass and the second one needs again is kept up to this many bytes."""
_GROUPS = 8
"""Parts of the sample that are summed for themselves: as many ranks as this can share the fit. A group costs one more
addition of all sums, in the computer's memory; a number that depended on the ranks would change the bits."""


@dataclass
class _Groups:
    """The sample's batches in groups, which the ranks take in turns."""

    batches: Sequence[Batch]
    n_examples: int
    batch_runner: BatchRunner
    progress: Progress
    ranks: Ranks

    def sum(
        self,
        name: str,
        run: Callable[[Batch, set], HostCopy],
        sums: Sequence[torch.Tensor],
        owners: Sequence[int],
        exchange: Exchange,
    ) -> tuple[np.ndarray, list[torch.Tensor | None]]:
        """Pass all batches; `run` adds a batch to `sums` and returns its losses.

        Returns:
            Which examples have a finite loss, bool [n_examples], on every rank; and the totals, on the CPU, of those
            `sums` that `owners` gives to this rank (None for the others).
        """
        ranks, n = self.ranks, min(_GROUPS, len(self.batches))
        good = np.zeros(self.n_examples, dtype=bool)
        totals: list[torch.Tensor | None] = [None] * len(sums)
        with self.progress.stage(name, self.n_examples) as shown:
            bar = ranks.shared_bar(shown)
            for first in range(0, n, ranks.world):
                group = first + ranks.rank
                ranks.doing(f"{name}, group {group} of {n}")
                mine = self.batches[group::n] if group < n else []
                for total in sums:
                    total.zero_()
                arriving = []
                for batch, losses in self.batch_runner.run(mine, run):
                    arriving.append((batch.rows, losses))
                    bar.advance(len(batch.rows))
                for rows, losses in arriving:
                    good[rows] = np.isfinite(losses.numpy()[0])
                ranks.gather(None, bar)
                exchange.add_in_order(sums, totals, owners, min(ranks.world, n - first))
        found = ranks.gather(np.flatnonzero(good).tolist())
        good[np.concatenate([np.array(rows, dtype=np.int64) for rows in found])] = True
        return good, totals


def _mean(total: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor:
    assert total is not None
    return (total / count).to(device)


def _zeros(model: Model) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Sums of A and S for each layer; layers that read the same input have the same A, one tensor."""
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
    batch: Batch,
    layers: Sequence[Layer],
    sums: list[tuple[torch.Tensor, torch.Tensor]],
    reduce: bool,
    added: set[tuple[int, str]],
) -> Sink:
    """Adds to the sums, and notes in `added` what it has added; what is noted there already is passed over."""
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


def _corrected_sink(
    batch: Batch,
    layers: Sequence[Layer],
    bases: list[tuple[torch.Tensor, torch.Tensor]],
    squares: list[torch.Tensor],
    added: set[int],
) -> Sink:
    """Adds to the squares in the eigenbases (q_a, q_s), and notes in `added` which layers it has added."""
    examples = batch.segments
    readers = Counter(layer.input_name for layer in layers)
    rotated: dict[str, torch.Tensor] = {}  # inputs that a layer still to come reads too

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
        part = torch.zeros_like(total)  # all of the batch's squares or none, should memory run out among them
        ops.squared_gradients(x, d.to(q_a.dtype) @ q_s, examples, part)
        total += part
        added.add(index)

    return sink


def with_ones(a: torch.Tensor, width: int, ones: torch.Tensor | None = None) -> torch.Tensor:
    """Append the constant input of the bias to a [T, I], if the layer's gradient has `width` = I + 1 columns."""
    if a.shape[1] == width:
        return a
    ones = torch.ones(len(a), dtype=a.dtype, device=a.device) if ones is None else ones
    return torch.cat([a, ones[:, None]], dim=1)


def _eigen(x: torch.Tensor, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvectors (dtype of x) and eigenvalues (float64, >= 0) of a symmetric matrix, factored in float64."""
    if not bool(torch.isfinite(x).all()):
        raise ModelError(f"{layer.name}: the sum of its inputs or gradients over the sample is not finite")
    values, vectors = torch.linalg.eigh((x.double() + x.double().T) / 2)
    # Row by row, as a file gives them back: the layout decides the order of the sums in a product.
    return vectors.to(x.dtype).contiguous(), values.clamp(min=0)
