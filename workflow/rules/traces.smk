# takes  the artifact of a variant
# makes  <variant>/trace.json   which operators the time goes to, by the engine's profiler and by Nsight Systems
#        <variant>/trace/       the table as CSV and JSON, and the raw traces, for Perfetto and Nsight Systems
#
# Not part of `all`: `snakemake --cores all traces` makes them, outside of whatever is measured. The report shows those
# that it finds.


localrules:
    traces,


rule traces:
    input:
        cells("trace.json"),


rule trace:
    input:
        artifact=variant_manifest,
        environment=variant_environment,
    output:
        cell_path("trace.json"),
    log:
        cell_path("trace.log"),
    threads: all_cores  # the engine runs with the target's threads, as it is measured
    resources:
        **on_cluster("trace"),
    params:
        spec=trace_params,
        code=trace_code,
        artifact=subpath(input.artifact, parent=True),
        engine=variant_engine,
    message:
        "trace {wildcards.variant} on {wildcards.target}"
    shell:
        "python scripts/in_env {params.engine} python scripts/trace.py"
        " --spec {params.spec:q} --spec @.snakemake/diffsweep/limits/trace.json"
        " --artifact {params.artifact:q} --out {output:q} 2> {log:q}"
