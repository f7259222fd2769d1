# `make` alone prints what there is. Every target sets up its own Python environment (.venv) first.
#
#   STUDY=name       another study of studies/ (default: fashion-mnist, the one at the root)
#   PYTHON=command   the Python that makes .venv (default: python3)
#   CONSTRAINTS=     install what fits pyproject.toml instead of the exact versions of constraints.txt
#   OPTIONS=...      more options for pytest (test), Jupyter (lab), Voila (explore), a rerun (reproduce) or the benchmark, as in make lab OPTIONS=--no-browser

STUDY ?= fashion-mnist
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt

FOLDER := $(if $(filter fashion-mnist,$(STUDY)),.,studies/$(STUDY))
BIN := $(CURDIR)/.venv/bin
INSTALLED := .venv/installed

# The commands of dvc.yaml say `python`: the shell that DVC starts must find this environment's, and so must Jupyter its kernels.
export PATH := $(BIN):$(PATH)
export JUPYTER_PREFER_ENV_PATH := 1
export DVC_NO_ANALYTICS := 1
# Containers often set it; every stage would compile this project's modules anew.
unexport PYTHONDONTWRITEBYTECODE

STRIP := --keep-id --extra-keys "metadata.language_info.version cell.metadata.papermill"

dvc = cd '$(FOLDER)' && '$(BIN)/python' -m flashdiff.study.stage repro
report = echo 'Report: $(patsubst ./%,%,$(FOLDER)/reports/index.html)'

.PHONY: help study compare reproduce test test-fast properties faults lab explore figures prior pretrain tune baseline seeds ablation robustness confidence spread calibrated allocation frechet shift blind bench readme lint study-exists

help:
	@echo 'make TARGET [STUDY=name] [PYTHON=python3] [CONSTRAINTS=] [OPTIONS=...]'
	@awk -F ': .*## ' '/^[a-z-]+:.* ## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

study: $(INSTALLED) study-exists ## run the study: every stage whose inputs changed, then the report
	@cd '$(FOLDER)' && '$(BIN)/python' -m flashdiff.study.run
	@$(report)

figures: $(INSTALLED) study-exists ## draw all figures and tables and write the report again from the results at hand
	@$(dvc) --force --single-item show_prior order correlate compare speedup frontier show_examples show_ablation show_robustness show_confidence show_spread show_calibrated show_allocation show_shift show_blind report
	@$(report)

compare: $(INSTALLED) study-exists ## what differs between the experiments of `dvc exp run`, in a table that fits the terminal
	@cd '$(FOLDER)' && '$(BIN)/python' -m flashdiff.study.compare $(OPTIONS)

reproduce: $(INSTALLED) study-exists ## rerun the study from its last commit in a scratch copy, and say what differs beyond tolerance (OPTIONS=--drawing: minutes)
	@'$(BIN)/python' -m flashdiff.study.reproduce run '$(FOLDER)' $(OPTIONS)

prior: $(INSTALLED) study-exists ## train the prior anew (two hours on two cores); `make study` then follows
	@$(dvc) download
	@$(dvc) --force --single-item prior

pretrain: $(INSTALLED) ## train the shipped severity encoder anew (an hour and a quarter); `make study` then follows
	@cd studies/fashion-mnist-pretraining && '$(BIN)/python' -m flashdiff.study.stage repro train_severity
	@mkdir -p data/encoder && cp -r studies/fashion-mnist-pretraining/data/severity/mixture/. data/encoder
	@'$(BIN)/python' -m flashdiff.commands.expected_psnr

tune: $(INSTALLED) study-exists ## tune all step sizes and few-step walks anew on validation images; `make study` then follows
	@$(dvc) train_severity
	@$(dvc) --force --single-item tune tune_budgets

baseline: $(INSTALLED) study-exists ## walk the full-length baselines anew (nine minutes a pair on two cores); `make study` then follows
	@$(dvc) train_severity tune
	@$(dvc) --force --single-item baseline

seeds: $(INSTALLED) study-exists ## walk with encoders of other training seeds anew; `make study` then follows
	@$(dvc) train_severity tune tune_budgets
	@$(dvc) --force --single-item other_seeds

ablation: $(INSTALLED) study-exists ## train the severity encoders of the ablation anew (ten minutes on two cores); `make study` then follows
	@$(dvc) prior
	@$(dvc) --force --single-item ablate

robustness: $(INSTALLED) study-exists ## measure robustness and single choices anew (a quarter of an hour on two cores); `make study` then follows
	@$(dvc) train_severity tune_budgets
	@$(dvc) --force --single-item robustness

confidence: $(INSTALLED) study-exists ## calibrate prediction intervals anew (six minutes on two cores); `make study` then follows
	@$(dvc) train_severity tune_budgets
	@$(dvc) --force --single-item confidence

