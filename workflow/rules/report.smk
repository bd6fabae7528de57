# takes  the records and scores of all cells
# makes  results/<sweep>/plan.json                    what was to be done, every axis spelled out
#        results/<sweep>/summary.csv, .parquet        one row per model x target x variant; tables/ beside them
#        results/<sweep>/states/<state>/, state.json  these results, kept under the locks that made them; update.html
#        results/<sweep>/plots/, report.html          what people look at
#
# numpy, pyarrow and matplotlib decide what tables and pictures look like, so these are made again with the workflow
# environment's lock, and in the environment of that lock even where Snakemake itself was started in an older one.


localrules:
    plan,
    aggregate,
    update,
    plots,
    report,


rule plan:
    output:
        sweep_path("plan.json"),
    log:
        sweep_path("plan.log"),
    params:
        plan=specs.plan_digest(PLAN),
        config=note_config(),
        code=digest_of_code("plan.py"),
    message:
        "resolve the plan"
    shell:
        "python scripts/plan.py --config {params.config:q} --out {output:q} 2> {log:q}"


rule aggregate:
    input:
        plan=sweep_path("plan.json"),
        manifests=all_manifests(),
        replicates=all_replicates(),
        arrivals=found_arrivals(),
        quality=cells("quality.json"),
        environment=receipt("workflow"),
    output:
        csv=sweep_path("summary.csv"),
        parquet=sweep_path("summary.parquet"),
    log:
        sweep_path("aggregate.log"),
    params:
        code=digest_of_code("aggregate.py"),
        machines=as_param(MACHINES),
        folder=subpath(output.csv, parent=True),
    message:
        "aggregate the sweep"
    shell:
        "python scripts/in_env workflow python scripts/aggregate.py --plan {input.plan:q} --results {params.folder:q}"
        " --artifacts results/artifacts --machines {params.machines:q} --out {params.folder:q} 2> {log:q}"


rule update:
    input:
        plan=sweep_path("plan.json"),
        summary=sweep_path("summary.parquet"),
        environment=receipt("workflow"),
    output:
        page=sweep_path("update.html"),
        state=sweep_path("state.json"),
    log:
        sweep_path("update.log"),
    params:
        code=digest_of_code("update.py"),
        template=template_digest("update", "report"),
        results=subpath(input.summary, parent=True),
    message:
        "keep the results, compare them with those before the last update"
    shell:
        "python scripts/in_env workflow python scripts/update.py --results {params.results:q} 2> {log:q}"


rule plots:
    input:
        plan=sweep_path("plan.json"),
        summary=sweep_path("summary.parquet"),
        environment=receipt("workflow"),
    output:
        sweep_path("plots/index.json"),
    log:
        sweep_path("plots.log"),
    params:
        code=digest_of_code("plot.py"),
        results=subpath(input.summary, parent=True),
    message:
        "plot the sweep"
    shell:
        "python scripts/in_env workflow python scripts/plot.py --results {params.results:q} 2> {log:q}"


rule report:
    input:
        plan=sweep_path("plan.json"),
        summary=sweep_path("summary.parquet"),
        plots=sweep_path("plots/index.json"),
        state=sweep_path("state.json"),
        environment=receipt("workflow"),
    output:
        sweep_path("report.html"),
    log:
        sweep_path("report.log"),
    params:
        code=digest_of_code("report.py"),
        template=template_digest("report"),
        traces=traces_digest(),
        results=subpath(input.summary, parent=True),
    message:
        "report on the sweep"
    shell:
        "python scripts/in_env workflow python scripts/report.py --results {params.results:q} --out {output:q} 2> {log:q}"
