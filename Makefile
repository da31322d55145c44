# Two commands do all set-up on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
VENV4 := .venv-tl4
PIP_FLAGS := --quiet --disable-pip-version-check
# Python compiles what is imported when it is; of all that is installed that is little.
INSTALL := install $(PIP_FLAGS) --no-compile
RUN := $(VENV)/bin
JOBS ?= 2
WORKERS ?= 2
ARCHITECTURES ?= 2
LAWS := tests/contract tests/golden tests/reference
PYTEST_FLAGS := -q -n $(WORKERS) --dist worksteal
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/pytest $(PYTEST_FLAGS)

.PHONY: demo test lint types floors unit typed plain laws browser newest docs demos wheel models gallery bench peers gpu factlm clean

demo: $(VENV)/.demo
	$(RUN)/tl-knowledge trace --out build/trace.html
	@echo "Open build/trace.html in a browser."

# JOBS checks at a time, the longest first, and each in one process, which imports and collects once; ALSO=wheel for the wheel beside them.
# Both environments first: make would put off the check that waits for one until all others are done.
test:
	$(MAKE) --jobs $(JOBS) $(VENV)/.dev $(VENV4)/.dev
	$(MAKE) --jobs $(JOBS) --output-sync=target WORKERS=0 plain laws newest typed browser demos docs types lint floors $(ALSO)

lint: $(VENV)/.dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(VENV)/.dev
	$(RUN)/basedpyright --warnings --pythonpath $(RUN)/python

floors: $(VENV)/.dev
	$(RUN)/lint-imports

unit: typed plain laws browser

# One architecture and the docstrings' examples, with the types and shapes of every call checked.
typed: $(VENV)/.dev
	$(PYTEST) -m typed --jaxtyping-packages=tl_knowledge,beartype.beartype

# Every other test without: what one function does; and engines against loops, contracts, published programs' numbers.
plain: $(VENV)/.dev
	$(PYTEST) $(LAWS:%=--ignore=%) -m "not typed and not browser"

laws: $(VENV)/.dev
	$(PYTEST) $(LAWS) -m "not typed"

# One process, whose Chromium takes the other core.
browser: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(RUN)/pytest -q tests/browser

# The newest TransformerLens: what touches a model, each test on ARCHITECTURES of the architectures.
newest: $(VENV4)/.dev
	OMP_NUM_THREADS=1 $(VENV4)/bin/pytest tests $(PYTEST_FLAGS) --architectures $(ARCHITECTURES) -m "touches_model and not slow and not browser"

# Not --quiet: under it MkDocs counts no warnings, so that --strict lets broken links pass.
docs: $(VENV)/.dev
	$(RUN)/python docs/tools/import_graph.py --check
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict

demos: $(VENV)/.dev
	$(RUN)/python -W ignore demos/build_notebooks.py build/demos

# A wheel of this tree in an environment of its own: the command, the bundled model and a page, from another directory.
wheel:
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip wheel $(PIP_FLAGS) --no-deps --wheel-dir build/wheel .
	build/wheel/venv/bin/pip $(INSTALL) -c constraints.txt torch
	build/wheel/venv/bin/pip $(INSTALL) -c constraints.txt build/wheel/*.whl
	cd build/wheel && venv/bin/tl-knowledge --version
	cd build/wheel && OMP_NUM_THREADS=1 venv/bin/tl-knowledge trace --out trace.html
	cd build/wheel && venv/bin/python -c "import tl_knowledge as tlk; assert 'site-packages' in tlk.__file__, tlk.__file__; print(tlk.load_model('factlm').cfg.n_layers, 'layers')"

# Every architecture on both lines of TransformerLens; writes docs/models.md and docs/what_runs_where.md.
models: $(VENV)/.dev $(VENV4)/.dev
	mkdir -p build
	PYTHONPATH=tests $(RUN)/python -W ignore -m support.model_table build/models-3.json
	PYTHONPATH=tests $(VENV4)/bin/python -W ignore -m support.model_table build/models-4.json
	PYTHONPATH=tests $(RUN)/python -W ignore -m support.model_table build/models-3.json build/models-4.json docs/models.md
	PYTHONPATH=tests $(RUN)/python -W ignore -m support.run_page build/runs-3.json
	PYTHONPATH=tests $(VENV4)/bin/python -W ignore -m support.run_page build/runs-4.json
	PYTHONPATH=tests $(RUN)/python -W ignore -m support.run_page build/runs-3.json build/runs-4.json docs/what_runs_where.md

gallery: demos
	$(RUN)/python demos/build_gallery.py build/demos docs
	$(RUN)/python demos/build_tutorials.py build/demos docs
	$(RUN)/python docs/tools/import_graph.py

bench: $(VENV)/.dev
	$(RUN)/python benchmarks/trace_engines.py
	$(RUN)/python benchmarks/engine_work.py --plain
	$(RUN)/python benchmarks/trace_fact_sets.py
	$(RUN)/python benchmarks/attribution.py
	$(RUN)/python benchmarks/editing.py
	$(RUN)/python benchmarks/edit_values.py --alphaedit
	$(RUN)/python benchmarks/circuits.py

# Beside other programs, with the packages of the extra; a quarter of an hour, and docs/speed.md anew.
peers: $(VENV)/.dev
	$(RUN)/pip $(INSTALL) -c constraints.txt -e ".[peers]"
	$(RUN)/python -W ignore benchmarks/peers.py --shapes gpt2-small-wide factlm --layers 6 --write docs/speed.md

# Every engine on a CUDA device beside the CPU, in float32 and bfloat16; exit status 2 where there is none.
gpu: $(VENV)/.dev
	$(RUN)/python -W ignore benchmarks/gpu.py

factlm: $(VENV)/.dev
	$(RUN)/python training/factlm/train.py --out build/factlm --recipe gpt2 --seed 0

clean:
	rm -rf $(VENV) $(VENV4) build site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV4)/bin/python:
	$(PYTHON) -m venv $(VENV4)

# torch first and alone: a constraint on it does not stop other packages from asking for its newest build.
$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(RUN)/pip $(INSTALL) -c constraints.txt torch
	$(RUN)/pip $(INSTALL) -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(RUN)/pip $(INSTALL) -c constraints.txt -e ".[dev,docs,ray]"
	touch $@

# The second lane: the newest TransformerLens 4, which has the bridge only; everything else as pinned.
$(VENV4)/.dev: $(VENV4)/bin/python pyproject.toml constraints.txt
	grep -v '^transformer-lens' constraints.txt > $(VENV4)/constraints.txt
	$(VENV4)/bin/pip $(INSTALL) -c $(VENV4)/constraints.txt torch
	$(VENV4)/bin/pip $(INSTALL) -c $(VENV4)/constraints.txt -e ".[dev]" "transformer-lens>=4,<5"
	touch $@
