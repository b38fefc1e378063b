"""The error of an installation without the packages that a part of gdig needs.

K-means, the store of sketches and resampling need NumPy alone, so a wheel is of use without the others.
"""

from __future__ import annotations

from gdig.errors import MissingPackageError

DEPENDENCIES = frozenset(
    {
        "datasets", "jinja2", "numpy", "orjson", "pyarrow", "rich", "safetensors", "torch", "tqdm", "transformers",
        "typing_extensions", "tyro", "yaml",
    }
)  # fmt: skip
"""The modules of the packages that pyproject.toml names."""


def missing_package(what: str, error: ModuleNotFoundError) -> MissingPackageError | None:
    """Return the error that says what `what` needs; None where another module is missing.

    Args:
        what: what was asked for.
        error: of an import.
    """
    package = (error.name or "").partition(".")[0]
    if package not in DEPENDENCIES:
        return None
    return MissingPackageError(
        f"{what} needs the package {package}, which is not installed; `pip install gdig` without --no-deps installs "
        "all that gdig needs. KMeans, SketchStore and resample need NumPy alone"
    )
