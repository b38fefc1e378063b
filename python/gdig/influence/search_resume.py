"""The resume files of searches by conjugate gradients: of each seed its search, and the product that is being added up.

A solution depends on its own seed alone. So the files of one seed need nothing of the others. A start may go on with
other seeds side by side. A kill between the files of two seeds costs one of them some batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gdig.errors import StoreError
from gdig.influence.conjugate_gradients import Search
from gdig.influence.gauss_newton import GaussNewton, Product, Vector
from gdig.model.layers import Layer
from gdig.run.resume_layout import product_file, search_file
from gdig.store.resume_file import Pace, ResumeFile
from gdig.store.tensor_file import Named


class SearchResume:
    """Keeps the searches that run, while their seeds are not done.

    Args:
        folder: the folder of the files.
        made_from: what a search depends on besides its seed and its products, by name: JSON values.
        warn: prints a message.
        pace: says when to write.
        product: makes the products.
        layers: the layers, in the order of the vectors.
        iterations: the most iterations of a search.
        dtype: of the vectors.
    """

    def __init__(
        self,
        folder: Path,
        made_from: Mapping[str, Any],
        warn: Callable[[str], object],
        pace: Pace,
        product: GaussNewton,
        layers: Sequence[Layer],
        iterations: int,
        dtype: torch.dtype,
    ) -> None:
        self._folder, self._warn, self._pace = folder, warn, pace
        self._made_from = {**made_from, **product.made_from}
        self._n_batches, self._layers, self._iterations = product.n_batches, layers, iterations
        self._dtype = str(dtype).removeprefix("torch.")
        self._written: dict[int, int] = {}  # the iterations that the file of a seed's search has

    def load(self, number: int) -> tuple[Search, float] | None:
        """Return the search and the loss of a seed; None if no earlier start has kept them."""
        file = self._search_file(number)
        if (content := file.read()) is None:
            return None
        try:
            search, loss = self._search(*content)
        except (ValueError, RecursionError, StoreError) as error:
            file.discard(f"{file.path}: holds no search in these layers ({error})")
            return None
        self._written[number] = search.iterations
        search.begun = self._load_product(number, search.iterations)
        return search, loss

    def keep(self, searches: Mapping[int, Search], losses: Mapping[int, float]) -> None:
        """Write the files of all searches, by the number of the seed, if they are due."""
        if not self._pace.due():
            return
        with self._pace.writing():
            for number, search in searches.items():
                self._write(number, search, losses[number])

    def remove(self, number: int) -> None:
        """Remove the files of a seed that is done."""
        self._product_file(number).remove()
        self._search_file(number).remove()

    def _write(self, number: int, search: Search, loss: float) -> None:
        if self._written.get(number) != search.iterations:
            facts = [search.product, search.first, search.iterations, search.residual, search.ended, search.converged]
            vectors = {"x": search.x, "r": search.r, "p": search.p}
            tensors = {f"{name}{i}": t for name, vector in vectors.items() for i, t in enumerate(_arrays(vector))}
            if not self._search_file(number).write(tensors, {"facts": json.dumps([loss, *facts])}):
                return
            self._written[number] = search.iterations
        if search.begun is not None and search.begun.n_batches:
            tensors = {f"q{i}": t for i, t in enumerate(_arrays(search.begun.sums))}
            facts = [search.iterations, search.begun.n_batches, search.begun.n_finite]
            self._product_file(number).write(tensors, {"facts": json.dumps(facts)})

    def _search(self, arrays: Named[NDArray[Any]], metadata: Named[str]) -> tuple[Search, float]:
        """Make a search and a loss of the content of a file, or raise ValueError or StoreError."""
        facts = json.loads(metadata["facts"])
        types = [float, float, float, int, float, bool, bool]
        if not isinstance(facts, list) or [type(x) for x in facts] != types or not all(map(math.isfinite, facts[:3])):
            raise ValueError(f"facts: got {metadata['facts'][:80]}")
        loss, product, first, iterations, residual, ended, converged = facts
        if not 0 <= iterations <= self._iterations or (first == 0 and not ended):
            raise ValueError(f"facts: got {metadata['facts'][:80]}")
        x, r, p = (self._vector(arrays, name) for name in "xrp")
        return Search(x, r, p, product, first, iterations, residual, ended, converged), loss

    def _load_product(self, number: int, iterations: int) -> Product | None:
        """Return the kept product of an iteration; None if there is none, or one of another iteration."""
        file = self._product_file(number)
        if (content := file.read()) is None:
            return None
        arrays, metadata = content
        try:
            facts = json.loads(metadata["facts"])
            if not isinstance(facts, list) or [type(x) for x in facts] != [int] * 3:
                raise ValueError(f"facts: got {metadata['facts'][:80]}")
            of_iteration, n_batches, n_finite = facts
            if of_iteration != iterations:
                return None
            if not 0 < n_batches <= self._n_batches or n_finite < 0:
                raise ValueError(f"facts: got {metadata['facts'][:80]}")
            return Product(self._vector(arrays, "q"), n_batches, n_finite)
        except (ValueError, RecursionError, StoreError) as error:
            file.discard(f"{file.path}: holds no product in these layers ({error})")
            return None

    def _vector(self, arrays: Named[NDArray[Any]], name: str) -> Vector:
        vector = []
        for i, layer in enumerate(self._layers):
            arrays.shaped({"O": layer.out_features, "J": layer.width}, **{f"{name}{i}": f"{self._dtype} O J"})
            vector.append(torch.from_numpy(np.array(arrays[f"{name}{i}"])).to(layer.device))
        return vector

    def _search_file(self, number: int) -> ResumeFile:
        return ResumeFile(search_file(self._folder, number), self._made_from, self._warn)

    def _product_file(self, number: int) -> ResumeFile:
        return ResumeFile(product_file(self._folder, number), self._made_from, self._warn)


def _arrays(vector: Vector) -> list[NDArray[Any]]:
    return [x.cpu().numpy() for x in vector]
