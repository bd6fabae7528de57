# What runs where: the resources of every job, and what is done before jobs are submitted. On one machine, next to nothing.
from functools import partial

from diffsweep.sweep import cluster
from diffsweep.sweep.environments import NO_BUILD, ensure_environment

PARTITION_HERE = os.environ.get("SLURM_JOB_PARTITION")  # read now: the executor plugin drops Slurm's variables


def home_target(wildcards):
    """The target that a job belongs to: its own, the artifact's, or else the sweep's first."""
    if "artifact" in wildcards.keys():
        return home_of_artifact(wildcards.artifact)
    return wildcards.get("target", TARGETS[0])


@cache
def home_of_artifact(artifact):
    return cluster.home_of(PLAN, artifact)


def all_cores(wildcards):
    """Every core of this machine. On a cluster, where --cores is not given, as many as the target's engine uses."""
    return workflow.cores if workflow.local_exec else PLAN["targets"][home_target(wildcards)]["threads"]


def cores_to_share(wildcards):
    """Every core of this machine for the one job that does the work of others. On a cluster, where none does: one."""
    return workflow.cores if workflow.local_exec else 1


def on_cluster(stage):
    """The resources of a stage's jobs, each a function of the wildcards; none in a sweep that has no partition."""
    if not any("slurm" in target for target in PLAN["targets"].values()):
        return {}
    return {name: partial(resource_of, stage, name) for name in cluster.RESOURCES}


def resource_of(stage, name, wildcards):
    return cluster.resources(PLAN, stage, home_target(wildcards))[name]


# --- before the first job --------------------------------------------------------------------------------------------


def check_places():
    """Refuse to measure a partition on this machine, or this machine on a partition: the label would be a lie."""
    slurm = workflow.executor_plugin.name == "slurm"
    if not (workflow.local_exec or slurm):
        return  # another executor's profile says where its jobs run
    jobs = [job for job in workflow.dag.needrun_jobs() if "target" in job.wildcards.keys()]
    for target in sorted({job.wildcards.target for job in jobs}):
        problem = cluster.misplaced(PLAN["targets"][target], PARTITION_HERE, slurm)
        if problem:
            sys.exit(f"diffsweep: targets.{target}: {problem}")


def prepare_cluster():
    """What only the submitting side can do: count the attempts, build the environments."""
    if workflow.local_exec:
        return
    note_attempts()
    build_environments()
    os.environ[NO_BUILD] = "1"  # for the jobs, which inherit it


def end_leftovers():
    """A killed Snakemake leaves its jobs in the queue, and they would write beside those of this one."""
    if workflow.executor_plugin.name != "slurm":
        return
    folder = Path.cwd()
    try:
        jobs = cluster.leftover_jobs(folder)
        if jobs:
            print(f"diffsweep: cancelling jobs of an earlier run of this sweep: {', '.join(jobs)}", file=sys.stderr)
        if jobs and not cluster.end_jobs(folder, jobs):
            sys.exit("diffsweep: they do not end; wait until squeue no longer lists them, then give the same command")
    except OSError as error:
        sys.exit(f"diffsweep: Slurm does not answer: {error}")


def note_attempts():
    """Count the attempts of all jobs that will run, while their old outcomes are there, and write them down."""
    for job in workflow.dag.needrun_jobs():
        job.params  # whose functions count
    write_json(ATTEMPTS_FILE, {path: count for path, count in ATTEMPTS.items() if count})


def build_environments():
    """Compute nodes often have no network, so every environment that a job will ask for is built here."""
    receipts = re.compile(paths.RECEIPT.format(environment="([^/-]+)", digest="[0-9a-f]+"))
    files = [path for job in workflow.dag.needrun_jobs() for path in (*job.input, *job.output)]
    try:
        for name in sorted({found[1] for found in map(receipts.fullmatch, files) if found}):
            ensure_environment(name)
    except EnvironmentFailed as error:
        sys.exit(f"diffsweep: {error}")
