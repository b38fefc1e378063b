"""What the name of an input may mean: a file, a folder, a glob, or a dataset of the Hugging Face hub.

| ending | read as |
|---|---|
| .jsonl, .ndjson | one JSON object a line |
| .json | a list of objects, or one object a line |
| .parquet, .arrow, .feather | columns |
| .csv, .tsv | a header and rows of text |

Each may be compressed (.gz, .zst). Capital letters do not matter. A folder is one that `datasets` saved, or its files
are read.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from gdig.data.arrow_rows import open_arrow, open_dataset_folder
from gdig.data.compressed import COMPRESSIONS, decompressed
from gdig.data.csv_rows import open_csv
from gdig.data.hub import HubDataset, hub_dataset, open_hub_dataset
from gdig.data.json_rows import JsonRows
from gdig.data.parquet_rows import open_parquet
from gdig.errors import MissingFileError, UnknownFormatError

if TYPE_CHECKING:
    from gdig.data.corpus import Source

_JSON, _PARQUET, _ARROW, _CSV = (".jsonl", ".ndjson", ".json"), (".parquet",), (".arrow", ".feather"), (".csv", ".tsv")
ENDINGS = (*_JSON, *_PARQUET, *_ARROW, *_CSV)
_SAVED = ("state.json", "dataset_dict.json")
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", *_SAVED}
"""Files that describe a dataset."""


def expand(path: str, name: str) -> list[Path | HubDataset]:
    """Return the inputs that a name stands for. A file of exactly that name is not taken for a glob.

    Args:
        path: as it was given.
        name: what the rows are for. Errors begin with it.

    Raises:
        CorpusError: if there is none.
    """
    if Path(path).is_dir():
        return _files_of(Path(path), name)
    if Path(path).exists():
        return [Path(path)]
    if glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not matches:
            raise MissingFileError(f"{name}: {path}: the pattern matches no file, expected at least one")
        return [Path(match) for match in matches]
    dataset = None if ending(Path(path)) in ENDINGS else hub_dataset(path)
    if dataset is None:
        raise MissingFileError(f"{name}: {path}: no such file or folder; check the path")
    return [dataset]


def open_source(path: Path | HubDataset, name: str, cache: Path) -> Source:
    """Open a file, a folder that `datasets` saved, or a dataset of the hub.

    Raises:
        CorpusError: if it is damaged, empty or of an unknown kind.
    """
    if isinstance(path, HubDataset):
        return open_hub_dataset(path, name)
    if path.is_dir():
        return open_dataset_folder(path)
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise MissingFileError(f"{path}: expected a file, got something else, such as a pipe; write it to a file first")
    kind = ending(path)
    if kind not in ENDINGS:
        raise UnknownFormatError(
            f"{name}: {path}: unknown kind of file {path.suffix or '(no extension)'!r}; expected {', '.join(ENDINGS)},"
            " also with .gz or .zst, or a datasets folder"
        )
    file = decompressed(path, cache) if path.suffix.lower() in COMPRESSIONS else path
    if kind in _JSON:
        return JsonRows(file, path, cache)
    if kind in _PARQUET:
        return open_parquet(file, path, cache)
    return open_arrow(file, path) if kind in _ARROW else open_csv(file, path, cache)


def ending(path: Path) -> str:
    """Return the ending that tells the kind of a file, in small letters and without the one of a compression."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    return name.suffix.lower()


def _files_of(folder: Path, name: str) -> list[Path | HubDataset]:
    """Return a folder that `datasets` saved, or the files of a folder that hold rows, sorted by name."""
    children = sorted(folder.iterdir())
    if any((folder / saved).is_file() for saved in _SAVED):
        return [folder]
    files: list[Path | HubDataset] = [
        child
        for child in children
        if child.is_file() and child.name not in _NO_ROWS and child.name[0] != "." and ending(child) in ENDINGS
    ]
    if files:
        return files
    inside = next((child for child in children if child.is_dir()), None)
    hint = f"; name one of its folders, for instance {inside}" if inside is not None else ""
    raise MissingFileError(
        f"{name}: {folder}: a folder with no file of rows ({', '.join(ENDINGS)}), and not one that datasets'"
        f" save_to_disk wrote{hint}"
    )
