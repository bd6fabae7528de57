# diffsweep: convert diffusion models into optimised variants, measure and score each, draw the Pareto fronts.
#
#   snakemake --cores all                                    the default sweep, config/config.yaml
#   snakemake --cores all --configfile config/smoke.yaml     another sweep
#   snakemake --cores all --config failed=retry              try again what failed
#   snakemake --cores all arrivals                           also the highest rate within the objective, of each variant
#   snakemake --cores all traces                             operator traces, for those who ask where the time goes
#
# Paths: results/<sweep>/<model>/<target>/<variant>/<stage>, artifacts under results/artifacts/<model>/<artifact>/.
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

# The library is not installed: the workflow and the programs in scripts/ use it where it lies.
sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from diffsweep.sweep.documents import ConfigError, read_yaml

# Snakemake would merge a --configfile into this one, and so mix the variants of two sweeps.
if not workflow.configfiles:
    try:
        read_yaml("config/config.yaml")  # before Snakemake does, which meets what is no text with a traceback
    except ConfigError as error:
        sys.exit(f"diffsweep: {error}")

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/params.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/environments.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/arrivals.smk"
include: "workflow/rules/quality.smk"
include: "workflow/rules/traces.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/bundle.smk"
include: "workflow/rules/run.smk"


rule all:
    default_target: True
    input:
        ancient(whole_sweep()),  # each is renewed when it must be; a list of what was would fill the screen


onstart:
    check_places()
    begin_run()
    look_only_when_a_job_ends()
    prepare_cluster()


onsuccess:
    end_run()
    show_summary()
