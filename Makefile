# From a fresh clone: `make demo`, or `make test`. Needs Python >= 3.10 (PYTHON=python3.12 chooses one) and make.
PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/installed

.PHONY: .venv demo bavit docs quality readme test test-slow test-all lowest lmms-eval lint types bench clean
.PHONY: cpp cpp-ready cpp-headers cpp-asan cpp-tsan cpp-fuzz cpp-arm64

.venv: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/edgeprune export --method fastervlm --keep 36 --target cpu --output demo/bundle --assemble demo/assembled --force
	$(BIN)/edgeprune verify demo/bundle
	$(BIN)/edgeprune bench demo/bundle
	$(BIN)/edgeprune show demo/bundle edgeprune/models/tiny/scenes/scene01.png --output demo/kept.png
	$(BIN)/edgeprune verify demo/assembled --generate
	$(BIN)/edgeprune ask demo/assembled edgeprune/models/tiny/scenes/scene00.png "what color is the square?"

# A classifier of background, a detector fine-tuned to do without it, and what both are worth: on drawn scenes, with
# nothing to download. Under 30 minutes on one thread.
bavit: $(STAMP)
	mkdir -p demo
	cd demo && ../$(BIN)/edgeprune bavit train --threads 1 --force
	cd demo && ../$(BIN)/edgeprune bavit finetune --control --threads 1 --force
	cd demo && ../$(BIN)/edgeprune bavit eval --threads 1 --force

# What every method loses: 1000 held-out scenes, every method at 64, 32, 16 and 8 tokens, into the table of
# docs/quality.md, and the one for choosing of docs/methods.md. Interrupted, it goes on where it was. About an hour of
# one CPU.
quality: $(STAMP)
	$(BIN)/edgeprune sweep --count 1000 --output demo/quality
	$(BIN)/python -m edgeprune.cli.tables.quality demo/quality docs/quality.md
	$(BIN)/python -m edgeprune.cli.tables.choosing demo/quality docs/methods.md docs/quality.md

# `make test` leaves out what is marked slow or cells, `make test-slow` is what is slow; `make test-all` is all of it, with
# every cell of the matrices, and takes an hour or more.
# The workers are the threads, in the processes that tests start as well.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

test: $(STAMP) cpp-headers
	$(PYTEST) -m "not slow and not cells"

test-slow: $(STAMP) cpp-headers
	$(PYTEST) -m "slow and not cells"

test-all: $(STAMP) cpp-headers
	$(PYTEST)

# What README.md tells a newcomer to type, here and from the wheel of the source distribution.
readme: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=2 tests/test_docs_run.py::test_the_readme_runs_word_for_word tests/test_packaging.py

# The C library: what is missing is said in one line; ONNX Runtime's headers are fetched where apt can, into build/. It is
# run with the ONNX Runtime of .venv. `make test` builds it as well, and leaves its tests out where it cannot.
JOBS := $(shell nproc 2> /dev/null || echo 1)

cpp-ready:
	@runtime/cpp/cmake/ready.sh build/onnxruntime

cpp-headers:
	-@runtime/cpp/cmake/ready.sh build/onnxruntime

define tested_cpp    # $(1): a preset of runtime/cpp/CMakePresets.json
	EDGEPRUNE_ONNXRUNTIME="$$($(BIN)/edgeprune runtime-source --onnxruntime)" && export EDGEPRUNE_ONNXRUNTIME && \
	    cd runtime/cpp && cmake --preset $(1) && cmake --build --preset $(1) --parallel $(JOBS) && ctest --preset $(1)
endef

cpp: $(STAMP) cpp-ready
	$(call tested_cpp,default)

cpp-asan: $(STAMP) cpp-ready    # AddressSanitizer and UndefinedBehaviorSanitizer
	$(call tested_cpp,asan)

cpp-tsan: $(STAMP) cpp-ready
	$(call tested_cpp,tsan)

# What strangers could send, for so many seconds in all: libFuzzer of clang, with the sanitizers of cpp-asan.
FUZZ_SECONDS := 60

cpp-fuzz: $(STAMP) cpp-ready
	$(call tested_cpp,fuzz)
	.ci/fuzz build/cpp-fuzz/fuzz $(FUZZ_SECONDS)

# Cross-compiled, and run in an emulator.
cpp-arm64: $(STAMP) cpp-ready
	.ci/arm64 build/cpp-arm64

# The oldest versions that pyproject.toml allows a device, on Python 3.10 where there is one.
lowest: $(STAMP)
	.ci/lowest

# lmms-eval on a bundle: its sixty packages go into an environment of their own, about 4 GB.
lmms-eval: $(STAMP)
	test -x .lmms/bin/python || $(BIN)/uv venv --quiet .lmms
	$(BIN)/uv pip install --quiet --python .lmms/bin/python --editable '.[lmms-eval]' pytest
	.lmms/bin/python -m pytest tests/integrations/test_lmms_eval.py

# The tables of README.md and docs/, from what the code declares; tests/test_docs.py fails where one is not current.
docs: $(STAMP)
	$(BIN)/python -m edgeprune.cli.tables.docs README.md docs/*.md

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/pytest tests/bench --capture=no

clean:
	rm -rf demo build dist .lmms .lowest *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
