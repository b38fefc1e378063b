"""Every path of a resume file, once: of shards and the seeds beside them, of sums and factors, and of seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from gdig.store.numbered import numbered_file


def resume_folder(folder: Path) -> Path:
    """The folder of the resume files of what is made in `folder`."""
    return folder / "resume"


def shard_resume_file(store: Path, shard: int) -> Path:
    """The rows that are done of a shard that is not yet whole, beside the shards of the store `store`."""
    return numbered_file(resume_folder(store), shard)


def seeds_resume_file(store: Path) -> Path:
    """The seeds whose own sketches are done while those of others are not, beside the store `store` of the sweep."""
    return resume_folder(store) / "seeds.safetensors"


def layers_key(layers: Sequence[str]) -> str:
    """A hash of the names of layers, for the files that concern them."""
    return blake2b("\n".join(layers).encode(), digest_size=8).hexdigest()


def partition_file(folder: Path, layers: Sequence[str]) -> Path:
    """Says that the files of these layers are complete."""
    return folder / f"partition-{layers_key(layers)}.safetensors"


def factors_file(folder: Path, layer: str) -> Path:
    """Kronecker factors of a layer, while those of others are missing."""
    return folder / f"factors-{layer}.safetensors"


def seed_file(folder: Path, seed: int) -> Path:
    """A preconditioned seed."""
    return numbered_file(folder, seed)


def search_file(folder: Path, seed: int) -> Path:
    """The search by conjugate gradients for a seed, after its last whole iteration."""
    return folder / f"search-{numbered_file(folder, seed).name}"


def product_file(folder: Path, seed: int) -> Path:
    """The product of a seed's search that is being added up."""
    return folder / f"product-{numbered_file(folder, seed).name}"


def products_file(folder: Path) -> Path:
    """Says how the products of all searches are made."""
    return folder / "products.safetensors"


def seed_files(folder: Path) -> list[Path]:
    """The files of the seeds and of their searches that are there."""
    patterns = ("[0-9]*", "search-*", "product-*")
    return [path for pattern in patterns for path in folder.glob(f"{pattern}.safetensors")]


def curvature_files(folder: Path) -> list[Path]:
    """The files of sums and of factors that are there."""
    return [*folder.glob("rank-*.safetensors"), *folder.glob("factors-*.safetensors")]


@dataclass(frozen=True)
class SumsFiles:
    """Files of the sums of one rank. A state of the sums lies in chunks, and in a last file that makes it complete.

    Attributes:
        folder: the folder of the files.
        rank, world: the rank, and how many there are.
    """

    folder: Path
    rank: int
    world: int

    def state(self, name: str, kind: str, number: int) -> str:
        """The name of a state: of a pass, "totals" or "group-3", and how many groups or batches it holds."""
        return f"{self._beginning(name)}{kind}-{number}"

    def chunk(self, state: str, number: int) -> Path:
        """Some tensors of a state."""
        return self.folder / f"{state}-{number}.safetensors"

    def end(self, state: str) -> Path:
        """The file that makes a state complete."""
        return self.folder / f"{state}-end.safetensors"

    def of_state(self, state: str) -> list[Path]:
        """The files of a state that are there. The one that makes it complete comes first."""
        end = self.end(state)
        return [end, *(path for path in self.folder.glob(f"{state}-*.safetensors") if path != end)]

    def of_pass(self, name: str) -> list[Path]:
        """The files of a pass that are there."""
        return list(self.folder.glob(f"{self._beginning(name)}*.safetensors"))

    def numbers(self, name: str, kind: str) -> set[int]:
        """The numbers of the complete states of a kind that are there."""
        start, end = f"{self._beginning(name)}{kind}-", "-end.safetensors"
        numbers = (path.name[len(start) : -len(end)] for path in self.folder.glob(f"{start}*{end}"))
        return {int(number) for number in numbers if re.fullmatch(r"[1-9][0-9]{0,8}", number)}

    def of_other_worlds(self) -> list[tuple[Path, str]]:
        """The files of another number of ranks, each with that number."""
        files = ((path, re.match(r"rank-[0-9]+-of-([0-9]+)-", path.name)) for path in self.folder.glob("rank-*"))
        return [(path, match[1]) for path, match in files if match is not None and match[1] != str(self.world)]

    def _beginning(self, name: str) -> str:
        return f"rank-{self.rank}-of-{self.world}-{re.sub(r'[^a-z0-9]+', '-', name.lower())}-"
