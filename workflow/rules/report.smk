# takes  the records and scores of all cells
# makes  results/<sweep>/plan.json                    what was to be done, every axis spelled out
#        results/<sweep>/summary.csv, .parquet        one row per model x target x variant; tables/ beside them
#        results/<sweep>/plots/, report.html          what people look at


def cells(name):
    return expand(cell_path(name), model=MODELS, target=TARGETS, variant=VARIANTS)


def all_replicates():
    return expand(cells("replicate-{{replicate}}/replicate.json"), replicate=REPLICATES)


def note_config():
    """The merged config as a file, named by its content, for the program that writes the plan."""
    merged = {key: value for key, value in config.items() if key != "failed"}  # a request of this call only
    path = f".snakemake/diffsweep/config-{data_digest(merged)}.json"
    if not os.path.exists(path):
        write_json(path, merged)
    return path


localrules:
    plan,


rule plan:
    output:
        sweep_path("plan.json"),
    params:
        plan=data_digest(PLAN),
        config=note_config(),
        code=digest_of_code("plan.py"),
    message:
        "resolve the plan"
    shell:
        "{PYTHON} scripts/plan.py --config {params.config:q} --out {output:q}"


def manifests():
    return expand(paths.MANIFEST, model=MODELS, artifact=ARTIFACTS)


rule aggregate:
    input:
        plan=sweep_path("plan.json"),
        manifests=manifests(),
        replicates=all_replicates(),
        quality=cells("quality.json"),
    output:
        csv=sweep_path("summary.csv"),
        parquet=sweep_path("summary.parquet"),
    log:
        sweep_path("aggregate.log"),
    params:
        code=digest_of_code("aggregate.py"),
        folder=subpath(output.csv, parent=True),
    message:
        "aggregate {SWEEP}"
    shell:
        "{PYTHON} scripts/aggregate.py --plan {input.plan:q} --results {params.folder:q}"
        " --artifacts {paths.ARTIFACTS} --out {params.folder:q} 2> {log:q}"


rule plots:
    input:
        plan=sweep_path("plan.json"),
        summary=sweep_path("summary.parquet"),
    output:
        sweep_path("plots/pareto-latency-fid.svg"),
    log:
        sweep_path("plots.log"),
    params:
        code=digest_of_code("plot.py"),
        results=subpath(input.summary, parent=True),
    message:
        "plot {SWEEP}"
    shell:
        "{PYTHON} scripts/plot.py --results {params.results:q} 2> {log:q}"


rule report:
    input:
        plan=sweep_path("plan.json"),
        summary=sweep_path("summary.parquet"),
        plots=sweep_path("plots/pareto-latency-fid.svg"),
    output:
        sweep_path("report.html"),
    log:
        sweep_path("report.log"),
    params:
        code=digest_of_code("report.py"),
        template=data_digest(Path("scripts/diffsweep/show/report.html.j2").read_text(encoding="utf-8")),
        results=subpath(input.summary, parent=True),
    message:
        "report on {SWEEP}"
    shell:
        "{PYTHON} scripts/report.py --results {params.results:q} --out {output:q} 2> {log:q}"
