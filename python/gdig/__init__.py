"""Select fine-tuning data by gradients: influence for quality, clustered gradient sketches for diversity."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdig.api import cluster, compare, fit, score_net, select, sweep
    from gdig.config.config import Config
    from gdig.errors import (
        ConfigError,
        CorpusError,
        GdigError,
        InputError,
        ModelError,
        NotFittedError,
        OtherRankError,
        RunError,
        StoreError,
    )
    from gdig.kmeans import KMeans
    from gdig.resampling import resample
    from gdig.run.merge import merge
    from gdig.run.verify import verify
    from gdig.selection.result import Selection
    from gdig.showing import explain, plan, preview, report
    from gdig.store.sketches import SketchStore

# Loaded on first use, so that `import gdig` costs neither torch nor transformers nor triton. No module bears the name
# of a public function: importing it would put the module where the function is expected.
_WHERE = {
    "Config": "gdig.config.config",
    "ConfigError": "gdig.errors",
    "CorpusError": "gdig.errors",
    "GdigError": "gdig.errors",
    "InputError": "gdig.errors",
    "KMeans": "gdig.kmeans",
    "ModelError": "gdig.errors",
    "NotFittedError": "gdig.errors",
    "OtherRankError": "gdig.errors",
    "RunError": "gdig.errors",
    "Selection": "gdig.selection.result",
    "SketchStore": "gdig.store.sketches",
    "StoreError": "gdig.errors",
    "cluster": "gdig.api",
    "compare": "gdig.api",
    "explain": "gdig.showing",
    "fit": "gdig.api",
    "merge": "gdig.run.merge",
    "plan": "gdig.showing",
    "preview": "gdig.showing",
    "report": "gdig.showing",
    "resample": "gdig.resampling",
    "score_net": "gdig.api",
    "select": "gdig.api",
    "sweep": "gdig.api",
    "verify": "gdig.run.verify",
}
__all__ = [
    "Config",
    "ConfigError",
    "CorpusError",
    "GdigError",
    "InputError",
    "KMeans",
    "ModelError",
    "NotFittedError",
    "OtherRankError",
    "RunError",
    "Selection",
    "SketchStore",
    "StoreError",
    "cluster",
    "compare",
    "explain",
    "fit",
    "merge",
    "plan",
    "preview",
    "report",
    "resample",
    "score_net",
    "select",
    "sweep",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # brings a hundred modules

        return version("gdig")
    if name not in _WHERE:
        raise AttributeError(f"module 'gdig' has no attribute {name!r}")
    try:
        module = importlib.import_module(_WHERE[name])
    except ModuleNotFoundError as error:
        from gdig.missing_packages import missing_package

        if (missing := missing_package(f"gdig.{name}", error)) is None:
            raise
        raise missing from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
