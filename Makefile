# make chat: set up and talk with the embedded model.  make ui: the same on a page in the browser.
# make test: set up and run the quick tests.  make test-slow: the rest of them.  make test-portable: training as on a CPU that emulates bf16.
# make mutants: 250 small changes of the code, which the tests have to notice (ten minutes).
# make floor, make newest: the quick tests with the lowest versions that pyproject.toml allows, and with the newest there are;
# each in an environment of its own, with a torch for CUDA where that is what there is (7 GB).
# make test-clients: OpenAI's own and other clients, a fuzzer, load and a browser against a running server.
# make stress: Limner under load and accident, counted (an hour and more; SHARE=0.05 tries a twentieth).
# make test-ray: a server of two processes, one of which dies.  make image-steps: the steps of the Dockerfile, without Docker.
# make docs: the documentation as a site in build/site.  make test-docs: that, and the commands and the notebook of the documentation.
# make lint: ruff and mypy.  make wheel: build, install and draw in an empty environment.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# two processes of one thread each: the tests' models are too small to gain by a second thread
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
TIMED := tests/test_benchmarks.py tests/inference/test_nano.py

SHARE ?= 1

.PHONY: chat ui test test-slow test-portable test-clients test-ray image-steps stress floor newest mutants lint format wheel docs test-docs clean

chat: .venv/chat.done
	@$(BIN)/limner chat

ui: .venv/ui.done
	@$(BIN)/limner ui --open

test: .venv/test.done
	$(PYTEST) --durations=15

test-slow: .venv/test.done .venv/quantized.done
	$(PYTEST) -m slow --durations=15 $(addprefix --ignore=,$(TIMED))
	$(BIN)/python -m pytest -m slow --durations=15 $(TIMED)  # what is held to a time runs alone

# the variable holds oneDNN to kernels that emulate bf16; what is chosen then is fp32, whose products it does not touch
test-portable: .venv/test.done
	@if grep -qE '(avx512_|amx_| )bf16' /proc/cpuinfo; then \
		ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) tests/train tests/evaluation tests/inference/test_precision.py; \
	else echo "this CPU has no bf16 units, so 'make test' has been such a test"; fi

test-clients: .venv/test.done .venv-clients/done tests/clients/node_modules/done
	$(BIN)/python tests/clients

.venv-clients/done: tests/clients/requirements.txt constraints-clients.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

tests/clients/node_modules/done: tests/clients/package-lock.json tests/clients/system_packages.sh
	bash tests/clients/system_packages.sh
	cd tests/clients && npm ci --no-audit --no-fund
	@touch $@

test-ray: .venv/ray.done
	$(BIN)/python -m pytest -m slow tests/app/server/test_ray_serve.py

image-steps: .venv/bin/python
	$(BIN)/python tests/check_dockerfile.py

floor: .venv-floor/bin/python
	.venv-floor/bin/python -m pip install --quiet -c constraints-floor.txt -e ".[dev,quantized]"
	.venv-floor/bin/python -m pytest -n 2

newest: .venv-newest/bin/python
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e ".[dev,quantized]"
	.venv-newest/bin/python -m pytest -n 2
	.venv-newest/bin/python tests/versions.py > constraints-newest.txt

.venv-floor/bin/python .venv-newest/bin/python:
	$(PYTHON) -m venv $(dir $(@D))

stress: .venv/test.done .venv/quantized.done .venv/stress.done
	$(BIN)/python tests/stress --share $(SHARE)

mutants: .venv/mutation.done
	$(BIN)/python tests/mutation.py --seed 26 --count 250

# mypy takes the package's name from its folder's, which a checkout may call anything
lint: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .venv/mypy && ln -sfn ../.. .venv/mypy/limner
	cd .venv/mypy && $(abspath $(BIN))/mypy --config-file limner/pyproject.toml -p limner

format: .venv/test.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/docs.done
	$(BIN)/python tests/check_site.py

test-docs: docs
	$(BIN)/python tests/document_blocks.py
	$(BIN)/python -m pytest -m documents tests/documents --durations=15

wheel: .venv/test.done
	$(BIN)/python tests/check_wheel.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch first and by its pinned version: a plain "torch" would bring gigabytes of CUDA packages
.venv/torch.done: constraints.txt | .venv/bin/python
	$(INSTALL) torch==2.13.0
	@touch $@

.venv/chat.done: .venv/torch.done pyproject.toml setup.py constraints.txt
	$(INSTALL) -e .
	@touch $@

.venv/ui.done: .venv/torch.done pyproject.toml setup.py constraints.txt
	$(INSTALL) -e ".[ui]"
	@touch $@ .venv/chat.done

.venv/test.done: .venv/torch.done pyproject.toml setup.py constraints.txt
	$(INSTALL) -e ".[dev]"
	@touch $@ .venv/chat.done .venv/ui.done

.venv/quantized.done: .venv/test.done
	$(INSTALL) -e ".[quantized]"
	@touch $@

.venv/ray.done: .venv/test.done
	$(INSTALL) -e ".[ray]"
	@touch $@

.venv/stress.done: .venv/test.done
	$(INSTALL) -e ".[stress]"
	@touch $@

.venv/docs.done: .venv/test.done
	$(INSTALL) -e ".[docs]"
	@touch $@

.venv/mutation.done: .venv/test.done
	$(INSTALL) -e ".[mutation]"
	@touch $@

clean:
	rm -rf .venv .venv-clients .venv-floor .venv-newest build *.egg-info tests/clients/node_modules
