# takes  the artifacts of a variant and of the baseline
# makes  <variant>/replicate-<r>/latency.jsonl   requests to both, in blocks A B B A
#        <variant>/replicate-<r>/capacity.jsonl  closed-loop load on the variant
#        <variant>/replicate-<r>/replicate.json  how it ended, the host, the servers
#
# One job is one replicate: fresh servers. It takes all cores, so that nothing else of this workflow runs beside it.


def variant_manifest(wildcards):
    variant = find_variant(PLAN, wildcards.variant)
    artifact = specs.artifact_of(PLAN, variant, wildcards.target)
    return paths.MANIFEST.format(model=wildcards.model, artifact=artifact["name"])


def baseline_manifest(wildcards):
    artifact = specs.artifact_of(PLAN, find_variant(PLAN, BASELINE), wildcards.target)
    return paths.MANIFEST.format(model=wildcards.model, artifact=artifact["name"])


def variant_engine(wildcards):
    return find_variant(PLAN, wildcards.variant)["engine"]


def paired_engines(wildcards):
    return sorted({variant_engine(wildcards), find_variant(PLAN, BASELINE)["engine"]})


def paired_environments(wildcards):
    return [receipt(engine) for engine in paired_engines(wildcards)]


REPLICATE = cell_path("replicate-{replicate}/")


def benchmark_params(wildcards):
    attempts = attempt(REPLICATE.format(**wildcards) + "replicate.json")
    names = (wildcards.model, wildcards.target, wildcards.variant, int(wildcards.replicate))
    return as_param(specs.benchmark_spec(PLAN, *names, attempts))


def benchmark_code(wildcards):
    return engine_code("benchmark.py", "serve.py", engines=paired_engines(wildcards))


rule benchmark:
    input:
        artifact=variant_manifest,
        baseline=baseline_manifest,
        environments=paired_environments,
    output:
        latency=REPLICATE + "latency.jsonl",
        capacity=REPLICATE + "capacity.jsonl",
        replicate=REPLICATE + "replicate.json",
    log:
        REPLICATE + "benchmark.log",
    threads: workflow.cores
    params:
        spec=benchmark_params,
        code=benchmark_code,
        artifact=subpath(input.artifact, parent=True),
        baseline=subpath(input.baseline, parent=True),
        folder=subpath(output.replicate, parent=True),
    message:
        "measure {wildcards.variant} on {wildcards.target}, replicate {wildcards.replicate}"
    shell:
        "{PYTHON} scripts/benchmark.py --spec {params.spec:q} --artifact {params.artifact:q}"
        " --baseline-artifact {params.baseline:q} --out {params.folder:q} 2> {log:q}"
