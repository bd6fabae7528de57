# takes  the artifact of a variant; for the objective, where the config gives none, the baseline's latencies
# makes  <variant>/search-<n>/arrivals.jsonl  requests of an open loop, at one rate after the other
#        <variant>/search-<n>/arrivals.json   how it ended, the objective, the highest rate within it
#
# `snakemake arrivals` does it for all variants, and draws the report with it. No part of `rule all`: a search takes
# about twelve runs of two hundred requests. One job is one search: a fresh server. Once there, the results are kept up to date like all others.


localrules:
    arrivals,


rule arrivals:
    input:
        all_searches(),
        report=sweep_path("report.html"),


rule arrival_rate:
    input:
        artifact=variant_manifest,
        unloaded=unloaded_latencies,
        environment=variant_environment,
    output:
        records=cell_path("search-{search}/arrivals.jsonl"),
        document=cell_path("search-{search}/arrivals.json"),
    log:
        cell_path("search-{search}/arrivals.log"),
    threads: all_cores
    resources:
        **on_cluster("arrivals"),
    params:
        spec=arrivals_params,
        code=arrivals_code,
        artifact=subpath(input.artifact, parent=True),
        folder=subpath(output.document, parent=True),
    message:
        "search the highest rate of {wildcards.variant} on {wildcards.target}, search {wildcards.search}"
    shell:
        "python scripts/arrivals.py"
        " --spec {params.spec:q} --spec @.snakemake/diffsweep/limits/arrivals.json"
        " --artifact {params.artifact:q} --unloaded {input.unloaded:q} --out {params.folder:q} 2> {log:q}"
