# Everything is run from here; `make help` lists it. Needs Python 3.10 or newer and a Rust toolchain, nothing else.

PYTHON ?= python3
BIN := .venv/bin
# The interpreter that pyo3 builds against, the same one for every cargo command, so that none rebuilds the other's work.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

RUST := Cargo.toml Cargo.lock rust-toolchain.toml $(shell find rust/gdig-core rust/gdig-py -name '*.rs' -o -name Cargo.toml)

# One worker a core; tests/conftest.py says which worker gets which test.
PYTEST := $(BIN)/python -m pytest --numprocesses auto
# https://nexte.st runs each test in a process of its own, and the long ones beside the others.
CARGO_TEST := if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --workspace --cargo-quiet --status-level fail; \
	else cargo test --workspace --quiet; fi

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: venv
venv: .make/native ## make .venv and build gdig into it; later runs rebuild only what changed

.make/venv:
	@command -v cargo >/dev/null || { echo "no Rust toolchain: cargo is not on the PATH (see https://rustup.rs)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v < (3, 10) and sys.exit(f"Python 3.10 or newer is needed, $(PYTHON) is {v.major}.{v.minor}")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@mkdir -p .make && touch $@

.make/python: pyproject.toml .make/venv
	@echo "installing torch and the other dependencies into .venv: minutes the first time"
	@# uv installs 5 GB in about a minute, pip in about six. pip knows indexes that uv does not, so it is the second try.
	@# uv installs the dependencies alone: gdig with them would be built here, and once more below.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement pyproject.toml --extra dev || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The link from .venv to python/gdig; one is enough, whatever is built.
.make/native: INSTALLED = $(wildcard .venv/lib/python*/site-packages/gdig-*.dist-info)
.make/native: .make/python $(RUST)
	PIP_QUIET=1 $(BIN)/python -m maturin develop --release --quiet $(if $(INSTALLED),--skip-install)
	@touch $@

.PHONY: demo
demo: .make/native ## make a small corrupted pool and a tiny model, select from it, say what was found
	$(BIN)/python -m examples.demo

.PHONY: check
check: lint ## check style and run the quick tests: under two minutes
	$(CARGO_TEST)
	HYPOTHESIS_PROFILE=quick $(PYTEST) -m 'not (slow or distributed or packaging or triton or peers)'

.PHONY: test
test: .make/native ## run every test, cargo's and pytest's; make packaging has the builds
	$(CARGO_TEST)
	$(PYTEST) -m 'not packaging'

.PHONY: drill
drill: .make/native ## damage runs, kill starts and let disks fail for ten minutes (needs cc); MINUTES and RANDOM_SEED change that
	$(BIN)/python -m tests.drill --minutes $(or $(MINUTES),10) --random-seed $(or $(RANDOM_SEED),0)

.PHONY: report-test
report-test: .make/native ## open the report in a headless Chromium; screenshots go into build/report-test
	$(BIN)/python -m pytest -n 0 -rs tests/test_report.py tests/test_report_browser.py

.PHONY: docs
docs: .make/native ## build the site of the documentation into build/site (pip install 'gdig[docs]'); any warning fails
	@$(BIN)/python -c 'import furo, myst_parser, sphinx' 2>/dev/null || \
		{ echo "the site needs Sphinx, MyST and furo: $(BIN)/python -m pip install 'gdig[docs]'" >&2; exit 1; }
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --jobs auto -c docs . build/site
	@echo "the site: build/site/index.html"

.PHONY: packaging
packaging: .make/native ## build sdist and wheels, compare what they hold, run one on a machine without Rust
	$(BIN)/python -m pytest tests/test_packaging.py

.PHONY: lint lint-style lint-types lint-rust
lint: lint-style lint-types lint-rust ## check style, types and warnings, of Python and Rust; -j2 does it on two cores

lint-style: .make/python
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	cargo fmt --all --check

lint-types: .make/native
	$(BIN)/python -m mypy
	MYPYPATH=python $(BIN)/python -m mypy.stubtest gdig._native --mypy-config-file .ci/stubtest.ini

lint-rust: .make/venv
	cargo clippy --workspace --all-targets --quiet -- -D warnings

.PHONY: compile-tests
compile-tests: lint-rust
	cargo test --workspace --no-run --quiet

.PHONY: format
format: .make/python ## rewrite Python and Rust in the project's style
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format
	cargo fmt --all

.PHONY: bench
bench: .make/native ## measure the selection on real pairs (a file named by GDIG_ZH_EN), into benches/record/
	$(BIN)/python -m benches.real_zh_en

.PHONY: evidence
evidence: .make/native ## measure whether the scores predict and the selection helps: an hour at most, goes on if interrupted
	$(BIN)/python -m benches.evidence

.PHONY: evidence-quick
evidence-quick: .make/native ## the same at small sizes, in three minutes; changes no record that is kept
	$(BIN)/python -m benches.evidence --quick

.PHONY: evidence-pretrained
evidence-pretrained: .make/native ## measure selections on SmolLM2-135M (pip install 'gdig[pretrained]'): some hours of one core, goes on if interrupted
	$(BIN)/python -m benches.evidence_pretrained

.PHONY: figures
figures: .make/native ## write the tables of README and docs/ anew from benches/record/
	$(BIN)/python -m benches.figures

.PHONY: bench-sweep
bench-sweep: .make/native ## measure sweep and fit beside a plain forward and backward pass, into benches/record/
	$(BIN)/python -m benches.sweep

.PHONY: parity
parity: .make/native ## compare scores with kronfluence's and bergson's (pip install 'gdig[peers]'), into benches/record/
	$(BIN)/python -m benches.parity

.PHONY: parity-expectations
parity-expectations: .make/native ## write the peers' scores that the tests compare with, into tests/data/
	$(BIN)/python -m benches.parity --write-expectations

.PHONY: bench-rust
bench-rust: .make/python ## measure the kernels of k-means by themselves: GFLOP/s, and the share of the ceiling
	cargo bench -p gdig-core --bench assign

.PHONY: bench-bids
bench-bids: .make/native ## measure BIDS beside its plain form in NumPy, into benches/record/
	$(BIN)/python -m benches.bids

.PHONY: bench-tagcos
bench-tagcos: .make/native ## measure TAGCOS's pursuit beside its plain form and scikit-learn's, into benches/record/
	OMP_NUM_THREADS=1 $(BIN)/python -m benches.tagcos --threads 1

.PHONY: bench-neighbours
bench-neighbours: .make/native ## measure the graph of neighbours beside faiss's (pip install 'gdig[bench]'), into benches/record/
	$(BIN)/python -m benches.neighbours --faiss-queries 10000

.PHONY: gpu-pack
gpu-pack: .make/native ## pack what a machine with a GPU lacks into .gpu/: the extension and wheels, 20 MB at most
	$(BIN)/python -m benches.gpu_parts.pack

.PHONY: gpu
gpu: ## on a machine with a CUDA GPU, after gpu-pack: check and measure kernels, passes and fit in nine minutes
	bash benches/gpu_parts/start.sh

.PHONY: tune
tune: .make/native ## time the kernels' configurations on a CUDA GPU and pin the fastest, in kernels/pinned.py
	$(BIN)/python -m benches.tune

.PHONY: wheel
wheel: .make/python ## build sdist and wheel into dist/
	$(BIN)/python -m maturin build --release --sdist --out dist

.PHONY: wheels
wheels: .make/python ## build manylinux2014 wheels for x86-64 and aarch64 (zig links them), try both (aarch64: qemu-user-static)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ziglang auditwheel
	.ci/wheels $(BIN)/python dist/wheels

.PHONY: clean
clean: ## remove everything built, except .venv
	rm -rf .make target rust/fuzz/target dist build demo python/gdig/_native*.so .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find python kernels tests benches examples -name __pycache__ -prune -exec rm -rf {} +
