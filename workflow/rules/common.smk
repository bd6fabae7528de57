# Config -> plan -> what each rule is told. Everything here is computed once, when the workflow is parsed; the rules
# themselves hold nothing but what they take, make and run.
import atexit
import fcntl
import gc
import inspect
import json
import os
import re
import time
from functools import cache

from diffsweep.engines import ENGINES
from diffsweep.measure import machines, sharing
from diffsweep.sweep import explain, paths, specs
from diffsweep.sweep.digests import code_digest, code_digests, data_digest, folder_digest, remember_facts
from diffsweep.sweep.environments import EnvironmentFailed, lock_digest
from diffsweep.sweep.files import read_json, remove_partials, write_json
from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.plan import make_plan, replicates_of
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
# The run's name goes into every record. It is no rerun trigger, so it reaches the programs beside their specs;
# so do the time limits, as files.
RUN = os.environ.setdefault("DIFFSWEEP_RUN", current_run())
if not workflow.remote_exec:  # a job on a node of a cluster parses all this again, and finds them written
    for stage, limits in specs.limits_of(PLAN).items():
        write_json(f".snakemake/diffsweep/limits/{stage}.json", limits)


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


def is_stale(notes, target):
    """Was this replicate measured on another machine than the target is now?"""
    here = MACHINES[target]
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


# --- convert ---------------------------------------------------------------------------------------------------------


def export_params(wildcards):
    users = [name for name, variant in VARIANTS.items() if ENGINES[variant["engine"]].from_onnx]
    attempts = attempt(paths.ONNX_MANIFEST.format(model=wildcards.model), users)
    return as_param(specs.export_spec(PLAN, wildcards.model, source_digest(wildcards.model), attempts))


def artifact_engine(wildcards):
    return ARTIFACTS[wildcards.artifact]["engine"]


def artifact_environment(wildcards):
    return receipt(artifact_engine(wildcards))


def artifact_onnx(wildcards):
    return paths.ONNX_MANIFEST if ENGINES[artifact_engine(wildcards)].from_onnx else []


def convert_params(wildcards):
    attempts = attempt(paths.MANIFEST.format(**wildcards), variants_by_artifact()[wildcards.artifact])
    source = source_digest(wildcards.model)
    return as_param(specs.convert_spec(PLAN, wildcards.model, wildcards.artifact, source, attempts))


def convert_code(wildcards):
    return engine_code("convert.py", engines=[artifact_engine(wildcards)])


# --- benchmark -------------------------------------------------------------------------------------------------------


def manifest_of(wildcards, variant):
    artifact = specs.artifact_of(PLAN, VARIANTS[variant], wildcards.target)
    return paths.MANIFEST.format(model=wildcards.model, artifact=artifact["name"])


def variant_manifest(wildcards):
    return manifest_of(wildcards, wildcards.variant)


def baseline_manifest(wildcards):
    return manifest_of(wildcards, BASELINE)


def variant_engine(wildcards):
    return VARIANTS[wildcards.variant]["engine"]


def variant_environment(wildcards):
    return receipt(variant_engine(wildcards))


def paired_engines(wildcards):
    return sorted({variant_engine(wildcards), VARIANTS[BASELINE]["engine"]})


def paired_environments(wildcards):
    return [receipt(engine) for engine in paired_engines(wildcards)]


def benchmark_params(wildcards):
    path = cell_path("replicate-{replicate}/replicate.json").format(**wildcards)
    attempts = attempt(path, [wildcards.variant], wildcards.target)
    names = (wildcards.model, wildcards.target, VARIANTS[wildcards.variant], int(wildcards.replicate))
    return as_param(specs.benchmark_spec(PLAN, *names, attempts))


def benchmark_code(wildcards):
    return engine_code("benchmark.py", "serve.py", engines=paired_engines(wildcards))


# --- calibration -----------------------------------------------------------------------------------------------------


def calibration_path(name):
    return sweep_path(f"calibration/{{model}}/{{target}}/{name}")


def calibration_manifest(wildcards):
    return manifest_of(wildcards, BASELINE)


def calibration_environments(wildcards):
    return [receipt(VARIANTS[BASELINE]["engine"])]


