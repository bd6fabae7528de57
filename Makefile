# make sweep   the default sweep: sets up .venv, then runs `snakemake --cores all`
# make test    the tests and the style checks
# make test-long   tests that take minutes or need system packages (Slurm, Prometheus); as root, on Debian
# make calibrate   which differences this machine can tell (an hour, or more; let nothing else run)
# make bench   what measuring itself costs (takes timings: let nothing else run)
.PHONY: sweep calibrate test test-long lint bench clean

PYTHON ?= python3.11
VENV := .venv/.complete

sweep: $(VENV)
	.venv/bin/snakemake --cores all

calibrate: $(VENV)
	.venv/bin/snakemake --cores all calibration

test: $(VENV) lint
	.venv/bin/python -m pytest -n 2 --dist loadfile

test-long: $(VENV)
	.venv/bin/python -m pytest tests/long

lint: $(VENV)
	.venv/bin/ruff check scripts tests
	.venv/bin/ruff format --check scripts tests
	.venv/bin/snakefmt --check Snakefile workflow
	.venv/bin/python tests/lint_workflow.py

bench: $(VENV)
	for benchmark in tests/benchmarks/*_overhead.py; do .venv/bin/python $$benchmark || exit 1; done

# The workflow environment. pip puts uv in place; uv builds this and every other environment (scripts/in_env).
$(VENV): envs/workflow.lock envs/bootstrap.lock
	test -x .envs/bootstrap/bin/uv || { $(PYTHON) -m venv .envs/bootstrap \
	  && .envs/bootstrap/bin/pip install --quiet --disable-pip-version-check --require-hashes -r envs/bootstrap.lock; }
	ln -sfn "$$($(PYTHON) scripts/in_env workflow printenv VIRTUAL_ENV)" .venv
	touch $(VENV)

clean:
	rm -rf .venv .envs .snakemake
