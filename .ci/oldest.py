"""Print the oldest releases that pyproject.toml allows, one requirement a line: torch~=2.6.0 and so on.

    python .ci/oldest.py | xargs pip install

An optional dependency that gdig itself imports counts too (peft, accelerate), one of a bench does not.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRAS = ("peft", "large", "train")


def main() -> None:
    """Print them."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    oldest: dict[str, tuple[int, ...]] = {}
    for requirement in [*project["dependencies"], *(r for extra in EXTRAS for r in optional[extra])]:
        match = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        if match is None:
            sys.exit(f"{requirement}: expected name>=version in pyproject.toml")
        name, version = match[1], tuple(int(number) for number in match[2].split("."))
        oldest[name] = max(version, oldest.get(name, version))
    for name, version in oldest.items():
        # Not torch==2.6.0: a later patch of the same release may be the one that can be had.
        print(f"{name}~={'.'.join(str(number) for number in (*version, 0)[:3])}")


if __name__ == "__main__":
    main()
