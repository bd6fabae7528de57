# takes  the artifacts of a variant and of the baseline
# makes  <variant>/replicate-<r>/latency.jsonl   requests to both, in blocks A B B A
#        <variant>/replicate-<r>/capacity.jsonl  closed-loop load on the variant
#        <variant>/replicate-<r>/resources.jsonl memory, GPU, energy: samples beside both
#        <variant>/replicate-<r>/replicate.json  how it ended, the host, the servers; the records by their digests
#
# The document is written last, and is all that Snakemake is told of: with the records it would read and compare three
# times as many files of a large sweep. scripts/verify checks those.
# One job is one replicate, on fresh servers. The first of those that have one baseline and one number measures all of
# them, in minutes, and the others find that done (sharing.py). It takes all cores, so that nothing else of this workflow
# runs beside it.


rule benchmark:
    input:
        artifact=variant_manifest,
        baseline=baseline_manifest,
        environments=paired_environments,
    output:
        replicate=cell_path("replicate-{replicate}/replicate.json"),
    log:
        cell_path("replicate-{replicate}/benchmark.log"),
    threads: all_cores
    resources:
        **on_cluster("benchmark"),
    params:
        spec=benchmark_params,
        code=benchmark_code,
        artifact=subpath(input.artifact, parent=True),
        baseline=subpath(input.baseline, parent=True),
        folder=subpath(output.replicate, parent=True),
    message:
        "measure {wildcards.variant} on {wildcards.target}, replicate {wildcards.replicate}"
    shell:
        "python scripts/benchmark.py"
        " --spec {params.spec:q} --spec @.snakemake/diffsweep/limits/benchmark.json"
        " --artifact {params.artifact:q} --baseline-artifact {params.baseline:q}"
        " --out {params.folder:q} 2> {log:q}"
