# make demo    render, train, look; then discover directions: the whole of it in a few minutes
# make test    the test suite
# make test-portability  the tests as on other machines: other instruction sets, busy cores (an hour)
# python tools/mutate.py  deliberate mistakes in the penalty files, and which test notices each (a quarter of an hour)
# make docs    the documents as a site, with the API: build/docs/index.html
# make notebook  the tour from top to bottom, keeping its outputs in the file
# They set up what they need in .venv the first time. PYTHON=python3.12 chooses an interpreter, with a .venv of its own.

PYTHON ?=
VENV := .venv$(if $(PYTHON),-$(notdir $(PYTHON)))
SETUP := python3 tools/make_environment.py
RUN := $(VENV)/bin/python

.PHONY: demo test test-legacy test-portability test-portability-legacy lint docs notebook bench setup

demo: setup
	$(RUN) progan_experiments/demo.py
	$(RUN) biggan_discovery/demo.py

# TensorFlow and PyTorch are imported in one order only, so the suites run in processes of their own: two at a time, the
# longest first, each printed when it ends; a thread each, since threads that outnumber the cores wait for each other.
SUITES := tests/penalty tests/progan tests/biggan tests/utils tests/portable
MODERN_SUITES := tests/documents tests/browser tests/gpu  # what they need has left Python 3.7 behind
SUITE_TARGETS := $(SUITES:%=suite-%)
MODERN_SUITE_TARGETS := $(MODERN_SUITES:%=suite-%)
.PHONY: $(SUITE_TARGETS) $(MODERN_SUITE_TARGETS)

test: setup
	@$(MAKE) --no-print-directory -j2 -Otarget -k SUITE_PYTHON=$(RUN) $(SUITE_TARGETS) $(MODERN_SUITE_TARGETS)

test-legacy:
	@$(SETUP) legacy .venv-legacy $(if $(PYTHON),--python $(PYTHON))
	@$(MAKE) --no-print-directory -j2 -Otarget -k SUITE_PYTHON=.venv-legacy/bin/python $(SUITE_TARGETS)

test-portability: setup
	@$(RUN) tools/portability.py $(SUITES) $(MODERN_SUITES)

test-portability-legacy:
	@$(SETUP) legacy .venv-legacy $(if $(PYTHON),--python $(PYTHON))
	@.venv-legacy/bin/python tools/portability.py $(SUITES)

suite-tests/browser: chromium
.PHONY: chromium
chromium:
	@$(SUITE_PYTHON) tools/chromium.py

$(SUITE_TARGETS) $(MODERN_SUITE_TARGETS): suite-%:
	@echo "== $*"; GPU_TESTS_DEVICE=cpu OMP_NUM_THREADS=1 $(SUITE_PYTHON) -m pytest $*

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check --line-length 100 hessian_penalty_*.py
	@$(RUN) -m ruff format --check --line-length 100 hessian_penalty_*.py

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs --quiet build --strict
	@echo "built: open build/docs/index.html"

notebook: setup
	@$(RUN) tools/run_notebook.py

BENCHMARKS := $(addprefix benchmarks/,render_speed.py discovery_step.py progan_step.py penalty.py)

bench: setup
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(RUN) $$script; done

setup:
	@$(SETUP) modern $(VENV) $(if $(PYTHON),--python $(PYTHON))