def calibration_params(wildcards):
    return as_param(specs.calibration_spec(PLAN, wildcards.model, wildcards.target))


def calibration_code(wildcards):
    programs = ("calibrate.py", "benchmark.py", "serve_slowed.py")
    return engine_code(*programs, engines=[VARIANTS[BASELINE]["engine"]])


# --- arrivals --------------------------------------------------------------------------------------------------------


SEARCH = "search-{search}/arrivals.json"


def all_searches():
    path = cells(SEARCH.replace("{search}", "{{search}}"))
    return expand(path, search=range(1, PLAN["arrivals"]["searches"] + 1))


def arrivals_params(wildcards):
    attempts = attempt(cell_path(SEARCH).format(**wildcards), [wildcards.variant])
    names = (wildcards.model, wildcards.target, VARIANTS[wildcards.variant])
    return as_param(specs.arrivals_spec(PLAN, *names, int(wildcards.search), attempts))


def arrivals_code(wildcards):
    return engine_code("arrivals.py", "serve.py", engines=[variant_engine(wildcards)])


def unloaded_latencies(wildcards):
    """Where the objective comes from when the config gives none: the same for all variants."""
    if "objective_s" in PLAN["protocol"]:
        return []
    path = cell_path("replicate-{replicate}/replicate.json")
    names = {"model": wildcards.model, "target": wildcards.target, "variant": BASELINE}
    return expand(path, **names, replicate=replicates_of(PLAN, BASELINE))


def found_arrivals():
    """The searches that the tables take: those that were made, or all when they are asked for."""
    asked = "arrivals" in getattr(workflow.dag_settings, "targets", ())
    return [path for path in all_searches() if asked or os.path.exists(path)]


# --- quality ---------------------------------------------------------------------------------------------------------


def images_params(wildcards):
    attempts = attempt(cell_path("images.json").format(**wildcards), [wildcards.variant])
    names = (wildcards.model, wildcards.target, VARIANTS[wildcards.variant])
    return as_param(specs.images_spec(PLAN, *names, attempts))


def images_code(wildcards):
    return engine_code("generate_images.py", engines=[variant_engine(wildcards)])


def baseline_images(wildcards):
    return cell_path("images.json").format(model=wildcards.model, target=wildcards.target, variant=BASELINE)


def score_params(wildcards):
    attempts = attempt(cell_path("quality.json").format(**wildcards), [wildcards.variant])
    folders = [PLAN["quality"][key] for key in ("fid", "clip", "classifier") if PLAN["quality"][key]]
    scorers = {folder: folder_content(folder) for folder in folders}
    return as_param({**specs.score_spec(PLAN, attempts), "scorers": scorers})


# --- traces ----------------------------------------------------------------------------------------------------------


def trace_params(wildcards):
    attempts = attempt(cell_path("trace.json").format(**wildcards), [wildcards.variant])
    names = (wildcards.model, wildcards.target, wildcards.variant)
    return as_param(specs.trace_spec(PLAN, *names, attempts))


def trace_code(wildcards):
    engine = variant_engine(wildcards)
    return engine_code("trace.py", "serve.py", f"diffsweep/traces/{ENGINES[engine].module}.py", engines=[engine])


# --- report ----------------------------------------------------------------------------------------------------------


def all_manifests():
    return expand(paths.MANIFEST, model=MODELS, artifact=ARTIFACTS)


@cache
def all_replicates():
    path = cell_path("replicate-{replicate}/replicate.json")
    return [
        path.format(model=model, target=target, variant=variant, replicate=number)
        for variant in VARIANTS
        for number in replicates_of(PLAN, variant)
        for model in MODELS
        for target in TARGETS
    ]


@cache
def whole_sweep():
    """Everything that a finished sweep consists of, not only what is made last: Snakemake does not miss a file that
    nothing needs to be made from any more, so what a killed job took with it would stay away."""
    from_onnx = any(ENGINES[variant["engine"]].from_onnx for variant in VARIANTS.values())
    return [
        *(expand(paths.ONNX_MANIFEST, model=MODELS) if from_onnx else ()),
        *all_manifests(),
        *all_replicates(),
        *cells("images.json"),
        *cells("quality.json"),
        *map(sweep_path, ("plan.json", "summary.csv", "plots/index.json", "update.html", "report.html")),
    ]


