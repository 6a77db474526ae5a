PYTHON ?= python3
VENV := .venv
SUBJECT ?= growth
BIN := $(VENV)/bin
ORACLES := build/oracles
AUDIT := build/audit

.DEFAULT_GOAL := help
.PHONY: help install data demo eval tables bench bench-ann bench-gpu bench-rollouts bench-flood bench-sweep bench-faults loadtest capacity soak scale-check scale-plan gpu-check image-check serve explore kubernetes-rules oracles sbom audit test test-long test-slow test-oracles lint format clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The server's binary comes from a wheel whose Python dependencies this project does not use.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[train,serve,load,explore,dev]'
	$(BIN)/python -m pip install --no-deps nvidia-pytriton==0.7.0
	touch $@

install: $(VENV)/installed ## Make .venv with everything at its pinned version

data: install ## Fetch MovieLens 100K
	$(BIN)/unipinrec data fetch movielens

demo: install ## Data, training, export, serving, requests, evaluation: about five minutes the first time
	$(BIN)/unipinrec demo

eval: install ## Train and evaluate from scratch: make eval DATASET=movielens, amazon, kuairand, ebnerd, mind, simulator, lifelong, or policy or rivals after make oracles [DATA=files] [ABLATIONS=1] [TUNING=1]
	$(BIN)/unipinrec eval $(DATASET) $(if $(DATA),--path $(DATA)) $(if $(ABLATIONS),--ablations) $(if $(TUNING),--tuning)

tables: install ## Turn the reports of make eval into docs/results.md
	$(BIN)/unipinrec tables

bench: install ## Unified against separate serving, cold, warm and Zipf: 25 minutes; then the second ranker: four; [QUICK=1] six in all
	$(BIN)/unipinrec bench unified $(if $(QUICK),--quick)
	$(BIN)/unipinrec bench second-ranker $(if $(QUICK),--calls 20 --pairs 30 --rounds 1 --seconds 3)

bench-ann: install ## Measure the kinds of item index on synthetic vectors, up to a million: half an hour; [ARGS='--device cuda']
	$(BIN)/unipinrec bench ann $(ARGS)

bench-gpu: install ## Ranking forwards, graphs, FP8 and served requests on one NVIDIA GPU: 40 minutes; [ARGS='--only table']
	$(BIN)/unipinrec bench gpu $(ARGS)

bench-rollouts: install ## Deploy and roll back 50 times under load: 20 minutes; [ARGS='--changes 4']
	$(BIN)/unipinrec bench rollouts $(ARGS)

bench-flood: install ## Five times what a server can answer, for a minute: answers in time, refusals, recovery; three minutes
	$(BIN)/unipinrec bench flood $(ARGS)

bench-sweep: install ## Vary one thing after another: make bench-sweep SUBJECT=growth, nearest, appends, items, or options or precision of what make demo left; minutes each
	$(BIN)/unipinrec bench sweep $(SUBJECT) $(ARGS)

bench-faults: install ## Kill and stop nodes, server and launcher under load, 20 times each: an hour and a half; [ARGS='--repeats 1']
	$(BIN)/unipinrec bench faults $(ARGS)

loadtest: install ## Replay traffic on a server by Locust: make loadtest [ARGS='--rate 50 --shape spike'] [ARGS=--web]
	$(BIN)/unipinrec loadtest $(ARGS)

capacity: install ## Search the highest rate that keeps p99: three minutes; [ARGS='--repeats 3']
	$(BIN)/unipinrec capacity $(ARGS)

soak: install ## Constant load at 0.7 of the capacity for ten minutes: [ARGS='--minutes 60 --rate 80']
	$(BIN)/unipinrec soak $(ARGS)

scale-check: install ## Kill one of three replicas behind HAProxy: one minute, benchmarks/results/scale.json
	$(BIN)/python -m containers.failover

scale-plan: install ## Turn committed results into the tables of docs/scale.md
	$(BIN)/unipinrec bench scale-plan

gpu-check: install ## All tests of the GPU path, served ones too; one line and exit code 3 without a GPU: [ARGS='-k graphs']
	@$(BIN)/unipinrec gpu-check $(ARGS)

image-check: install ## Build the image for CPU hosts, run it as docker/compose.yaml has it, ask it, stop it; exit code 3 without docker or podman: [ARGS=--scale]
	@$(BIN)/unipinrec image-check $(ARGS)

serve: install ## Serve build/bundles/current until Ctrl-C
	$(BIN)/unipinrec serve

explore: install ## A page over the server of make serve, at http://127.0.0.1:8501: [DATA=build/data/mine] [ARGS='--url HOST:8001']
	$(BIN)/unipinrec explore --dataset $(or $(DATA),build/data/movielens) $(ARGS)

kubernetes-rules: ## Write docker/prometheus/alerts.yml as an object of the Prometheus Operator
	{ cat docker/kubernetes/monitoring/rules-head.yaml; sed 's/^\(.\)/  \1/' docker/prometheus/alerts.yml; } > docker/kubernetes/monitoring/rules.yaml

lint: install ## Linter, formatter, import rules and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

test: lint ## Linters, then all tests but the slow and the long ones, three files side by side, with real Triton servers
	$(BIN)/python -m pytest -n 3 --dist loadfile

test-long: install ## Every corrupt bundle at start and at deploy, 20,000 malformed requests, 20 kills during appends, faults, 32 more exports: half an hour; writes benchmarks/results/malformed.json
	$(BIN)/python -m pytest -n 2 --dist loadfile -s -m long

test-slow: install ## The tests that take minutes: exports in fresh processes, a flood, 10,000 sequences over the KV pool, compiled kernels
	$(BIN)/python -m pytest -n 3 -m slow

# sb-obp and fuxictr come last and alone: requirements of theirs would replace the files of one and the others' numpy.
$(ORACLES)/installed: tests/oracles/requirements.txt constraints.txt
	$(PYTHON) -m venv $(ORACLES)
	$(ORACLES)/bin/python -m pip install --progress-bar on -c constraints.txt -r tests/oracles/requirements.txt
	$(ORACLES)/bin/python -m pip install --no-deps sb-obp==0.5.10 fuxictr==2.3.10
	touch $@

oracles: $(ORACLES)/installed ## Make build/oracles: libraries that ours is compared with, apart from .venv

test-oracles: oracles ## Off-policy estimates against sb-obp and vw-estimators, the Open Bandit figures, and FuxiCTR's rankers: a minute
	$(ORACLES)/bin/python -m pytest --confcutdir=tests/oracles tests/oracles

$(AUDIT)/installed: audit-requirements.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --progress-bar on --no-deps -r audit-requirements.txt
	touch $@

sbom: install $(AUDIT)/installed ## What is installed, with versions and licences, in CycloneDX: build/sbom.json
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json $(BIN)/python

audit: install $(AUDIT)/installed ## Known vulnerabilities of what is installed; exit code 3 where no database can be asked: [ARGS='-s osv']
	@$(BIN)/python -m containers.audit $(AUDIT)/bin/pip-audit $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') $(ARGS)

format: install ## Rewrite sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove everything that was built, but not .venv
	rm -rf build
