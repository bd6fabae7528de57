# takes  a model (local folder or hub id)
# makes  results/artifacts/<model>/onnx/manifest.json        the ONNX that ONNX Runtime and OpenVINO start from
#        results/artifacts/<model>/<artifact>/manifest.json  an engine's files, with parity and census


def export_params(wildcards):
    attempts = attempt(paths.ONNX_MANIFEST.format(model=wildcards.model))
    return as_param(specs.export_spec(PLAN, wildcards.model, source_digest(wildcards.model), attempts))


rule export_onnx:
    input:
        environment=receipt("export"),
    output:
        paths.ONNX_MANIFEST,
    log:
        paths.ARTIFACTS + "/{model}/logs/onnx.log",
    params:
        spec=export_params,
        code=digest_of_code("export_onnx.py"),
        folder=subpath(output[0], parent=True),
    message:
        "export {wildcards.model} to ONNX"
    shell:
        "{PYTHON} scripts/in_env export python scripts/export_onnx.py"
        " --spec {params.spec:q} --out {params.folder:q} 2> {log:q}"


ARTIFACTS = specs.artifacts_of(PLAN)
STARTS_FROM_ONNX = ("onnxruntime", "openvino")


def artifact_engine(wildcards):
    return ARTIFACTS[wildcards.artifact]["engine"]


def artifact_environment(wildcards):
    return receipt(artifact_engine(wildcards))


def artifact_onnx(wildcards):
    return paths.ONNX_MANIFEST if artifact_engine(wildcards) in STARTS_FROM_ONNX else []


def convert_params(wildcards):
    attempts = attempt(paths.MANIFEST.format(**wildcards))
    source = source_digest(wildcards.model)
    return as_param(specs.convert_spec(PLAN, wildcards.model, wildcards.artifact, source, attempts))


def convert_code(wildcards):
    return engine_code("convert.py", engines=[artifact_engine(wildcards)])


rule convert:
    input:
        onnx=artifact_onnx,
        environment=artifact_environment,
    output:
        paths.MANIFEST,
    log:
        paths.ARTIFACTS + "/{model}/logs/{artifact}.log",
    wildcard_constraints:
        artifact="(?!onnx$|logs$)[^/]+",
    params:
        spec=convert_params,
        code=convert_code,
        folder=subpath(output[0], parent=True),
        engine=artifact_engine,
    message:
        "convert {wildcards.model} to {wildcards.artifact}"
    shell:
        "{PYTHON} scripts/in_env {params.engine} python scripts/convert.py --spec {params.spec:q}"
        " --onnx $(dirname '{input.onnx}') --out {params.folder:q} 2> {log:q}"
