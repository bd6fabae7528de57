# takes  a model (local folder or hub id)
# makes  results/artifacts/<model>/onnx/manifest.json        the ONNX that ONNX Runtime and OpenVINO start from
#        results/artifacts/<model>/<artifact>/manifest.json  an engine's files, with parity and census
#
# They come before all else that could run (`priority`): the first job that measures takes along the variants whose
# artifacts are there.


rule export_onnx:
    input:
        environment=receipt("export"),
    output:
        paths.ONNX_MANIFEST,
    log:
        "results/artifacts/{model}/logs/onnx.log",
    priority: 1
    resources:
        **on_cluster("export"),
    params:
        spec=export_params,
        code=digest_of_code("export_onnx.py"),
        folder=subpath(output[0], parent=True),
    message:
        "export {wildcards.model} to ONNX"
    shell:
        "python scripts/in_env export python scripts/export_onnx.py"
        " --spec {params.spec:q} --spec @.snakemake/diffsweep/limits/convert.json"
        " --out {params.folder:q} 2> {log:q}"


rule convert:
    input:
        onnx=artifact_onnx,
        environment=artifact_environment,
    output:
        paths.MANIFEST,
    log:
        "results/artifacts/{model}/logs/{artifact}.log",
    priority: 1
    # Engines spin while their threads wait for each other: two conversions side by side would slow each other tenfold.
    threads: all_cores
    resources:
        **on_cluster("convert"),
    params:
        spec=convert_params,
        code=convert_code,
        folder=subpath(output[0], parent=True),
        engine=artifact_engine,
    message:
        "convert {wildcards.model} to {wildcards.artifact}"
    shell:
        "python scripts/in_env {params.engine} python scripts/convert.py"
        " --spec {params.spec:q} --spec @.snakemake/diffsweep/limits/convert.json"
        " --onnx $(dirname '{input.onnx}') --out {params.folder:q} 2> {log:q}"
