# Everything a contributor runs. `make run` and `make test` each work alone on a bare checkout.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
EXAMPLE := examples/meeting_zh.txt
# The first interpreter on PATH that is new enough.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
JOBS ?= $(shell nproc)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
	$(shell find src cpp -not -name '*.pyc' -not -name __pycache__ 2>/dev/null)
CXX_FILES = $(shell find cpp benchmarks src tools -name '*.cc' -o -name '*.h')
PORTABLE := aarch64 riscv64
PYTHON_FILES := src tests tools benchmarks examples

# $(call logged,what,log file,command): set-up output goes to a log, so that the standard output of
# `make run` is the answer alone. The lock keeps two builds out of one environment.
logged = @mkdir -p build; echo "autoglm: $(1) (log: $(2))" >&2; \
	flock $(VENV) bash -euo pipefail -c '$(3)' >$(2) 2>&1 \
	|| { tail -n 40 $(2) >&2; echo "autoglm: $(1) failed, see $(2)" >&2; exit 1; }
# $(call install,purposes): the requirements pyproject.toml states for them.
install = $(BIN)/python tools/requirements.py $(1) >build/requirements-$(1).txt; \
	$(BIN)/python -m pip install -r build/requirements-$(1).txt

configure = $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	-DCMAKE_BUILD_TYPE=Release -DAUTOGLM_PYTHON=OFF -DAUTOGLM_TESTS=ON

.PHONY: help run build test test-native test-portable test-chips wheel-aarch64 sanitize \
	lint fix bench bench-peers bench-compression bench-bounded bench-kernels bench-conv bench-serve try-clients bench-moe bench-window bench-drafts tiny bench-privacy docs cloud bench-cloud sim size fuzz fuzz-site fuzz-bundles fuzz-gguf fuzz-serve vault-faults privacy-faults cloud-faults parity clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## summarise the example meeting, offline
	@$(BIN)/autoglm generate "请总结以下会议记录要点" --file $(EXAMPLE) --offline

build: $(VENV)/.installed ## create .venv and install the package into it

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "autoglm: Python 3.11 or newer is needed: apt install python3" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "autoglm: a C++20 compiler is needed: apt install g++" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, pathlib, sysconfig as s; \
	sys_h = pathlib.Path(s.get_path("include"), "Python.h"); raise SystemExit(not sys_h.exists())' 2>/dev/null || { \
	echo "autoglm: $(PYTHON) lacks its venv module or headers: apt install python3-venv python3-dev" >&2; exit 1; }
	@echo "autoglm: creating $(VENV) with $(PYTHON)" >&2; $(PYTHON) -m venv $(VENV)

$(VENV)/.requirements-%: pyproject.toml $(VENV)/bin/python
	$(call logged,installing $* requirements,build/requirements-$*.log,$(call install,$*))
	@touch $@

# cmake and ninja come from PyPI, so that every machine builds with the same ones.
$(VENV)/.tools: $(VENV)/bin/python
	$(call logged,installing cmake and ninja,build/tools.log,$(BIN)/python -m pip install "cmake>=3.25" ninja)
	@touch $@

$(VENV)/.installed: $(SOURCES) $(VENV)/.tools $(VENV)/.requirements-build $(VENV)/.requirements-runtime
	$(call logged,building,build/install.log,PATH="$(CURDIR)/$(BIN):$$PATH" \
	$(BIN)/python -m pip install --verbose --no-build-isolation --no-deps --force-reinstall .)
	@touch $@

test: build $(VENV)/.requirements-test test-native ## Python and native tests
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		echo "console tests: skipped: not installed (apt install chromium)"
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-native: build/native test-portable ## native tests, then the portable cross builds
	$(BIN)/cmake --build build/native
	$(BIN)/python tools/isa_objects.py build/native
	$(BIN)/ctest --test-dir build/native --output-on-failure $(CTEST_ARGS)

# Emulation is slow: `make test` runs one vector path in full and a slice of the others.
CTEST_ARGS = -LE chips
env-aarch64 = AUTOGLM_ISA=i8mm

test-chips: CTEST_ARGS =
test-chips: env-aarch64 =
test-chips: test-native ## the native tests for every path and processor type, which takes minutes

test-portable: $(addprefix portable-,$(PORTABLE)) ## the portable path for other processors under qemu-user

