# The run as a whole: what happens before the first job and after the last.
import fcntl
import gc
import inspect
import secrets
import time
from contextlib import contextmanager
from functools import lru_cache

from snakemake.common import FUNC_OVERWRITE_PARAMS_ATTR
from snakemake.jobs import Job
from snakemake.resources import Resource

from diffsweep.sweep import explain, sharing
from diffsweep.sweep.files import remove_partials

NOTES = ".snakemake/diffsweep"
CLAIM, CLAIM_S = f"{NOTES}/lock", 1.0


def last_claim():
    """What the last run that claimed this folder wrote; None while that run goes on."""
    try:
        with open(CLAIM) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return handle.read()
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        return None


LAST_CLAIM = last_claim()  # before Snakemake looks at what is there


def claim_folder():
    """Refuse to run twice in one folder. The lock is the kernel's: it ends with this process, however that ends."""
    handle, deadline = open(CLAIM, "a+"), time.monotonic() + CLAIM_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit("diffsweep: another sweep is running in this folder; wait until it has ended")
            time.sleep(0.05)  # a dry run may just be looking at it
    handle.seek(0)
    if handle.read() != LAST_CLAIM:  # else what that run has done would be done again
        sys.exit("diffsweep: another sweep ran in this folder while this one began; give the same command again")
    handle.truncate(0)
    handle.write(secrets.token_hex(8))
    handle.flush()
    return handle


@contextmanager
def told_in_one_line(place):
    """Let a disk that is full or read-only end this in one line."""
    try:
        yield
    except OSError as error:
        sys.exit(f"diffsweep: {place}: {error.strerror}; mend that, and give the same command again")


def tidy_up():
    """Remove what killed jobs have left half-written, now that none can be running; say so when nothing can be."""
    for folder in (sweep_path(""), *(f"{paths.ARTIFACTS}/{model}" for model in MODELS)):
        with told_in_one_line(folder):
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK):
                sys.exit(f"diffsweep: {folder} is read-only; make it writable, or run the sweep elsewhere")
            remove_partials(folder)


def begin_run():
    """Claim the folder, and note there what the jobs of this run, and of no other, are to find."""
    global FOLDER_CLAIM  # held until the process ends
    with told_in_one_line(NOTES):
        FOLDER_CLAIM = claim_folder()
    end_leftovers()
    tidy_up()
    jobs = {stage: [job for job in workflow.dag.needrun_jobs() if job.rule.name == stage] for stage in sharing.STAGES}
    if jobs["benchmark"]:  # for the ratio of wall time to useful time
        with told_in_one_line(sweep_path("")):
            write_json(sweep_path("run.json"), {"run": RUN, "started_unix_s": time.time()})
    with told_in_one_line(NOTES):
        for stage, running in jobs.items():
            # On a cluster jobs run at the same time, and nobody would find what another has put aside for it.
            sharing.note_jobs(stage, map(sharing_job, running) if workflow.local_exec else ())
        # Time limits are no rerun trigger, so they reach the programs beside their specs.
        for stage, limits in specs.limits_of(PLAN).items():
            write_json(f"{NOTES}/limits/{stage}.json", limits)


def sharing_job(job):
    """A job as those see it that could share with it."""
    spec, folder = json.loads(job.params.spec), os.path.dirname(job.output[0])
    return sharing.job_of(job.rule.name, spec, folder, [job.params.code, *map(str, job.input)])


def look_only_when_a_job_ends():
    """Keep Snakemake's scheduler asleep beside a measurement.

    While jobs per second are limited (by default they are, to 100), it looks again every second, and each job that ends
    adds one more such look for good: after an hour that took a fifth of a core (Snakemake 9.27.1, job_scheduler.py,
    _schedule_reevalutation). On one machine nobody is spared by the limit.
    """
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


def end_run():
    """Remove what a job that was killed and done again has left. Note when the run that measured has ended: a report
    that is made anew later tells the same wall time."""
    tidy_up()
    noted = recorded_run()
    if noted.get("run") == RUN:
        with told_in_one_line(sweep_path("")):
            write_json(sweep_path("run.json"), {**noted, "ended_unix_s": time.time()})


def recorded_run():
    try:
        return read_json(sweep_path("run.json"))
    except (FileNotFoundError, ValueError):
        return {}


def show_summary():
    if os.path.exists(sweep_path("summary.csv")):  # else only traces were asked for
        shell("python scripts/console.py --results {results:q}", results=sweep_path(""))


def note_jobs(path):
    """For scripts/explain.py: what this call would do, as the last thing that it does."""
    if workflow.dag is not None:
        write_json(path, {"plan": PLAN, "machines": MACHINES, "jobs": explain.collect(workflow)})


if explain.NOTES_FILE in os.environ:
    atexit.register(note_jobs, os.environ[explain.NOTES_FILE])


# --- thousands of jobs -----------------------------------------------------------------------------------------------

# Half of the time of a dry run of 10,000 jobs: Snakemake works out what a function takes each time that it calls it
# (unless told, by this attribute), formats a job's shell command three times in a row to list the job, and Python looks
# for cycles among the jobs' many objects again and again, and for 3 s when it ends.
for function in (*filter(inspect.isfunction, list(globals().values())), Resource.evaluate):
    setattr(function, FUNC_OVERWRITE_PARAMS_ATTR, inspect.signature(function).parameters)
Job.shellcmd = property(lru_cache(maxsize=1)(Job.shellcmd.fget))
gc.set_threshold(1_000_000, 50, 100)
atexit.register(gc.freeze)
