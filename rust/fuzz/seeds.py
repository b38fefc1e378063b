"""Write sound shards, the seeds of both fuzz targets, into rust/fuzz/corpus/<target>/."""

import shutil
import tempfile
from pathlib import Path

import numpy as np

from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import write_tensors

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Shards of each type, with what a sweep stores beside the rows; and files that are no shards."""
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    extra = {"valid": np.ones(3, np.uint8), "loss": np.ones(3, np.float32), "influence": np.ones((3, 4), np.float16)}
    for target in ("shard_header", "open_file"):
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            for dtype in ("float32", "float16", "bfloat16", "int8"):
                for name, tensors in (("rows", {}), ("sweep", extra)):
                    store = SketchStore.create(Path(scratch) / f"{dtype}-{name}", 2, dtype=dtype, rows_per_shard=8)
                    store.write_shard(0, {"sketch": rows, **tensors})
                    shutil.copy(store.shard_path(0), folder / f"{dtype}-{name}")
        write_tensors(folder / "empty.safetensors", {})
        write_tensors(folder / "odd.safetensors", {"a": np.zeros((0, 3)), "b": np.float64(1.5).reshape(())}, {"k": "v"})


if __name__ == "__main__":
    main()