portable-%: $(VENV)/.tools
	@if ! command -v $*-linux-gnu-g++ >/dev/null || ! command -v qemu-$* >/dev/null; then \
		echo "portable build for $*: skipped: not installed (apt install g++-$(subst _,-,$*)-linux-gnu qemu-user)"; exit; fi; \
	$(configure) -S . -B build/$* -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=$* \
		-DCMAKE_CXX_COMPILER=$*-linux-gnu-g++ -DCMAKE_EXE_LINKER_FLAGS=-static \
		-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-$* >build/portable-$*.log; \
	$(BIN)/cmake --build build/$*; \
	$(BIN)/python tools/isa_objects.py build/$* $*-linux-gnu-; \
	$(env-$*) $(BIN)/ctest --test-dir build/$* --output-on-failure $(CTEST_ARGS)

# The wheel for aarch64 is cross-compiled for the Python of Debian 12; the check answers a question
# with the embedded model under qemu-user.
ARM_PYTHON := build/arm-python
ARM_PLATFORMS := linux_aarch64 manylinux_2_28_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64

wheel-aarch64: $(VENV)/.tools $(VENV)/.requirements-build | $(ARM_PYTHON) ## cross-compile a wheel for aarch64 and try it
	@mkdir -p dist; rm -f dist/*aarch64.whl
	$(call logged,building the aarch64 wheel,build/wheel-aarch64.log,PATH="$(CURDIR)/$(BIN):$$PATH" \
	_PYTHON_HOST_PLATFORM=linux-aarch64 SETUPTOOLS_EXT_SUFFIX=.cpython-311-aarch64-linux-gnu.so \
	$(BIN)/python -m pip wheel --verbose --no-build-isolation --no-deps -w dist \
	-C build-dir=build/wheel-aarch64 -C cmake.define.CMAKE_SYSTEM_NAME=Linux \
	-C cmake.define.CMAKE_SYSTEM_PROCESSOR=aarch64 \
	-C cmake.define.CMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	-C cmake.define.Python_INCLUDE_DIR=$(CURDIR)/$(ARM_PYTHON)/usr/include/python3.11 .)
	@rm -rf build/arm-site
	$(call logged,installing the aarch64 wheel,build/arm-site.log,$(BIN)/python -m pip install \
	--target build/arm-site --python-version 3.11 --implementation cp --only-binary=:all: \
	$(ARM_PLATFORMS:%=--platform %) dist/*aarch64.whl)
	qemu-aarch64 -L $(ARM_PYTHON) -E PYTHONHOME=$(CURDIR)/$(ARM_PYTHON)/usr \
		-E PYTHONPATH=$(CURDIR)/build/arm-site $(ARM_PYTHON)/usr/bin/python3.11 -m autoglm \
		generate "你好" --offline --max-tokens 8
	@ls dist/*aarch64.whl

$(ARM_PYTHON): | $(VENV)/bin/python
	@test "$$($(BIN)/python -c 'import sys; print(*sys.version_info[:2])')" = "3 11" || { \
		echo "autoglm: the aarch64 wheel is built with Python 3.11" >&2; exit 1; }
	@for tool in apt-get aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool >/dev/null || { \
		echo "autoglm: $$tool is needed; on Debian: apt install g++-aarch64-linux-gnu qemu-user" >&2; \
		exit 1; }; done
	$(call logged,fetching Python for aarch64,build/arm-python.log,$(BIN)/python tools/arm_python.py $@)

sanitize: sanitize-memory sanitize-threads ## native tests under ASan with UBSan, then TSan

SANITIZERS-memory := address,undefined
SANITIZERS-threads := thread

sanitize-%: build/sanitize-%
	$(BIN)/cmake --build $<
	$(BIN)/ctest --test-dir $< --output-on-failure

# Little optimisation: the tests take seconds, the kernels minutes to compile with more.
build/sanitize-%: CMakeLists.txt $(VENV)/.tools $(VENV)/.requirements-build
	@mkdir -p $@
	$(configure) -S . -B $@ -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 \
		-DAUTOGLM_SANITIZE=$(SANITIZERS-$*) \
		-DAUTOGLM_PYTHON=$(if $(filter memory,$*),ON,OFF) \
		-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
		-Dnanobind_DIR="$$($(BIN)/python -m nanobind --cmake_dir)" >$@/configure.log
	@touch $@

build/native: CMakeLists.txt $(VENV)/.tools
	$(configure) -S . -B $@
	@touch $@

lint: build $(VENV)/.requirements-lint $(VENV)/.requirements-test ## every static gate
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py benchmarks/peers/*.py benchmarks/resnet/*.py benchmarks/serving/*.py tools/*.py
	$(BIN)/mypy benchmarks/runners/*.py
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/python -m pytest -q tests/gates

fix: build $(VENV)/.requirements-lint $(VENV)/.requirements-test ## format, and regenerate what is generated
	$(BIN)/ruff check --fix $(PYTHON_FILES)
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/clang-format -i $(CXX_FILES)
	$(BIN)/python -m nanobind.stubgen -q -m autoglm._core -o src/autoglm/_core.pyi
	$(BIN)/python tools/generate_protocol.py
	$(BIN)/python tools/cli_reference.py docs/reference/cli.md

bench: build ## measure what README.md states; BENCH_MODEL=DIR adds a larger bundle
	$(BIN)/python benchmarks/figures.py $(if $(BENCH_MODEL),--model $(BENCH_MODEL)) $(ARGS)

bench-peers: build $(VENV)/.requirements-bench ## ours and other engines interleaved; PEERS=DIR keeps theirs
	$(BIN)/python benchmarks/bench_peers.py $(if $(PEERS),--home $(PEERS)) $(ARGS)
	$(BIN)/python benchmarks/report.py

bench-serve: build $(VENV)/.requirements-serve ## the service over HTTP: BENCH_MODEL=DIR, PEERS=DIR beside llama.cpp's server
	$(BIN)/python benchmarks/bench_serve.py $(if $(BENCH_MODEL),--model $(BENCH_MODEL)) \
		$(if $(PEERS),--peers $(PEERS)) $(ARGS)

try-clients: build $(VENV)/.requirements-test ## lm-eval against the service, and the phone agent: PHONE_AGENT=DIR
	$(BIN)/python benchmarks/lm_eval_service.py --venv build/lm-eval
	$(if $(PHONE_AGENT),$(BIN)/python benchmarks/phone_agent.py --agent $(PHONE_AGENT))

CONV_OUT ?= build/conv

bench-conv: build $(VENV)/.requirements-bench-conv ## train, prune and quantise a ResNet: CIFAR10=DIR of train.tar.zst, test.tar.zst
	@test -n "$(CIFAR10)" || { echo "autoglm: name the directory of the images: CIFAR10=DIR" >&2; exit 2; }
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/conv_networks.py --train $(CIFAR10)/train.tar.zst \
		--test $(CIFAR10)/test.tar.zst --out $(CONV_OUT)
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/conv_compression.py --networks $(CONV_OUT) \
		--train $(CIFAR10)/train.tar.zst --test $(CIFAR10)/test.tar.zst $(ARGS)

bench-compression: build $(VENV)/.requirements-bench ## recipes on one checkpoint: ARGS="--checkpoint DIR --calibration FILE --text FILE"
	$(BIN)/python benchmarks/compression.py $(ARGS)

bench-bounded: build ## compress 20 GB of random experts under a cap of 6 GiB (root; 26 GB of disk in WORK)
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/bounded_compression.py --work $(or $(WORK),build/bounded) $(ARGS)

bench-kernels: $(VENV)/.tools ## sparse int8 against dense, int3 against int4, then all kernels: ARGS="threads rows cols"
	@mkdir -p build; $(configure) -DAUTOGLM_BENCH=ON -S . -B build/bench >build/bench.log
	$(BIN)/cmake --build build/bench --target bench_gemm bench_sparse
	build/bench/bench_sparse $(or $(ARGS),2 4096 4096)
	build/bench/bench_gemm $(or $(ARGS),2 4096 4096)

bench-moe: build ## stream the experts of a model larger than its memory cap (8 GB of disk)
	$(BIN)/python benchmarks/moe_streaming.py $(ARGS)

bench-window: build ## perplexity, speed and memory of windows; TEXT=FILE, else our own pages
	$(BIN)/python benchmarks/window.py $(if $(TEXT),--file $(TEXT)) $(ARGS)

# The draft model is trained from a checkpoint of LITE and the packed files of its training.
TINY_OUT = build/tiny
tiny: build $(VENV)/.requirements-train ## train the draft model; TEACHER=CHECKPOINT PACKED=DIR ANSWERS=DIR TOKENIZER=FILE
	$(BIN)/python -m autoglm.lite.distil --teacher $(TEACHER) --packed $(PACKED) --answers $(ANSWERS) --out $(TINY_OUT)
	$(BIN)/python -m autoglm.lite.export --checkpoint $(TINY_OUT)/weights.pt --tokenizer $(TOKENIZER) --out $(TINY_OUT)/hf
	$(BIN)/autoglm convert $(TINY_OUT)/hf $(TINY_OUT)/bundle --weights int8

bench-drafts: build ## decode speed with drafts from the text over that without
	$(BIN)/python benchmarks/prompt_lookup.py $(ARGS)

bench-privacy: build ## recall, precision and speed of the detectors; ARGS="--presidio FILE --text FILE"
	PYTHONPATH=benchmarks $(BIN)/python benchmarks/privacy_figures.py $(ARGS)

docs: build ## regenerate the command reference and the table of the privacy policy
	$(BIN)/python tools/cli_reference.py docs/reference/cli.md
	$(BIN)/python tools/policy_table.py docs/guide/privacy.md

cloud: build $(VENV)/.requirements-cloud ## the cloud service with its own PostgreSQL, until interrupted
	$(BIN)/python tools/cloud_dev.py $(ARGS)

bench-cloud: build $(VENV)/.requirements-test ## speed of sync, cloud, privacy and vault, into BENCHMARKS.md (root)
	PYTHONPATH=tools $(BIN)/python benchmarks/cloud_figures.py $(ARGS)

sim: build $(VENV)/.requirements-test ## simulate synchronisation under faults: SEEDS=N, of 10^5
	$(BIN)/python -m tests.sync.simulation --seeds $(SEEDS) $(ARGS)

SEEDS ?= 100000

size: ## count lines and bytes, and list the files nearest their cap
	@python3 tools/size.py

fuzz: build $(VENV)/.requirements-test fuzz-bundles fuzz-gguf ## property tests with many more examples, broken files
	$(BIN)/python -m pytest -n $(JOBS) -m hypothesis --hypothesis-profile=fuzz $(ARGS)

fuzz-serve: build $(VENV)/.requirements-test ## random requests against the service: no crash, no 5xx; FUZZ_TRIALS=N FUZZ_SEED=S
	$(BIN)/python benchmarks/fuzz_service.py --requests $(FUZZ_TRIALS) --seed $(FUZZ_SEED) $(ARGS)

FUZZ_TRIALS ?= 100000
FUZZ_SEED ?= 1

# The interpreter is not instrumented, so the sanitizers' libraries are loaded before it.
under-asan = LD_PRELOAD="$$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/fuzz/site:benchmarks $(BIN)/python

fuzz-site: build/sanitize-memory $(VENV)/.requirements-runtime
	$(BIN)/cmake --build $< --target _core
	rm -rf build/fuzz; mkdir -p build/fuzz/site; cp -r src/autoglm build/fuzz/site; cp $</_core*.so build/fuzz/site/autoglm

fuzz-bundles: fuzz-site ## broken bundles through load and decode, under ASan
	$(under-asan) tools/fuzz_bundle.py build/fuzz/work --trials $(FUZZ_TRIALS) --seed $(FUZZ_SEED)

fuzz-gguf: fuzz-site ## broken GGUF files through compression, under ASan
	$(under-asan) tools/fuzz_gguf.py build/fuzz/gguf --trials $(FUZZ_TRIALS) --seed $(FUZZ_SEED)

FAULTS_SEED ?= 1

vault-faults: build $(VENV)/.requirements-test ## kill writers of the vault, cut its power, and the control: minutes
	$(BIN)/python tools/vault_kills.py --kills 1000 --seed $(FAULTS_SEED)
	$(BIN)/python tools/vault_power_loss.py --states 10000 --commits 200 --seed $(FAULTS_SEED)
	$(BIN)/python tools/vault_power_loss.py --states 10000 --control --seed $(FAULTS_SEED)

privacy-faults: build $(VENV)/.requirements-test ## broken filters and planted secrets, 10,000 of each
	PYTHONPATH=benchmarks $(BIN)/python tools/privacy_faults.py --seed $(FAULTS_SEED)

# Each line is a test of `make test`, as often as the claim needs.
cloud-faults: build $(VENV)/.requirements-test ## crashes, repeats, tenants and nonces at full size: minutes
	$(BIN)/python -m pytest -q tests/sync/test_records.py -k whatever_is_repeated --scale 1000
	$(BIN)/python -m pytest -q tests/cloud/test_hub.py -k "50_concurrent or tenants_never" --scale 20
	$(BIN)/python -m pytest -q tests/cloud/test_sync_service.py -k crashes_under_load --scale 10
	$(BIN)/python -m pytest -q tests/cloud/test_rollout.py -k killed --scale 10
	$(BIN)/python -m pytest -q tests/cloud/test_canaries.py --scale 50
	$(BIN)/python -m pytest -q tests/privacy -k "nonces_of_forked or enumerating" --scale 250

parity: build $(VENV)/.requirements-test ## compare logits with transformers; PARITY_MODEL=DIR, else a random model
	PYTHONPATH=benchmarks $(BIN)/python tools/parity.py $(PARITY_MODEL) $(ARGS)

clean: ## remove the environment and every build output
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
