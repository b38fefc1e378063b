"""Where files may go that a user names: none takes the place of an input, or of a file that a run depends on."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gdig.config.check import wrong
from gdig.config.config import Config
from gdig.config.options import STAGES
from gdig.errors import ConfigError
from gdig.run.layout import RunLayout

PAGE_ENDINGS, TABLE_ENDINGS = (".html", ".htm"), (".parquet",)
"""How the names of pages and of tables end, so that no page takes the place of a file of data."""
_INPUTS = (
    "candidates", "seeds", "exclude", "chat_template_file", "features", "difficulty", "source_quotas", "held_out",
)  # fmt: skip


def check_place(
    name: str,
    path: str | os.PathLike[str],
    config: Config,
    endings: tuple[str, ...] = (),
    others: Iterable[str | os.PathLike[str] | None] = (),
) -> None:
    """Check where an output goes, before anything is computed.

    Args:
        name: of the option that names the output.
        path: of the output.
        config: the options of the run, which name its inputs and its directory.
        endings: how the name may end, in small or capital letters; none for any.
        others: more files that the output must not replace.

    Raises:
        ConfigError: if the name ends in another way, or the output would replace one of the run's own files, an input
            or one of `others`.
    """
    text = os.fspath(path)
    if endings and not text.lower().endswith(endings):
        raise wrong(name, text, f"a name that ends in {' or '.join(endings)}")
    place = Path(path).resolve()
    if config.run_path is not None and _is_own(place, RunLayout(Path(config.run_path).resolve())):
        raise wrong(name, text, "a place beside the run's own files, which it would replace")
    if not place.exists():
        return
    for option in _INPUTS:
        given = getattr(config, option, None)
        for value in (given,) if isinstance(given, str) else given or ():
            if any(file.resolve() == place for file in _files(value)):
                raise ConfigError(f"{name}: {path} is one of the {option}, which it would replace; give another file")
    for other in others:
        if other is not None and Path(other).resolve() == place:
            raise ConfigError(f"{name}: {path} is {other}, which it would replace; give another file")


def _is_own(place: Path, layout: RunLayout) -> bool:
    """Whether a place is that of a file which the run depends on, or writes by itself for people."""
    folders = {folder for stage in STAGES for folder in layout.folders_of(stage)}
    own = {layout.record, layout.lock, layout.ranks_lock, layout.excluded_list}
    return place in own or bool(folders & {place, *place.parents})


def _files(value: str) -> Iterator[Path]:
    """The files that the value of an option may name: a file, those of a folder, or those of a pattern."""
    path = Path(value)
    if path.is_dir():
        yield from path.iterdir()
    elif path.exists() or not glob.has_magic(value):
        yield path
    else:
        yield from map(Path, glob.iglob(value, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
