"""Select fine-tuning data by gradients: influence for quality, clustered gradient sketches for diversity."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdig.api import cluster, explain, fit, preview, select, sweep
    from gdig.config.config import Config
    from gdig.errors import GdigError
    from gdig.kmeans import KMeans
    from gdig.resampling import resample
    from gdig.store.sketches import SketchStore

# Loaded on first use, so that `import gdig` costs neither torch nor transformers nor triton. No module bears the name
# of a public function: importing it would put the module where the function is expected.
_WHERE = {
    "Config": "gdig.config.config",
    "GdigError": "gdig.errors",
    "KMeans": "gdig.kmeans",
    "SketchStore": "gdig.store.sketches",
    "cluster": "gdig.api",
    "explain": "gdig.api",
    "fit": "gdig.api",
    "preview": "gdig.api",
    "resample": "gdig.resampling",
    "select": "gdig.api",
    "sweep": "gdig.api",
}
__all__ = [
    "Config",
    "GdigError",
    "KMeans",
    "SketchStore",
    "cluster",
    "explain",
    "fit",
    "preview",
    "resample",
    "select",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'gdig' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
