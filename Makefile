# `make demo` and `make test` need Python >= 3.11 with venv, make and git, and nothing else.

PYTHON ?= python3
# The folder of programs in an environment.
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := .venv/$(SCRIPTS)
NEWEST := .venv-newest/$(SCRIPTS)
DOCS := .venv/docs/$(SCRIPTS)
# Two threads that wait for each other lose more than they gain where another process holds a core: let them sleep.
export OMP_WAIT_POLICY := PASSIVE

DEMO := demo/tissue
DEMO_SIZE ?= 2048

SITE := build/site

# The newest releases of all packages, anndata 0.13 and pandas 3 among them, need a newer Python than the tested set.
NEWEST_PYTHON ?= $(PYTHON)
NEWEST_TESTS := tests/embedding tests/export tests/napari/test_study.py tests/cli/test_result_commands.py \
	tests/tl/test_drawn_outlines.py tests/tl/test_fingerprints.py

# The panel's tests open windows; xvfb-run gives them a screen where there is none.
SCREEN := $(if $(shell command -v xvfb-run),xvfb-run -a -s '-screen 0 1600x1000x24')

.PHONY: demo test dist test-install test-newest test-panel check docs docs-links clean

demo: .venv/library
	@mkdir -p demo
	@test -f $(DEMO)_truth.csv || $(BIN)/mxsplicer simulate --out $(DEMO).ome.tiff --size-px $(DEMO_SIZE)
	@$(BIN)/mxsplicer embed $(DEMO).ome.tiff --mask $(DEMO)_mask.ome.tiff --out $(DEMO).mxs \
		--drop AF1 --drop Argo550 \
		--labels $(DEMO)_truth.csv --score lineage --score t_cell_subtype --score localisation --score coincidence

# A file's tests share what one of them made, so a file stays with one process.
test: .venv/tests
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile
	$(MAKE) test-panel

# The wheel is built from the source distribution, which is what people install elsewhere.
dist: .venv-dist/installed
	rm -rf dist
	.venv-dist/$(SCRIPTS)/python -m build
	.venv-dist/$(SCRIPTS)/python -m twine check --strict dist/*

# A fresh environment with what pip installs: the source distribution, then the wheel and the first lines of the README.
test-install: dist
	rm -rf .venv-newest
	$(NEWEST_PYTHON) -m venv .venv-newest
	$(NEWEST)/python -m pip install --quiet 'torch==$(shell sed -n 's/^torch==//p' constraints.txt)'
	$(NEWEST)/python -m pip install --quiet dist/*.tar.gz
	$(NEWEST)/mxsplicer --version
	$(NEWEST)/python -m pip install --quiet --force-reinstall --no-deps dist/*.whl
	MPLBACKEND=agg PYTHONPATH= $(NEWEST)/python tests/readme_lines.py

test-newest: test-install
	$(NEWEST)/python -m pip install --quiet "$$(echo dist/*.whl)[napari,spatialdata]" hypothesis pytest pytest-xdist
	PYTHONPATH= $(NEWEST)/pytest -q -n auto --maxprocesses 4 --dist loadfile $(NEWEST_TESTS)

test-panel: .venv/tests
	@if [ -n "$(SCREEN)$$DISPLAY" ]; then \
		QT_API=pyqt6 $(SCREEN) $(BIN)/pytest -q -c tests/napari/screen/pytest.ini --rootdir . --confcutdir . tests/napari/screen; \
	else echo "No screen and no xvfb-run: the panel's tests with windows are left out."; fi

check: .venv/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Warnings are errors: a link to a page or heading that does not exist, a page that the navigation lacks, and more.
docs: .venv/docs/installed
	$(DOCS)/python -m sphinx -q -W --keep-going -b html -d build/docs-cache docs $(SITE)
	@echo "The site is $(SITE)/index.html"
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ]; then $(BIN)/python -m webbrowser -t "file://$(CURDIR)/$(SITE)/index.html"; fi

# Links to other sites; needs the network.
docs-links: .venv/docs/installed
	$(DOCS)/python -m sphinx -q -W --keep-going -b linkcheck -d build/docs-cache docs build/links

clean:
	rm -rf .venv .venv-dist .venv-newest demo dist build docs/generated

# torch first, and pinned: an open range would bring the newest build with all of its GPU libraries.
.venv/python: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it by PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Python's venv is missing: on Debian or Ubuntu, apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip torch
	@touch $@

.venv/library: .venv/python pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/tests: .venv/python pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/library

# Sphinx's environment sees the library's packages after its own, so that they are not installed twice.
.venv/docs/installed: docs/requirements.txt | .venv/library
	$(BIN)/python -m venv .venv/docs
	$(DOCS)/python -m pip install --quiet --requirement docs/requirements.txt
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(DOCS)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/library.pth"
	@touch $@

# Apart from the tested set: twine needs a newer packaging.
.venv-dist/installed: Makefile
	$(PYTHON) -m venv .venv-dist
	.venv-dist/$(SCRIPTS)/python -m pip install --quiet build==1.6.1 twine==7.0.0
	@touch $@
