# takes  a finished sweep
# makes  results/<sweep>/bundle.zip, all of it but logs and model files, as an RO-Crate: snakemake --cores all bundle
#
# Not part of rule all. Unpacked over a fresh clone, the sweep is there, and Snakemake finds nothing to do.


localrules:
    bundle,


rule bundle:
    input:
        whole_sweep(),
        report=sweep_path("report.html"),
        environment=receipt("bundle"),
    output:
        sweep_path("bundle.zip"),
    log:
        sweep_path("bundle.log"),
    params:
        code=digest_of_code("bundle.py"),
        config=note_config(),
        results=subpath(input.report, parent=True),
    message:
        "bundle the sweep"
    shell:
        "python scripts/in_env bundle python scripts/bundle.py"
        " --results {params.results:q} --config {params.config:q} --out {output:q} 2> {log:q}"
