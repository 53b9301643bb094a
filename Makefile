# Each target calls one program; what it does is in that program. `make` alone lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest --numprocesses 2 --dist loadgroup
export PYTHONPATH := $(CURDIR)
.DEFAULT_GOAL := help
.PHONY: help setup demo test check up down status sql sources docs leak-scan erase chain bench lint lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

setup:
	@test -n "$(PYTHON)" || { echo "nightshift: there is no python3.11 on the path: install Python 3.11, or name one with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m include.nightshift.operate.setup

demo: setup ## the whole loop on simulated nights, from nothing; options LANDING=folder HISTORY=first..last NIGHTS=n
	@$(VENV)/python -m include.nightshift.operate.demo $(if $(LANDING),--landing "$(LANDING)") $(if $(HISTORY),--history "$(HISTORY)") $(if $(NIGHTS),--nights "$(NIGHTS)")

test: setup ## every test, the real processes included; ARGS=... goes to pytest
	@$(PYTEST) $(ARGS)

check: setup lint ## what must pass before a commit: lint, types and the tests that need no server
	@$(PYTEST) -m "not lakehouse and not processes and not walk" $(ARGS)

up: setup ## start the lakehouse, MLflow and Airflow, and wait until all of them answer
	@$(VENV)/python -m include.nightshift.operate.processes up

down: ## stop everything of this home
	@test ! -x $(VENV)/python || $(VENV)/python -m include.nightshift.operate.processes down

status: setup ## what runs, and where it answers
	@$(VENV)/python -m include.nightshift.operate.processes status

sql: setup ## ask the lakehouse: make sql Q="select * from gold.card_fraud_alerts"
	@$(VENV)/python -m include.nightshift.operate.sql $(ARGS) -- "$${Q-}"

sources: setup ## what each feed owes and how it kept that, as a page: <home>/reports/sources.html
	@$(VENV)/python -m include.nightshift.operate.sources

docs: setup ## what every model is and builds on, as a page: <home>/reports/dbt.html
	@$(VENV)/python -m include.nightshift.features.docs

leak-scan: setup ## look for features that know what their night did not; ARGS="--use-case NAME --seeds N"
	@$(VENV)/python -m include.nightshift.features.leaks $(ARGS)

erase: setup ## erase a person: reads the id from standard input and starts the run; see the runbook first
	@$(VENV)/python -m include.nightshift.operate.erase $(ARGS)

chain: setup ## whether the records of decisions are as they were written; ARGS="--heads FILE" compares with heads kept elsewhere
	@$(VENV)/python -m include.nightshift.operate.chain $(ARGS)

bench: setup ## measure one figure: make bench NAME=...; without a name, lists them
	@test -n "$(NAME)" || { echo "nightshift: which one? make bench NAME=..., one of: $(basename $(notdir $(shell grep -l '^def main' bench/*.py)))" >&2; exit 1; }
	@$(VENV)/python -m bench.$(NAME) $(ARGS)

lint: setup ## style and types, without tests
	@$(VENV)/ruff check . && $(VENV)/ruff format --check . && $(VENV)/mypy && $(VENV)/sqlfluff lint --nocolor --disable-progress-bar dbt_project/models

lock: setup ## write requirements.lock anew from requirements.txt
	@$(VENV)/python -m uv pip compile --universal --generate-hashes --python-version 3.11 --custom-compile-command "make lock" --quiet requirements.txt -o requirements.lock

clean: ## stop everything, remove the home (tables, models, passwords) and caches; the environment stays
	@test ! -x $(VENV)/python || $(VENV)/python -m include.nightshift.operate.processes clean
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
