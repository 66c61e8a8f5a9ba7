# Everything a reader or CI runs. Each target sets itself up: the virtual environment is .venv in this folder.
#
#   make reproduce [PROFILE=smoke|cpu|paper] [WHICH] [WHERE]   run the chapters again, compare, build their site
#   make record     PROFILE=smoke|cpu|paper  [WHICH] [WHERE]   add to the committed results
#       WHICH: CHAPTERS=01,02 EXPERIMENTS=table1,fixed SEEDS=0-4     WHERE: WORKERS=2, CLUSTER=tcp://host:8786 or DEVICE=cuda
#   make todo      [PROFILE=cpu] [CHAPTERS=01]                  what is declared and not stored
#   make merge FROM=folder [REPLACE=run,run] [ZOO=1]           bring in rows that were recorded elsewhere
#   make test | test-long | bench | book | lab | lint | clean | distclean

VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
PIP     := "$(PY)" -m pip install -q --disable-pip-version-check --no-compile
RUN     := "$(PY)" -m helpers.run
MALLOC  := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=67108864

# What is given to make counts, and not what another tool exported under the same name; but for the two below. `value` takes a
# text as it was typed, and recipes read it as "$$NAME": nothing in it is expanded or run, by make or by the shell.
GIVEN   := PROFILE CHAPTERS EXPERIMENTS SEEDS DATA_ROOT DEVICE WORKERS CLUSTER ALLOW_DIRTY FROM REPLACE ZOO
typed    = $(if $(filter command,$(firstword $(origin $1))),$(value $1))
$(foreach name,$(GIVEN),$(eval override $(name) := $$(call typed,$(name))))
# An interpreter, and a wheel index for torch; CPU-only machines save gigabytes with https://download.pytorch.org/whl/cpu
override PYTHON := $(or $(value PYTHON),python3)
override TORCH_INDEX := $(value TORCH_INDEX)
export $(GIVEN) PYTHON TORCH_INDEX
unexport PYTHONDONTWRITEBYTECODE   # packages are compiled when they are first imported: most modules never are
ARGS    := $${PROFILE:+"--profile=$$PROFILE"} $${CHAPTERS:+"--chapters=$$CHAPTERS"} $${EXPERIMENTS:+"--experiments=$$EXPERIMENTS"} $${SEEDS:+"--seeds=$$SEEDS"} \
           $${DATA_ROOT:+"--data-root=$$DATA_ROOT"} $${DEVICE:+"--device=$$DEVICE"} $${ALLOW_DIRTY:+--allow-dirty} \
           $${WORKERS:+"--workers=$$WORKERS"} $${CLUSTER:+"--cluster=$$CLUSTER"}

.PHONY: help setup reproduce record todo merge test test-long bench book lab lint clean distclean
help:
	@sed -n '/^#   make/s/^#  //p' Makefile

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@command -v "$$PYTHON" >/dev/null || { printf "make: '%s' is not there: install Python 3.11 or newer, or name one with PYTHON=...\n" "$$PYTHON"; exit 1; }
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$("$$PYTHON" --version) is too old: the book needs Python 3.11 or newer (PYTHON=python3.12 names another)"; exit 1; }
	@"$$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || { echo "make: this Python has no venv: install it (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV): about 2 minutes and 2 GB, once"
	@test -x "$(PY)" && "$(PY)" -c '' 2>/dev/null || "$$PYTHON" -m venv "$(VENV)"
	@$(PIP) $${TORCH_INDEX:+"--index-url=$$TORCH_INDEX"} $$(grep -o '^torch==[^ ]*' requirements.txt)
	@$(PIP) -e '.[test]'
	@$(PIP) --no-deps torchattacks==3.5.1   # it pins an old requests
	@"$(PY)" -c "import torch._dynamo, sklearn, distributed, papermill, jupyter_book.cli.main, helpers.plots, helpers.tables"
	@touch "$(STAMP)"

reproduce: $(STAMP)
	@$(RUN) $(ARGS)

record: $(STAMP)
	@$(RUN) $(ARGS) --record

todo: $(STAMP)
	@$(RUN) --todo $(ARGS)

merge: $(STAMP)
	@test -n "$$FROM" || { echo "make: name the folder that the rows are in: make merge FROM=folder"; exit 1; }
	@$(RUN) "--merge=$$FROM" $${REPLACE:+"--replace=$$REPLACE"} $${ZOO:+--zoo}

test: $(STAMP)
	@$(MALLOC) "$(PY)" -m pytest -n 2 --dist loadfile --nbval --nbval-current-env -m 'not long' tests book

test-long: $(STAMP)                 # kills, races, chapters as Colab runs them: what takes longer than `test` may
	@$(MALLOC) "$(PY)" -m pytest -n 2 --dist loadfile -m long tests

bench: $(STAMP)                     # our attacks beside other libraries': make bench DEVICE=cuda
	@$(PIP) -e '.[test,bench]'
	@"$(PY)" tests/bench_attacks.py $${DEVICE:+"--device=$$DEVICE"}

book: $(STAMP)
	@$(RUN) --site

lab: $(STAMP)
	@"$(VENV)/bin/jupyter" lab --notebook-dir=. book

lint: $(STAMP)
	@"$(VENV)/bin/ruff" check .
	@"$(VENV)/bin/ruff" format --check -q helpers tests
	@echo "lint: clean"

clean:                              # keeps the networks and rows that took hours
	rm -rf _build/html _build/*/html _build/book-*

distclean:
	rm -rf _build "$(VENV)" *.egg-info
