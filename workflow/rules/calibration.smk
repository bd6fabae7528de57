# takes  the baseline's artifact
# makes  calibration/<model>/<target>/calibration.json  replicates whose true slow-down is known, beside it in folders
#        calibration/<model>/<target>/report.html       what this machine can tell, with the power curve
#
# Not part of `all`: `snakemake calibration` (or `make calibrate`) runs it once on a new machine, for an hour or more:
# 320 replicates on the quiet host, and 100 on the disturbed one, where they take longer.


localrules:
    report_calibration,
    calibration,


rule calibrate:
    input:
        artifact=calibration_manifest,
        environments=calibration_environments,
    output:
        calibration_path("calibration.json"),
    log:
        calibration_path("calibrate.log"),
    threads: all_cores
    resources:
        **on_cluster("calibrate"),
    params:
        spec=calibration_params,
        code=calibration_code,
        artifact=subpath(input.artifact, parent=True),
        folder=subpath(output[0], parent=True),
    message:
        "calibrate {wildcards.target} with {wildcards.model}"
    shell:
        "python scripts/calibrate.py --spec {params.spec:q} --limits .snakemake/diffsweep/limits/benchmark.json"
        " --artifact {params.artifact:q} --out {params.folder:q} 2> {log:q}"


rule report_calibration:
    input:
        plan=sweep_path("plan.json"),
        records=calibration_path("calibration.json"),
        environment=receipt("workflow"),
    output:
        calibration_path("report.html"),
    log:
        calibration_path("report.log"),
    params:
        code=digest_of_code("report_calibration.py"),
        template=template_digest("calibration", "report"),
        folder=subpath(output[0], parent=True),
    message:
        "report on the calibration of {wildcards.target}"
    shell:
        "python scripts/in_env workflow python scripts/report_calibration.py --plan {input.plan:q} --calibration {params.folder:q} 2> {log:q}"


rule calibration:
    input:
        expand(calibration_path("report.html"), model=MODELS, target=TARGETS),
