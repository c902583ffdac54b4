# make chat: set up and talk with the embedded model.  make test: set up and run the tests (SLOW=1: all of them).
PYTHON ?= python3
BIN := .venv/bin
MARKED := $(if $(SLOW),-m "slow or not slow",)

.PHONY: chat test lint format clean

chat: .venv/chat.done
	@$(BIN)/limner chat

test: .venv/test.done $(if $(SLOW),.venv/quantized.done)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(MARKED)

lint: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/test.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch first and by its pinned version: a plain "torch" would bring gigabytes of CUDA packages
.venv/torch.done: constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@touch $@

.venv/chat.done: .venv/torch.done pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/test.done: .venv/torch.done pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@ .venv/chat.done

.venv/quantized.done: .venv/test.done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[quantized]"
	@touch $@

clean:
	rm -rf .venv build *.egg-info
