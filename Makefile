# One word per chore. PYTHON picks the interpreter (3.11 or later).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-avx2 chaos check bench objectives docs dist clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[ray,gallery]"
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

$(VENV)/installed-chaos: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[chaos]"
	touch $(VENV)/installed-test $@

# has what the tests need
$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(VENV)/installed-test $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $@

# Four views of an image, so that two cores are done in minutes; the default is eight. DEMO="--limit 128" is shorter.
DEMO ?= --views 4
demo: $(VENV)/installed
	$(BIN)/viewgen cache --dataset digits --method wsearch --out demo/digits-train-wsearch.zarr $(DEMO)

# The short, seeded form of everything, faults included.
JOBS ?= 2
# Compiled files are kept even where the environment says otherwise: each process that a test starts needs them.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal
test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(PYTEST) $(TESTS)

# The fast part, with the instructions that every x86-64 laptop has.
test-avx2: $(VENV)/installed-test
	OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OPENBLAS_CORETYPE=Haswell \
		$(PYTEST) -m "not slow" tests/viewgen tests/viewgen_train tests/viewgen_pretrained tests/contracts tests/pins

# The long fault-injection campaign, which ends with a tally. One test with Ray at a time.
chaos: $(VENV)/installed-chaos
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup -m chaos tests

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Ratios of interleaved runs, and docs/benchmarks.md made of all results.
BENCHMARKS := search end_to_end workers cache_reads loading augmentation training objectives evaluation start_up opening many_images
bench: $(VENV)/installed-dev
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/table.py

# Every objective beside each other, on digits and on 10,000 images of fashion-mnist, in less than an hour on two cores.
objectives: $(VENV)/installed
	for name in digits fashion-mnist; do \
		$(BIN)/viewgen experiment objectives --dataset $$name --out objectives/$$name || exit 1; done

# The documentation, in build/docs; a warning is an error.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sdist, the wheel made of it, and that wheel at work away from these sources.
TRIED := $(shell mktemp -d)/tried
TRY := PYTHONPATH=$(TRIED) OMP_NUM_THREADS=1 $(CURDIR)/$(BIN)/python
dist: $(VENV)/installed-dev
	rm -rf dist $(TRIED)
	$(BIN)/python -m build --outdir dist .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(TRIED) dist/*.whl
	cd $(TRIED) && $(TRY) -c "import viewgen, viewgen_pipelines, viewgen_pretrained, viewgen_train; \
		found = [one.__file__ for one in (viewgen, viewgen_pipelines, viewgen_pretrained, viewgen_train)]; \
		assert all(file.startswith('$(TRIED)/') for file in found), found"
	cd $(TRIED) && $(TRY) -m viewgen models list
	cd $(TRIED) && $(TRY) -m viewgen cache --dataset digits --method wperturb --views 2 --limit 8 --executor local --out tried.zarr
	cd $(TRIED) && $(TRY) -m viewgen verify tried.zarr
	cd $(TRIED) && $(TRY) -m viewgen inspect tried.zarr --static tried --images 4

clean:
	rm -rf $(VENV) demo gallery views.zarr views.png inversions-*.zarr build dist
