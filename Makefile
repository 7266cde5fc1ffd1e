# hvd_yolo: `make train` and `make test` do everything on a fresh machine; `make setup` alone prepares it (GPU=1: CUDA and NCCL).

SHELL  := /bin/bash
PYTHON ?= python3
GPU    ?= 0
DEV    ?= 1
DEVICE := $(if $(filter 1,$(GPU)),gpu,cpu)
VENV   ?= $(if $(filter 1,$(GPU)),.venv-gpu,.venv)
BIN    := $(abspath $(VENV))/bin

# command that must exist : Debian package that brings it
PACKAGES := cmake:cmake g++:g++ mpicxx:libopenmpi-dev mpirun:openmpi-bin ssh:openssh-client
# The tests make hosts of their own, with links and ssh between them, and a Slurm.
PACKAGES += $(if $(filter test,$(MAKECMDGOALS)),ip:iproute2 sshd:openssh-server faketime:faketime)
PACKAGES += $(if $(filter test,$(MAKECMDGOALS)),slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge)

REQUIREMENTS := $(if $(filter 1,$(GPU)),requirements-gpu.txt) requirements.txt $(if $(filter 1,$(DEV)),requirements-dev.txt)
STAMP := $(VENV)/.requirements-$(DEVICE)$(if $(filter 1,$(DEV)),-dev)

# Without a network: a folder of wheels, and of Horovod's source package (pip download -d FOLDER ...).
ifdef WHEELS
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath $(WHEELS))
endif

.PHONY: setup system train test test-torch gpu-check lint clean

setup: system $(STAMP)
	@./install_horovod.sh $(VENV) $(DEVICE)
	@echo "setup: ready; . $(VENV)/bin/activate puts python and horovodrun on your PATH"

# Root installs what is missing; anyone else is told, and goes on with Gloo alone when only MPI is missing.
system:
	@missing=; for pair in $(PACKAGES); do \
	  command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair##*:}"; done; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	$(PYTHON) -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null \
	  || missing="$$missing python3-dev"; \
	if [ -z "$$missing" ]; then echo "system: every needed package is here"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "system: installing$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
	  echo "system: missing$$missing; as root: apt-get install$$missing"; \
	  if command -v cmake >/dev/null && command -v g++ >/dev/null; then \
	    echo "system: going on with what is here; without MPI, Horovod is built on Gloo alone"; \
	  else exit 1; fi; fi

$(VENV)/bin/python: | system
	@echo "venv: $(VENV) from $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(STAMP): $(REQUIREMENTS) setup.py $(VENV)/bin/python
	@echo "pip: $(strip $(REQUIREMENTS))"
	@if [ $(DEVICE) = gpu ]; then $(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-gpu.txt; fi
	@$(BIN)/python -m pip install -q --disable-pip-version-check \
	  $(if $(filter 1,$(DEV)),-r requirements-dev.txt) \
	  -r <(if [ $(DEVICE) = gpu ]; then grep -v '^torch==' requirements.txt; else cat requirements.txt; fi)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Two Horovod ranks on the drawn data set, or one where there is one GPU; ends with AP on the console, the run in runs/.
train: RANKS = $(if $(filter gpu,$(DEVICE)),$(shell nvidia-smi -L | head -2 | wc -l),2)
train: setup
	$(BIN)/horovodrun -np $(RANKS) -H localhost:$(RANKS) $(BIN)/python -m hvd_yolo.train \
	  --config configs/shapes_yolov8n.yaml --device $(if $(filter gpu,$(DEVICE)),cuda,cpu)

# Jobs of several ranks one after the other, for MPI polls while it waits; all else on two cores at once. LONG=1: the long tests too.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(if $(LONG),-m "") -n 2 --dist loadfile tests --ignore tests/cluster --ignore tests/gpu
	$(BIN)/python -m pytest -q $(if $(LONG),-m "") --durations 25 tests/cluster
	$(BIN)/python -m tests.pretend_cuda.run -m pytest -q tests/gpu

# The core of the unit tests with another torch than that of requirements.txt, without Horovod: make test-torch TORCH=2.14.1
TORCH ?= 2.14.1
OTHER := .venv-torch-$(TORCH)
CORE := tests/models tests/evaluate $(addprefix tests/test_,boxes.py checkpoint.py large_batch.py letterbox.py optim.py \
  out_of_memory.py precision.py soup.py)
test-torch: system
	@[ -x $(OTHER)/bin/python ] || $(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install -q --disable-pip-version-check torch===$(TORCH) -r requirements-dev.txt \
	  -r <(grep -v '^torch==' requirements.txt)
	$(OTHER)/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	OMP_NUM_THREADS=1 $(OTHER)/bin/python -m pytest -q -n 2 --dist loadfile $(CORE)

# Checks and measures this machine's GPU in less than 8 minutes (benchmarks/gpu_check.py). WHEELS=FOLDER: without a network;
# PEER=PYTHON: ultralytics beside it; PRETEND=1: tries it out where there is no GPU.
gpu-check:
ifeq ($(PRETEND),1)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.gpu_check --pretend
else
	@started=$$(date +%s) && $(MAKE) --no-print-directory setup GPU=1 DEV=1 && \
	left=$$((470 + started - $$(date +%s))) && \
	.venv-gpu/bin/python -m benchmarks.gpu_check $(if $(PEER),--peer $(PEER)) --budget $$((left > 240 ? left : 240))
endif

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