def traces_digest():
    """The traces that there are. No rule that is part of `all` takes them as input, which would make it make them."""
    found = [path for path in cells("trace.json") if os.path.exists(path)]
    return data_digest({path: Path(path).read_text(encoding="utf-8") for path in found})


def note_config():
    """The merged config as a file, named by its content, for the program that writes the plan."""
    requests = ("failed", "stale", "only")  # of this call, not of the sweep
    merged = {key: value for key, value in config.items() if key not in requests}
    path = f".snakemake/diffsweep/config-{data_digest(merged)}.json"
    if not os.path.exists(path):
        write_json(path, merged)
    return path


# --- the run as a whole ----------------------------------------------------------------------------------------------


def claim_folder():
    """Refuse to run twice in one folder. The lock is the kernel's: it ends with this process, however that ends."""
    handle = open(".snakemake/diffsweep/lock", "a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("diffsweep: another sweep is running in this folder; wait until it has ended")
    return handle


def tidy_up():
    """Remove what killed jobs have left half-written, now that none can be running; say so when nothing can be."""
    for folder in (sweep_path(""), *(f"{paths.ARTIFACTS}/{model}" for model in MODELS)):
        try:
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK):
                sys.exit(f"diffsweep: {folder} is read-only; make it writable, or run the sweep elsewhere")
            remove_partials(folder)
        except OSError as error:
            sys.exit(f"diffsweep: {folder}: {error.strerror}; make it writable, or run the sweep elsewhere")


def begin_run():
    """Claim the folder, and remember when a run that measures began, for the ratio of wall time to useful time."""
    global FOLDER_CLAIM  # held until the process ends
    FOLDER_CLAIM = claim_folder()
    end_leftovers()
    tidy_up()
    measuring = [job for job in workflow.dag.needrun_jobs() if job.rule.name == "benchmark"]
    if measuring:
        write_json(sweep_path("run.json"), {"run": RUN, "started_unix_s": time.time()})
    # On a cluster jobs run at the same time, and nobody would find what another has put aside for it.
    sharing.note_jobs(map(sharing_job, measuring) if workflow.local_exec else ())


def sharing_job(job):
    """A job of rule benchmark, as the others that need the same servers see it."""
    spec, folder = json.loads(job.params.spec), os.path.dirname(job.output.replicate)
    return sharing.job_of(spec, folder, [job.params.code, *map(str, job.input.environments)])


def look_only_when_a_job_ends():
    """Keep Snakemake's scheduler asleep beside a measurement.

    While jobs per second are limited (by default they are, to 100), it looks again every second, and each job that ends
    adds one more such look for good: after an hour that took a fifth of a core (Snakemake 9.27.1, job_scheduler.py,
    _schedule_reevalutation). On one machine nobody is spared by the limit.
    """
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


def end_run():
    """Note when the run that measured has ended: a report that is made anew later tells the same wall time."""
    noted = recorded_run()
    if noted.get("run") == RUN:
        write_json(sweep_path("run.json"), {**noted, "ended_unix_s": time.time()})


def recorded_run():
    try:
        return read_json(sweep_path("run.json"))
    except (FileNotFoundError, ValueError):
        return {}


def show_summary():
    if os.path.exists(sweep_path("summary.csv")):  # else only traces were asked for
        shell("python scripts/console.py --results {results:q}", results=sweep_path(""))


def note_jobs(path):
    """For scripts/explain.py: what this call would do, as the last thing that it does."""
    if workflow.dag is not None:
        write_json(path, {"plan": PLAN, "machines": MACHINES, "jobs": explain.collect(workflow)})


if explain.NOTES_FILE in os.environ:
    atexit.register(note_jobs, os.environ[explain.NOTES_FILE])


# --- thousands of jobs -----------------------------------------------------------------------------------------------

# Snakemake asks for a function's signature each time that it calls it, and Python looks for cycles among the jobs' many
# objects again and again: together a third of the time of a dry run of 10,000 jobs.
for function in [value for value in globals().values() if inspect.isfunction(value)]:
    function.__signature__ = inspect.signature(function)
gc.set_threshold(200_000, 20, 100)
