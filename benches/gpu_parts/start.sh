#!/usr/bin/env bash
# On a machine with a GPU, in the root of the checkout, after `make gpu-pack` where there is Rust and a network:
# bash benches/gpu_parts/start.sh [arguments of benches.gpu]. Records go to $OUT, else to benches/record/gpu.
set -eu
cd "$(dirname "$0")/../.."
[ -d .gpu ] || { echo ".gpu: not there; run make gpu-pack on a machine with Rust and a network" >&2; exit 1; }
scratch=${TMPDIR:-/tmp}/gdig-gpu
mkdir -p "$scratch"
# What the machine has is not replaced.
for wheel in .gpu/wheels/*.whl; do
	name=$(basename "$wheel"); name=${name%%-*}
	python3 -c "import importlib.metadata as m; m.version('$name')" 2>/dev/null ||
		python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$scratch/site" "$wheel"
done
# Python and kernels come from the checkout, so that a new kernels/pinned.py counts, for benches.tune too.
cp .gpu/_native.abi3.so python/gdig/_native.abi3.so.part && mv python/gdig/_native.abi3.so.part python/gdig/_native.abi3.so
export PYTHONPATH=$PWD/python:$PWD:$scratch/site PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=$scratch/triton
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
GDIG_COMMIT=$(cat .gpu/commit) && export GDIG_COMMIT
nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.limit,memory.total --format=csv,noheader || true
python3 -c 'import numpy, torch, transformers, triton, gdig.errors; print(torch.__version__, triton.__version__, transformers.__version__, numpy.__version__, gdig.__file__)'
exec python3 -m benches.gpu ${OUT:+--record "$OUT/gpu"} "$@"
