# What the rules are told: inputs, specs and digests of code, by stage. The rules themselves hold nothing but what
# they take, make and run.
from diffsweep.sweep.plan import replicates_of

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
    """Those that the servers run in. Not the workflow's, although the measuring client runs in it: it takes time by
    perf_counter and speaks HTTP by the standard library, and a bump of matplotlib must not cost a sweep."""
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
    names = (wildcards.model, wildcards.target, wildcards.variant)
    return as_param({**specs.score_spec(PLAN, *names, attempts), "scorers": scorers})


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
