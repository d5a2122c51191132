# `make demo` and `make test` each do all the set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
DEMO_OUT ?= demo-output
WHEEL_VENV ?= build/wheel-venv

.PHONY: install install-demo demo test check lint docs bench dist dist-test clean

# What `lesionwise` itself needs: no nnU-Net, no trainers, no test tools.
install-demo: $(VENV)/.demo

$(VENV)/.demo: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	touch $@

# Everything: all extras, test tools, documentation.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@# nnunetv2 brings a torchvision that may not match a CPU build of torch; nothing here needs it.
	@$(BIN)/python -c "import torchvision" >/dev/null 2>&1 || $(PIP) uninstall --yes torchvision
	touch $(VENV)/.demo $@

demo: install-demo
	$(BIN)/lesionwise demo $(DEMO_OUT)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/python -m pytest --doctest-modules src/lesionwise -p no:cacheprovider

# The quick half of the tests, on one core in about a minute: for while you write.
check: install
	$(BIN)/python -m pytest -m "not slow and not browser" tests/geometry tests/stats tests/io tests/test_metrics.py tests/test_windows.py tests/test_package.py tests/test_docs.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	$(BIN)/lint-imports

# The documentation site in build/site; warnings are errors.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

bench: install
	$(BIN)/python -m benchmarks

dist: install
	rm -rf build/dist
	$(BIN)/python -m build --outdir build/dist . >build/dist.log

# The wheel in an empty environment, as a user gets it.
dist-test: dist
	rm -rf $(WHEEL_VENV)
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip --quiet --disable-pip-version-check install -c constraints.txt build/dist/*.whl
	cd build && wheel-venv/bin/lesionwise --version && wheel-venv/bin/lesionwise demo wheel-demo --samples 4

clean:
	rm -rf $(VENV) $(DEMO_OUT) build
