# takes  envs/<name>.lock
# makes  results/envs/<name>-<digest>.txt, the receipt: the Python version and the installed packages
#
# Environments are caches, not nodes of the DAG: whoever needs one builds it (scripts/in_env). A job takes the receipt
# as an ancient input; the digest in its path is what makes a changed lock rerun what uses it.


localrules:
    environment,


rule environment:
    output:
        paths.RECEIPT,
    log:
        "results/envs/{environment}-{digest}.log",
    priority: 1  # before what measures, as what is converted in them
    message:
        "environment {wildcards.environment}"
    shell:
        "python scripts/in_env {wildcards.environment} python scripts/receipt.py"
        " --environment {wildcards.environment} --out {output:q} 2> {log:q}"
