# The plan, where its results lie, and the digests by which Snakemake sees that something has changed. Computed once, when
# the workflow is parsed.
import atexit
import json
import os
import re
from functools import cache

from diffsweep.engines import ENGINES
from diffsweep.measure import machines
from diffsweep.sweep import paths, specs
from diffsweep.sweep.digests import code_digest, code_digests, data_digest, folder_digest, remember_facts
from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.environments import EnvironmentFailed, lock_digest
from diffsweep.sweep.files import read_json, write_json
from diffsweep.sweep.plan import make_plan
from diffsweep.sweep.requests import attempt_after, requests_of
from diffsweep.sweep.runs import current_run, prefer_this_python
from diffsweep.sweep.workflow import announce


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
VARIANTS = {variant["name"]: variant for variant in PLAN["variants"]}
BASELINE = PLAN["baseline"]
ARTIFACTS = specs.artifacts_of(PLAN)
REQUESTS = requests_of(config)
MACHINES = {name: machines.this_machine(target) for name, target in PLAN["targets"].items()}

prefer_this_python()
announce()  # jobs end with this process
# The run's name goes into every record. It is no rerun trigger, so it reaches the programs beside their specs.
RUN = os.environ.setdefault("DIFFSWEEP_RUN", current_run())


wildcard_constraints:
    model="[^/]+",
    target="[^/]+",
    variant="[^/]+",
    artifact="|".join(map(re.escape, ARTIFACTS)),
    environment="[^/-]+",
    digest="[0-9a-f]+",
    replicate="[0-9]+",
    search="[0-9]+",


def sweep_path(name):
    return f"results/{SWEEP}/{name}"


def cell_path(name):
    """A path in a cell of this sweep, with the wildcards model, target and variant left open."""
    return sweep_path(f"{{model}}/{{target}}/{{variant}}/{name}")


@cache
def cells(name):
    """That path in all cells."""
    return expand(cell_path(name), model=MODELS, target=TARGETS, variant=VARIANTS)


# --- digests ---------------------------------------------------------------------------------------------------------


atexit.register(remember_facts)


@cache
def digest_of_code(*programs):
    """The digest of `programs`, with a note of what it covers, by which scripts/explain.py tells what changed."""
    digest = code_digest(*programs)
    note = f".snakemake/diffsweep/code/{digest}.json"
    if not os.path.exists(note):
        write_json(note, code_digests(*programs))
    return digest


def engine_code(*programs, engines):
    """The digest of `programs` and of the engines' modules, which they load by name."""
    modules = sorted({f"diffsweep/engines/{ENGINES[engine].module}.py" for engine in engines})
    return digest_of_code(*programs, *modules)


def template_digest(*names):
    """The pages' templates, style and script are not Python, so no import leads to them."""
    found = (path for name in names for path in sorted(Path("scripts/diffsweep/show").glob(f"{name}.*")))
    return data_digest([path.read_text(encoding="utf-8") for path in found])


@cache
def folder_content(folder):
    return folder_digest(Path(folder), Path(".snakemake/diffsweep/digests.json"))


def source_digest(model):
    """What identifies a model's weights: the content of its folder, or its pinned revision."""
    source = PLAN["models"][model]
    return folder_content(source["path"]) if "path" in source else source["revision"]


digest_of_lock = cache(lock_digest)


def receipt(environment):
    """The receipt of an environment. Its path holds the lock's digest; its time never matters."""
    return ancient(paths.RECEIPT.format(environment=environment, digest=digest_of_lock(environment)))


# The old outcome is gone when its job starts, so the jobs of a cluster read here what the submitting side has counted.
ATTEMPTS_FILE = ".snakemake/diffsweep/attempts.json"
ATTEMPTS = read_json(ATTEMPTS_FILE) if workflow.remote_exec else {}


def recorded(path):
    """What a stage left at `path` the last time; None when there is nothing that can be read."""
    try:
        document = read_json(path)
        return document if "outcome" in document else None
    except (FileNotFoundError, ValueError):
        return None


def attempt(path, variants, target=None):
    """The attempt of the stage that writes `path` for `variants`: one more where this call asks for it again."""
    if not workflow.remote_exec:
        last = recorded(path)
        stale = target is not None and is_stale(last, target)
        ATTEMPTS[path] = attempt_after(last, REQUESTS, variants, stale)
    return ATTEMPTS.get(path, 0)


@cache
def machine_of(target):
    """The machine that a target is now: of one elsewhere, where it was measured last. Read only where that is asked."""
    if MACHINES[target] is not None or not REQUESTS.stale:
        return MACHINES[target]
    paths = Path(sweep_path("")).glob(f"*/{target}/*/replicate-*/replicate.json")
    return machines.latest(map(recorded, paths), PLAN["targets"][target])


def is_stale(notes, target):
    """Was this replicate measured on another machine than the target is now?"""
    here = machine_of(target)
    if notes is None or here is None or "host" not in notes:
        return False
    return machines.difference(machines.identity(notes["host"], PLAN["targets"][target]), here) is not None


@cache
def variants_by_artifact():
    """artifact -> the variants that run it."""
    found = {}
    for target in TARGETS:
        for name, variant in VARIANTS.items():
            found.setdefault(specs.artifact_of(PLAN, variant, target)["name"], set()).add(name)
    return found


def as_param(spec):
    """A spec as one string: Snakemake compares it as a whole, and the shell passes it on."""
    return json.dumps(spec, sort_keys=True)
