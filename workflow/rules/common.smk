# Config -> plan -> what each rule is told. Everything here is computed once, when the workflow is parsed.
import json
import os
import time
from functools import cache

from diffsweep.engines import ENGINES
from diffsweep.sweep import paths, specs
from diffsweep.sweep.digests import code_digest, data_digest, folder_digest
from diffsweep.sweep.environments import EnvironmentFailed, lock_digest
from diffsweep.sweep.files import read_json, write_json
from diffsweep.sweep.plan import ConfigError, find_variant, make_plan, read_yaml
from diffsweep.sweep.runs import current_run


def plan_or_exit():
    """The resolved plan; a wrong config ends here, with one line."""
    try:
        for configfile in workflow.configfiles:
            read_yaml(configfile)  # Snakemake's own reader lets the last of two equal keys win
        return make_plan(config)
    except (ConfigError, EnvironmentFailed) as error:
        sys.exit(f"diffsweep: {error}")


PLAN = plan_or_exit()
SWEEP = PLAN["sweep"]
MODELS, TARGETS = list(PLAN["models"]), list(PLAN["targets"])
VARIANTS = [variant["name"] for variant in PLAN["variants"]]
BASELINE = PLAN["baseline"]
REPLICATES = list(range(1, PLAN["protocol"]["replicates"] + 1))
PYTHON = sys.executable  # the workflow environment's
os.environ.setdefault("DIFFSWEEP_RUN", current_run())  # names this run in every record; not a rerun trigger


wildcard_constraints:
    model="[^/]+",
    target="[^/]+",
    variant="[^/]+",
    artifact="[^/]+",
    environment="[^/-]+",
    digest="[0-9a-f]+",
    replicate="[0-9]+",


def sweep_path(name):
    return paths.SWEEP.format(sweep=SWEEP) + f"/{name}"


def cell_path(name):
    """A path in a cell of this sweep, with the wildcards model, target and variant left open."""
    return sweep_path("{model}/{target}/{variant}/") + name


# --- digests ---


digest_of_code = cache(code_digest)


def engine_code(*programs, engines):
    """The digest of `programs` and of the engines' modules, which they load by name."""
    modules = sorted({f"diffsweep/engines/{ENGINES[engine]}.py" for engine in engines})
    return digest_of_code(*programs, *modules)


@cache
def folder_content(folder):
    return folder_digest(Path(folder), Path(".snakemake/diffsweep-digests.json"))


def source_digest(model):
    """What identifies a model's weights: the content of its folder, or its pinned revision."""
    source = PLAN["models"][model]
    return folder_content(source["path"]) if "path" in source else source["revision"]


def receipt(environment):
    """The receipt of an environment. Its path holds the lock's digest; its time never matters."""
    return ancient(paths.RECEIPT.format(environment=environment, digest=lock_digest(environment)))


def attempt(path):
    """0, and one more each time that a failed cell is tried again on request (`--config failed=retry`)."""
    try:
        outcome = read_json(path)["outcome"]
    except (FileNotFoundError, ValueError, KeyError):
        return 0
    again = config.get("failed") == "retry" and outcome["status"] == "failed"
    return outcome["attempt"] + again


def as_param(spec):
    """A spec as one string: Snakemake compares it as a whole, and the shell passes it on."""
    return json.dumps(spec, sort_keys=True)


# --- the run as a whole ---


def note_start():
    """Remember when this run began, for the ratio of wall time to useful time."""
    write_json(sweep_path("run.json"), {"run": os.environ["DIFFSWEEP_RUN"], "started_unix_s": time.time()})


def show_summary():
    shell("{PYTHON} scripts/console.py --results {results:q}", results=sweep_path(""))
