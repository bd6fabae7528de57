"""Measure one replicate of one variant, paired with the baseline: latency in blocks A B B A, then capacity.

Writes latency.jsonl, capacity.jsonl, resources.jsonl and replicate.json into the folder --out. A server that crashes,
hangs or runs out of memory, or the time limit, ends in an outcome "failed" with its reason, with the records measured
until then. Variants whose jobs wait for the same servers are measured with it (diffsweep/sweep/sharing.py).
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from diffsweep.measure import job
from diffsweep.measure.journal import Files, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.pairing import Prompt, plan_requests
from diffsweep.measure.replicate import Turn, measure
from diffsweep.measure.servers import Launch, build_environments
from diffsweep.sweep.files import digest_file
from diffsweep.sweep.options import read_spec
from diffsweep.sweep.outcomes import Outcome
from diffsweep.sweep.runs import current_run
from diffsweep.sweep.sharing import FOLDER, Shared, Work

STAGE = "benchmark"
RECORDS = ("latency", "capacity", "resources")  # the files of records, as journal.Files names them


def main() -> None:
    options = parse_options()
    spec = read_spec(STAGE, options.spec)
    try:
        prompts = job.read_prompts(spec)
        artifacts = {"": options.artifact, "baseline: ": options.baseline_artifact}
        refused = job.refusal(STAGE, spec["attempt"], artifacts)
        inputs = {
            "artifact": digest_file(options.artifact / job.MANIFEST),
            "baseline": digest_file(options.baseline_artifact / job.MANIFEST),
            "prompts": spec["prompts"]["digest"],
        }
        shared = Shared(STAGE, spec, options.out, options.shared)
        if refused is None and shared.take(inputs):
            print(f"{spec['variant']['name']} replicate {spec['replicate']}: measured before, on shared servers")
            return
        if refused is None:
            build_environments(list(spec["environments"].values()))
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        sys.exit(f"{STAGE}: {type(error).__name__}: {error}")
    with closing(Keeper()) as keeper:
        ours = Part(spec, options.out, inputs, keeper)
        if refused is not None:
            ours.begin()
            ours.finish(refused)
            return
        others = [Part(other.spec, shared.aside(other), inputs, keeper) for other in shared.others()]
        outcome = shared.work_through(ours, others, lambda parts: supervise(in_turn(parts), prompts, keeper, options))
        if not ours.finished:
            ours.finish(outcome)


class Part(Work):
    """One replicate of one variant: what it is told, and the files it leaves."""

    stage = STAGE

    def __init__(self, spec: Mapping, out: Path, inputs: Mapping, keeper: Keeper) -> None:
        self.spec, self.out = spec, out
        self.known = {**identity(spec, current_run()), "baseline": spec["baseline"]["name"]}
        self.known |= {"protocol": spec["protocol"], "inputs": inputs}
        self._notes = keeper.folder / f"{spec['variant']['name']}.notes.json"

    def begin(self) -> None:
        """Leave nothing of an earlier run, or of an attempt together with others."""
        self.document.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self._growing = job.open_partial(self.out, *RECORDS)

    def turn(self, prompts: Sequence[Prompt]) -> Turn:
        counts = {key: self.spec["protocol"][key] for key in ("warmup", "requests", "block")}
        requests = plan_requests(prompts, replicate=self.spec["replicate"], **counts)
        files = Files(*self._growing, self._notes)
        return Turn(self.spec, requests, files, lambda: self.finish(Outcome("ok", None, STAGE)))

    def finish(self, outcome: Outcome) -> None:
        outcome = replace(outcome, attempt=self.spec["attempt"])
        job.finish(self.document, outcome, self.known, self._notes, self._growing)


def in_turn(parts: Sequence[Part]) -> list[Part]:
    """The order of variants on shared servers. Each replicate begins with the next, so that each has a cold start."""
    ordered = sorted(parts, key=lambda part: part.known["variant"])
    first = (parts[0].spec["replicate"] - 1) % len(parts)
    return [*ordered[first:], *ordered[:first]]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    job.add_options(parser)
    parser.add_argument("--baseline-artifact", required=True, type=Path, help="the baseline's artifact folder")
    text = f"where it is noted which jobs share servers (default: {FOLDER})"
    parser.add_argument("--shared", type=Path, default=FOLDER, help=text)
    return parser.parse_args()


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


def supervise(parts: Sequence[Part], prompts: Sequence[Prompt], keeper: Keeper, options: argparse.Namespace) -> Outcome:
    """Measure the parts together, and nothing beside them on this machine, in a child that may die. Each that ends well
    is finished there and then, whatever becomes of the others."""
    spec = {**parts[0].spec, "timeout_s": sum(part.spec["timeout_s"] for part in parts)}
    launches, run = launches_of(spec, options), parts[0].known["run"]

    for part in parts:
        part.begin()

    def work(times: Mapping) -> None:
        for part in parts:
            part.known |= times
        measure([part.turn(prompts) for part in parts], launches, run, keeper)

    outcome, times = job.run_alone(work, STAGE, spec, options.lock)
    for part in parts:
        part.known |= times
    return outcome


if __name__ == "__main__":
    job.run_to_the_end(main)
