# takes  the artifact of a variant
# makes  <variant>/images.json, images/*.png                   images of the prompt suite, same latents for all variants
#        <variant>/quality.json, scores.parquet, features.npy  their scores; written last, quality.json digests the others


rule images:
    input:
        artifact=variant_manifest,
        environment=variant_environment,
    output:
        cell_path("images.json"),
    log:
        cell_path("images.log"),
    threads: all_cores  # the engine runs with the target's threads, as it is measured
    resources:
        **on_cluster("images"),
    params:
        spec=images_params,
        code=images_code,
        artifact=subpath(input.artifact, parent=True),
        engine=variant_engine,
    message:
        "images of {wildcards.variant} on {wildcards.target}"
    shell:
        "python scripts/in_env {params.engine} python scripts/generate_images.py"
        " --spec {params.spec:q} --spec @.snakemake/diffsweep/limits/images.json"
        " --artifact {params.artifact:q} --code {params.code} --out {output:q} 2> {log:q}"


rule score:
    input:
        images=cell_path("images.json"),
        baseline=baseline_images,
        environment=receipt("scoring"),
    output:
        quality=cell_path("quality.json"),
    log:
        cell_path("score.log"),
    priority: -1  # last, when there are many to be scored together
    threads: cores_to_share
    resources:
        **on_cluster("score"),
    params:
        spec=score_params,
        code=digest_of_code("score.py"),
        folder=subpath(output.quality, parent=True),
    message:
        "score {wildcards.variant} on {wildcards.target}"
    shell:
        "python scripts/in_env scoring python scripts/score.py --processes {threads}"
        " --spec {params.spec:q} --spec @.snakemake/diffsweep/limits/score.json"
        " --images {input.images:q} --baseline {input.baseline:q} --out {params.folder:q} 2> {log:q}"
