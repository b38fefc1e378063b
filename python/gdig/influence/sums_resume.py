"""Resume files of the sums over a sample: what one rank has added up, in the fixed order of the batches."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gdig.distributed.ranks import Ranks
from gdig.run.resume_layout import SumsFiles
from gdig.store.resume_file import Pace, ResumeFile, Tensors

_CHUNK_BYTES = 64 << 20
"""Bytes of a file, but for a tensor that is larger. A stop between two files is heard at once."""


class SumsResume:
    """Keeps the sums of passes over a sample, for one rank of a fixed number of ranks.

    A pass adds up groups of batches, and adds the groups' sums to totals, round after round (`SampleSums`). Two kinds
    of state are kept: the totals at the beginning of a round, by their owners; and a group's own sums after some of
    its batches. The sums go on from the same numbers in the same order, so they end with the same bits.

    The totals of a round are written at its beginning, if the round is expected to end after the next file is due. So
    all ranks have the totals of one round, and each keeps its group within the round at its own pace.

    Args:
        folder: the folder of the files; None keeps nothing.
        made_from: what the sums depend on besides the batches, by name: JSON values.
        ranks: the ranks that share the passes. All of them call `begin`, `end_round` and `end` at the same time.
        warn: prints a message.
        pace: says when to write; one for all passes of a fit.
        clock: seconds from any origin, never going back.
    """

    def __init__(
        self,
        folder: Path | None,
        made_from: Mapping[str, Any],
        ranks: Ranks,
        warn: Callable[[str], object],
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._made_from, self._ranks, self._warn = folder, dict(made_from), ranks, warn
        self._own_files = None if folder is None else SumsFiles(folder, ranks.rank, ranks.world)
        self.pace, self._clock = pace, clock
        self._name = ""
        self._keeps_round = True
        self._round_began = clock()

    def begin(
        self, name: str, sums: Sequence[torch.Tensor], totals: list[torch.Tensor | None], finite: NDArray[np.bool_]
    ) -> int:
        """Begin a pass, and load the totals that an earlier start has kept.

        Args:
            name: of the pass.
            sums: the tensors that the pass adds to, for their shapes and dtypes.
            totals: changed; the totals that this rank owns are set.
            finite: changed; the examples with a finite loss are set.

        Returns:
            How many groups the totals hold, the same on all ranks.
        """
        self._name, self._round_began = name, self._clock()
        self._keeps_round = True
        if self._folder is None:
            return 0
        self._remove_foreign()
        refused: set[int] = set()
        while True:
            everywhere = set.intersection(*map(set, self._ranks.gather(sorted(self._rounds() - refused))))
            first = max(everywhere, default=0)
            content = self._read(state := self._state("totals", first)) if first else None
            if content is not None and not self._fits(state, content, sums, finite):
                content = None
            if all(self._ranks.gather(not first or content is not None)):
                break
            refused.add(first)
        if content is not None:
            for name_of_total, array in content.items():
                if name_of_total != "finite":
                    totals[int(name_of_total)] = torch.from_numpy(array)
            finite |= content["finite"].astype(bool)
        return first

    def load_group(self, group: int, sums: Sequence[torch.Tensor], finite: NDArray[np.bool_]) -> int:
        """Load the sums of a group into `sums`, and return how many of its batches they hold."""
        self._round_began = self._clock()
        if self._folder is None:
            return 0
        for n_batches in sorted(self._numbers(f"group-{group}"), reverse=True):
            content = self._read(state := self._state(f"group-{group}", n_batches))
            if content is not None and self._fits(state, content, sums, finite, whole=True):
                for number, total in enumerate(sums):
                    total.copy_(torch.from_numpy(content[str(number)]))
                finite |= content["finite"].astype(bool)
                return n_batches
        return 0

    def due(self) -> bool:
        """Whether `keep_group` would write now."""
        return self._folder is not None and self._keeps_round and self.pace.due()

    def keep_group(self, group: int, n_batches: int, sums: Sequence[torch.Tensor], finite: NDArray[np.bool_]) -> None:
        """Write the sums of a group after its first `n_batches` batches."""
        before = self._numbers(f"group-{group}")
        self._write(f"group-{group}", n_batches, dict(enumerate(sums)), finite)
        self._remove(f"group-{group}", before - {n_batches})

    def wants_totals(self) -> bool:
        """Whether the next round, if it takes as long as this one, ends after a file is due. Rank 0 decides for all."""
        return self._folder is not None and self.pace.due(ahead_s=self._clock() - self._round_began)

    def end_round(
        self, n_groups: int, totals: Sequence[torch.Tensor | None], finite: NDArray[np.bool_], *, keep: bool
    ) -> None:
        """End a round. With `keep`, which is the same on all ranks, write the totals of the first `n_groups` groups."""
        self._keeps_round = keep
        if self._folder is None or not keep:
            return
        before = self._rounds()
        own = {number: total for number, total in enumerate(totals) if total is not None}
        self._write("totals", n_groups, own, finite)
        self._ranks.gather(None)  # until all ranks have the new totals, a start needs the old ones
        self._remove("totals", before - {n_groups})
        for group in range(n_groups):
            self._remove(f"group-{group}", self._numbers(f"group-{group}"))

    def forget(self) -> None:
        """Remove all files of the last pass, whose result is kept elsewhere."""
        if self._own_files is not None:
            for path in self._own_files.of_pass(self._name):
                path.unlink(missing_ok=True)

    def _rounds(self) -> set[int]:
        return self._numbers("totals")

    def _numbers(self, kind: str) -> set[int]:
        """The numbers of batches or groups of which complete files of a kind are there."""
        return self._files.numbers(self._name, kind)

    @property
    def _files(self) -> SumsFiles:
        assert self._own_files is not None
        return self._own_files

    def _state(self, kind: str, number: int) -> str:
        return self._files.state(self._name, kind, number)

    def _file(self, path: Path) -> ResumeFile:
        return ResumeFile(path, {**self._made_from, "file": path.stem}, self._warn)

    def _read(self, state: str) -> Tensors | None:
        """Read the files of one state; remove them and return None if one of them cannot be used."""
        content: Tensors = {}
        end = self._file(self._files.end(state)).read()
        chunks = end[1].get("chunks", "") if end else "0"
        if not re.fullmatch(r"[0-9]{1,6}", chunks):
            end, chunks = None, "0"
        for number in range(int(chunks)):
            chunk = self._file(self._files.chunk(state, number)).read()
            if chunk is None:
                end = None
                break
            content |= chunk[0]
        if end is None or "finite" not in end[0]:
            self._remove_state(state)
            return None
        return {**content, "finite": end[0]["finite"]}

    def _fits(
        self,
        state: str,
        content: Tensors,
        sums: Sequence[torch.Tensor],
        finite: NDArray[np.bool_],
        *,
        whole: bool = False,
    ) -> bool:
        """Whether the files of a state hold sums of these shapes, and of all of them where `whole`; else discard it."""
        expected = {"finite": (finite.shape, "uint8")}
        expected |= {str(n): (tuple(total.shape), str(total.dtype).partition(".")[2]) for n, total in enumerate(sums)}
        fits = (not whole or content.keys() == expected.keys()) and all(
            expected.get(name) == (array.shape, array.dtype.name) for name, array in content.items()
        )
        if not fits:
            message = f"{self._folder}: {state}: holds other sums than those of this fit"
            self._file(self._files.end(state)).discard(message)
            self._remove_state(state)
        return fits

    def _write(self, kind: str, number: int, tensors: Mapping[int, torch.Tensor], finite: NDArray[np.bool_]) -> None:
        """Write one state: its tensors in chunks, and then a last file that makes it complete."""
        state, n_chunks = self._state(kind, number), 0
        chunk: Tensors = {}
        with self.pace.writing():
            for index, tensor in tensors.items():
                if chunk and sum(x.nbytes for x in chunk.values()) + tensor.nbytes > _CHUNK_BYTES:
                    if not self._file(self._files.chunk(state, n_chunks)).write(chunk):
                        return
                    chunk, n_chunks = {}, n_chunks + 1
                chunk[str(index)] = tensor.cpu().numpy()
            if self._file(self._files.chunk(state, n_chunks)).write(chunk):
                self._file(self._files.end(state)).write({"finite": finite}, {"chunks": str(n_chunks + 1)})

    def _remove(self, kind: str, numbers: set[int]) -> None:
        for number in numbers:
            self._remove_state(self._state(kind, number))

    def _remove_state(self, state: str) -> None:
        # The last file first: without it the others are no state.
        for path in self._files.of_state(state):
            path.unlink(missing_ok=True)

    def _remove_foreign(self) -> None:
        """Rank 0 removes the states of another number of ranks."""
        others = self._files.of_other_worlds()
        if others and self._ranks.main:
            self._warn(
                f"{self._folder}: holds sums of {others[0][1]} ranks, and now there are {self._ranks.world}; "
                "the resume files are discarded, and their work is done again"
            )
            for path, _ in others:
                path.unlink(missing_ok=True)
