# make report [PRESET=smoke|quick|full] [TASKS="arithmetic gsm8k"] [DATA_DIR=folder] [SEEDS="0 1"] [DRY=1] [PROFILE=workflow/profiles/slurm]   run the grid, write tables and figures
# make test                                                                           all checks, as in continuous integration
# make paper                                                                          numbers, tables and PDF of the paper from the records that are kept; needs latexmk
# make docs                                                                          the site, in build/docs/html; no network
# make course                                                                         notebooks of the course for students, without solutions, in build/course
# make times                                                                          how long notebooks take on one core, for the site; minutes, on an idle machine
# make bench                                                                          training and on-policy steps beside TRL, sampling beside generate, answers beside math-verify, store and rules by size
PYTHON ?= python3
PRESET ?= smoke
TASKS ?= $(if $(filter smoke,$(PRESET)),arithmetic,arithmetic algebra science strategy)
DATA_DIR ?=
SEEDS ?=
LANES ?= 2
DRY ?=
PROFILE ?=

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Two lanes of one thread share two cores well, and only if idle threads sleep. Runs set their own number of threads.
export OMP_WAIT_POLICY := PASSIVE
export OMP_NUM_THREADS := 1

.PHONY: setup report test paper docs course times bench notebooks export readme clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

setup: .venv/.ready

# The exact versions of constraints.txt, compiled once and not at each start. pip's --find-links, if set, is handed on to uv.
.venv/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

report: setup
	reasoning-distill report --preset $(PRESET) --tasks $(TASKS) --data-dir "$(DATA_DIR)" --lanes $(LANES) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(PROFILE),--profile $(PROFILE)) $(if $(DRY),--dry-run)

test: setup
	ruff check nbs tests docs
	nbdev_test --n_workers $(LANES)
	pytest -n $(LANES) --dist loadfile

paper: setup
	reasoning-distill notebook nbs/experiments/paper.ipynb runs/notebooks/paper.ipynb
	cd paper && SOURCE_DATE_EPOCH=0 FORCE_SOURCE_DATE=1 latexmk -pdf -silent -halt-on-error -outdir=../build/paper main.tex
	cp build/paper/main.pdf paper/main.pdf

docs: setup
	python docs/pages.py build/docs/source
	sphinx-build -q -W --keep-going build/docs/source build/docs/html

times: setup
	OMP_NUM_THREADS=1 python docs/times.py

course: setup
	jupyter nbconvert --log-level WARN --to notebook --output-dir build/course nbs/course/*.ipynb \
	  --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=solution --ClearOutputPreprocessor.enabled=True

bench: setup
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=1 reasoning-distill notebook nbs/experiments/bench.ipynb runs/bench/bench.ipynb
	reasoning-distill notebook nbs/experiments/verify_bench.ipynb runs/bench/verify_bench.ipynb
	reasoning-distill notebook nbs/experiments/scale.ipynb runs/bench/scale.ipynb
	reasoning-distill notebook nbs/experiments/growth.ipynb runs/bench/growth.ipynb
	@cat paper/tables/speed.md paper/tables/verify_speed.md paper/tables/scale.md paper/tables/growth.md

# Notebooks are the source: write the package and the README from them.
export: setup
	nbdev_export
	nbdev_clean
	$(MAKE) readme

readme: setup
	jupyter nbconvert --log-level WARN --to markdown --output-dir . --output README nbs/index.ipynb \
	  --RegexRemovePreprocessor.patterns='#\| hide' --TemplateExporter.exclude_input=True

clean:
	rm -rf runs build *.egg-info .pytest_cache .ruff_cache .hypothesis
