"""Measure one replicate of one variant, paired with the baseline: latency in blocks A B B A, then capacity.

Writes latency.jsonl, capacity.jsonl, resources.jsonl and replicate.json into the folder --out. A server that crashes,
hangs or runs out of memory, or the time limit, ends in an outcome "failed" with its reason, with the records measured
until then.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from diffsweep.measure import job
from diffsweep.measure.journal import Files, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.pairing import Prompt, plan_requests
from diffsweep.measure.replicate import measure
from diffsweep.measure.servers import Launch, build_environments
from diffsweep.sweep.files import digest_file
from diffsweep.sweep.options import read_spec
from diffsweep.sweep.outcomes import Outcome
from diffsweep.sweep.runs import current_run

STAGE = "benchmark"
RECORDS = ("latency", "capacity", "resources")  # the files of records, as journal.Files names them


def main() -> None:
    options = parse_options()
    spec = read_spec(STAGE, options.spec)
    try:
        prompts = job.read_prompts(spec)
        artifacts = {"": options.artifact, "baseline: ": options.baseline_artifact}
        refused = job.refusal(STAGE, spec["attempt"], artifacts)
        if refused is None:
            build_environments(list(spec["environments"].values()))
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        sys.exit(f"{STAGE}: {type(error).__name__}: {error}")
    known = {**identity(spec, current_run()), "baseline": spec["baseline"]["name"], "protocol": spec["protocol"]}
    known["inputs"] = {
        "artifact": digest_file(options.artifact / job.MANIFEST),
        "baseline": digest_file(options.baseline_artifact / job.MANIFEST),
        "prompts": spec["prompts"]["digest"],
    }
    growing = job.open_partial(options.out, *RECORDS)
    with closing(Keeper()) as keeper:
        files = Files(*growing, keeper.folder / "notes.json")
        outcome, times = refused, {}
        if refused is None:
            outcome, times = supervise(spec, prompts, known["run"], files, keeper, options)
        job.finish(options.out / "replicate.json", outcome, {**known, **times}, files.notes, growing)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    job.add_options(parser)
    parser.add_argument("--baseline-artifact", required=True, type=Path, help="the baseline's artifact folder")
    return parser.parse_args()


def counts(spec: Mapping) -> dict[str, int]:
    return {key: spec["protocol"][key] for key in ("warmup", "requests", "block")}


def launches_of(spec: Mapping, options: argparse.Namespace) -> dict[str, Launch]:
    """How each role's server is started: one server for both roles where they differ only in what a request carries,
    which batching is not.

    The baseline's own job compares two processes of the same artifact: it is the A/A test.
    """
    folders = {"variant": options.artifact, "baseline": options.baseline_artifact}
    launches = {
        role: Launch(role, spec["environments"][role], options.server, job.server_spec(spec, role), folder)
        for role, folder in folders.items()
    }
    same_artifact = spec["variant_artifact"] == spec["baseline_artifact"]
    same_batching = spec["variant"].get("batching") == spec["baseline"].get("batching")
    if same_artifact and same_batching and spec["variant"]["name"] != spec["baseline"]["name"]:
        launches["baseline"] = launches["variant"]
    return launches


def supervise(
    spec: Mapping, prompts: Sequence[Prompt], run: str, files: Files, keeper: Keeper, options: argparse.Namespace
) -> tuple[Outcome, dict]:
    """Run the replicate alone on this machine, in a child that may die."""
    requests = plan_requests(prompts, replicate=spec["replicate"], **counts(spec))
    launches = launches_of(spec, options)
    return job.run_alone(lambda: measure(spec, launches, requests, run, files, keeper), STAGE, spec, options.lock)


if __name__ == "__main__":
    job.run_to_the_end(main)
