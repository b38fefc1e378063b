"""The sums of A and S of experts' layers: what they are divided by, and which experts take the layer's.

An expert e with n_e of the sample's T tokens has the mean Hessian (n_e / T) A_e x S_e, with means over its tokens.
Each factor gets the root of the share n_e / T: A = sum a a^T / sqrt(n_e T), and S likewise. (With kfac_approx=reduce,
n_e and T count examples.)

An expert has singular factors if it sees fewer tokens of the sample than its wider factor has rows. It takes those of
the mean expert of its block: A = sum over all experts / sqrt(n E T), with n the tokens of all E experts. Its
eigenvalues are products of those of A and S, because EK-FAC's would come from the few tokens again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from gdig import ops
from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange
from gdig.influence.curvature_sums import Totals
from gdig.model.layers import Layer


class ExpertMoments:
    """What the totals of a partition's layers are divided by. A layer that sees all tokens has the sample's count.

    Args:
        layers: of the partition.
        owners: the rank that owns each.
        counts: of each expert's layer its tokens, and the examples that have some.
        sample: the tokens of the sample (examples, with `reduce`).
        reduce: whether the sums are over examples.
        dtype: of the totals.
        exchange: moves totals between the ranks.
        ranks: the ranks that share the fit; all make the same calls.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        owners: Sequence[int],
        counts: Mapping[int, Sequence[float]],
        sample: int,
        reduce: bool,
        dtype: torch.dtype,
        exchange: Exchange,
        ranks: Ranks,
    ) -> None:
        self._layers, self._owners, self._counts, self._sample = layers, owners, counts, sample
        self._reduce, self._dtype, self._exchange, self._ranks = reduce, dtype, exchange, ranks
        self._short = {
            number
            for number, (tokens, _) in counts.items()
            if tokens < max(layers[number].width, layers[number].out_features)
        }
        self._matrices: dict[str, list[int]] = {}  # the layers of each matrix, by expert
        for number in counts:
            expert = layers[number].expert
            assert expert is not None
            self._matrices.setdefault(expert.matrix, []).append(number)

    @property
    def summary(self) -> str | None:
        """How many layers take the factors of the mean expert, in words; None where none does."""
        if not self._short:
            return None
        return (
            f"{len(self._short)} of {len(self._counts)} layers of experts saw fewer tokens of the sample than their "
            "factors have rows; they take the curvature of the mean expert; more fit_tokens give them their own"
        )

    def basis(self, number: int, side: int) -> str:
        """The name of the factor A (side 0) or S (side 1) of a layer; layers with one name have one factor."""
        layer = self._layers[number]
        if number in self._short and layer.expert is not None:
            return f"{layer.expert.matrix} {side}"
        return layer.input_name if side == 0 else f"{layer.name} 1"

    def is_shared(self, number: int) -> bool:
        """Whether a layer takes the factors of the mean expert."""
        return number in self._short

    def seen(self, number: int, tokens: int) -> int:
        """The tokens of the sample that a layer saw; `tokens`: all of them."""
        return int(self._counts[number][0]) if number in self._counts else tokens

    def divisor(self, number: int) -> float:
        """What the totals of a layer are divided by."""
        if number not in self._counts:
            return self._sample
        if number in self._short:
            members = self._members(number)
            terms = sum(self._terms(member) for member in members)
            return math.sqrt(max(1.0, terms) * len(members) * self._sample)
        return math.sqrt(self._terms(number) * self._sample)

    def share(self, totals: Totals) -> None:
        """Give the layers that are short the totals of all experts, summed in the order of the experts."""
        sums: Totals = {}
        for members in self._matrices.values():
            short = [number for number in members if number in self._short]
            if not short:
                continue
            for side in (0, 1):
                total = self._sum(totals, members, side)
                for number in short:
                    if self._owners[number] == self._ranks.rank:
                        sums[number, side] = list(total)
        totals.update(sums)

    def _members(self, number: int) -> list[int]:
        expert = self._layers[number].expert
        assert expert is not None
        return self._matrices[expert.matrix]

    def _terms(self, number: int) -> float:
        return self._counts[number][1 if self._reduce else 0]

    def _sum(self, totals: Totals, numbers: Sequence[int], side: int) -> list[torch.Tensor]:
        """The sum of some layers' totals, on all ranks."""
        added: list[torch.Tensor] = []
        for number in numbers:
            layer, owner = self._layers[number], self._owners[number]
            own = owner == self._ranks.rank
            bands = [band for band in totals[number, side] if band is not None] if own else self._empty(layer, side)
            for index, band in enumerate(bands):
                self._exchange.broadcast(band, owner)
                if index == len(added):
                    added.append(band.clone())
                else:
                    added[index] += band
        return added

    def _empty(self, layer: Layer, side: int) -> list[torch.Tensor]:
        """Memory for the totals of a layer that another rank owns."""
        width = layer.width if side == 0 else layer.out_features
        if layer.device.type == "cpu":
            return ops.triangle(width, self._dtype, torch.device("cpu"))
        return [torch.empty(width, width, dtype=self._dtype)]