shift: $(INSTALLED) study-exists ## measure when to stop trusting anew (ten minutes on one core); `make study` then follows
	@$(dvc) train_severity tune_budgets
	@$(dvc) --force --single-item shift

blind: $(INSTALLED) study-exists ## restore without being told the degradation anew (two minutes on one core); `make study` then follows
	@$(dvc) train_severity tune_budgets
	@$(dvc) --force --single-item blind

spread: $(INSTALLED) study-exists ## sample every image several times anew (five minutes on one core); `make study` then follows
	@$(dvc) train_severity tune tune_budgets
	@$(dvc) --force --single-item spread

calibrated: $(INSTALLED) study-exists ## fit starts by predicted severity anew (six minutes on one core); `make study` then follows
	@$(dvc) train_severity tune_budgets
	@$(dvc) --force --single-item calibrated

allocation: $(INSTALLED) study-exists ## measure what evaluations are worth by severity anew (five minutes on one core); `make study` then follows
	@$(dvc) train_severity tune_budgets
	@$(dvc) --force --single-item allocation

frechet: $(INSTALLED) study-exists ## measure the Frechet distance of few-step walks anew (a quarter of an hour on one core); `make study` then follows
	@$(dvc) train_severity tune_budgets
	@$(dvc) --force --single-item frechet

test: $(INSTALLED) ## run the tests
	@'$(BIN)/python' -m pytest -q --numprocesses logical --dist loadfile --no-loadscope-reorder $(OPTIONS)

test-fast: $(INSTALLED) ## run the tests that take moments
	@'$(BIN)/python' -m pytest -q --numprocesses logical --dist loadfile --no-loadscope-reorder -m 'not slow' $(OPTIONS)

properties: $(INSTALLED) ## try more than 10 000 inputs that hypothesis makes up; prints the table of docs/trust.md
	@'$(BIN)/python' -m pytest -q tests/properties --hypothesis-profile whole $(OPTIONS)

bench: $(INSTALLED) ## measure the engine against a one-image-at-a-time loop (after `make study`; some minutes)
	@'$(BIN)/python' -m benchmarks.engine $(OPTIONS)

faults: $(INSTALLED) ## kill, starve and shut out the stages of a tiny study 200 times, and compare (ten minutes; table: .build/faults.md)
	@mkdir -p .build && '$(BIN)/python' tests/faults/whole_run.py --into .build/faults.md $(OPTIONS)

readme: $(INSTALLED) ## copy the numbers of the committed reports into README.md (a test compares them)
	@'$(BIN)/python' -m flashdiff.report.readme

lint: $(INSTALLED) ## check style, format and that notebooks hold no outputs
	@'$(BIN)/ruff' check --quiet .
	@'$(BIN)/ruff' format --quiet --check .
	@'$(BIN)/nbstripout' --verify $(STRIP) notebooks/*.ipynb

lab: $(INSTALLED) ## open JupyterLab on the notebooks
	@'$(BIN)/jupyter' lab --ServerApp.root_dir='$(CURDIR)' --LabApp.default_url=/lab/tree/notebooks $(OPTIONS)

# A photograph that one brings along travels to the kernel in one message, and more than 10 MB would break the connection silently.
explore: $(INSTALLED) study-exists ## open a page with sliders: severity, and what is restored, of single images
	@FLASHDIFF_STUDY='$(abspath $(FOLDER))' JUPYTER_PATH='$(CURDIR)/flashdiff/explore/share' '$(BIN)/voila' --template=flashdiff --Voila.tornado_settings="{'websocket_max_message_size': 200_000_000}" notebooks/explore_severity.ipynb $(OPTIONS)

study-exists:
	@test -f '$(FOLDER)/dvc.yaml' || { echo 'STUDY=$(STUDY): there is no $(FOLDER)/dvc.yaml; choose fashion-mnist or a folder of studies/.' >&2; exit 1; }

# deepinv, for the tests of its adapter, comes by itself and without its dependencies: they name torchvision, whose builds fit one
# build of torch only, and from PyPI alone a torchvision for CUDA meets a torch for the CPU. Such a one fails at its import, and with
# it diffusers. The tests do without torchvision; the other dependencies are in the extra `dev`.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo 'flashdiff needs Python 3.11 or newer, and "$(PYTHON)" is not: name one, as in make PYTHON=python3.12.' >&2; exit 1; }
	@echo 'Installing into .venv: minutes, 2 GB and more (log: .venv/install.log)'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --log .venv/install.log $(if $(CONSTRAINTS),--constraint '$(CONSTRAINTS)') --editable '.[lab,dev]'
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --log .venv/install.log $(if $(CONSTRAINTS),--constraint '$(CONSTRAINTS)') --no-deps deepinv
	@touch $@
