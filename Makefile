# Everything runs in .venv, which is made and filled on first use.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: venv demo test test-all lint bench clean
venv: $(STAMP)

# torch comes first and alone: an open range would bring its CUDA libraries along.
$(STAMP): pyproject.toml constraints.txt plugins/llmc-lowrank/pyproject.toml plugins/llmc-xla/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]" -e plugins/llmc-lowrank -e plugins/llmc-xla
	touch $@

demo: venv
	$(BIN)/python examples/demo.py

# Two processes share the cores, so that torch has one each.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

# The slow ones too: 300 random modules, the whole of the held-out text, training.
test-all: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy -p llmc
	$(BIN)/mypy plugins/llmc-lowrank/llmc_lowrank
	$(BIN)/mypy plugins/llmc-xla/llmc_xla
	$(BIN)/mypy -m benchmarks.__main__ -m benchmarks.worker -m benchmarks.prompt_lookup -m benchmarks.kv_cache

bench: venv
	$(BIN)/python -m benchmarks install --side llama.cpp-q4_0 --side llama.cpp-q8_0
	$(BIN)/python -m benchmarks run --side llmc-int4 --side llmc-int8 --side llama.cpp-q4_0 --side llama.cpp-q8_0 --side torch-bf16

clean:
	rm -rf .venv build dist *.egg-info
