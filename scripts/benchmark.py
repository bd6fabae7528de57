"""Measure one replicate of one variant, paired with the baseline: latency in blocks A B B A, then capacity.

Writes latency.jsonl, capacity.jsonl, resources.jsonl and replicate.json into the folder --out. A server that crashes,
hangs or runs out of memory, or the time limit, ends in an outcome "failed" with its reason, with the records measured
until then. Variants whose jobs wait for the same baseline are measured with it (diffsweep/sweep/sharing.py).
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from diffsweep.measure import job
from diffsweep.measure.journal import Files, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.pairing import Prompt, plan_requests
from diffsweep.measure.replicate import Turn, measure
from diffsweep.measure.servers import Launch, build_environments
from diffsweep.sweep.environments import is_built
from diffsweep.sweep.files import digest_file
from diffsweep.sweep.options import read_spec
from diffsweep.sweep.outcomes import Outcome
from diffsweep.sweep.runs import current_run
from diffsweep.sweep.sharing import FOLDER, Job, Shared, Work, server_of

STAGE = "benchmark"
T = TypeVar("T")
UNREADABLE = (OSError, ValueError, KeyError, TypeError)  # what reading a manifest may raise
RECORDS = ("latency", "capacity", "resources")  # the files of records, as journal.Files names them


def main() -> None:
    options = parse_options()
    spec = read_spec(STAGE, options.spec)
    try:
        prompts = job.read_prompts(spec)
        refused = refusal(spec, options.artifact, options.baseline_artifact)
        inputs = inputs_of(spec, options.artifact, options.baseline_artifact)
        shared = Shared(STAGE, spec, options.out, options.shared)
        if refused is None and shared.take(inputs):
            print(f"{spec['variant']['name']} replicate {spec['replicate']}: measured before, with others")
            return
        others = []
        if refused is None:
            others = measurable_others(shared, spec, options)
            build_environments(list(spec["environments"].values()))
    except (*UNREADABLE, subprocess.CalledProcessError) as error:
        sys.exit(f"{STAGE}: {type(error).__name__}: {error}")
    with closing(Keeper()) as keeper:
        ours = Part(spec, options.out, options.artifact, inputs, keeper)
        if refused is not None:
            ours.begin()
            ours.finish(refused)
            return
        theirs = [
            Part(
                other.spec,
                shared.aside(other),
                artifact,
                inputs_of(other.spec, artifact, options.baseline_artifact),
                keeper,
            )
            for other, artifact in others
        ]
        outcome = shared.work_through(ours, theirs, lambda parts: supervise(in_turn(parts), prompts, keeper, options))
        if not ours.finished:
            ours.finish(outcome)


def refusal(spec: Mapping, artifact: Path, baseline_artifact: Path) -> Outcome | None:
    return job.refusal(STAGE, spec["attempt"], {"": artifact, "baseline: ": baseline_artifact})


def inputs_of(spec: Mapping, artifact: Path, baseline_artifact: Path) -> dict:
    """Digests of what is measured, as the document names them."""
    return {
        "artifact": digest_file(artifact / job.MANIFEST),
        "baseline": digest_file(baseline_artifact / job.MANIFEST),
        "prompts": spec["prompts"]["digest"],
    }


def measurable_others(shared: Shared, spec: Mapping, options: argparse.Namespace) -> list[tuple[Job, Path]]:
    """The jobs to be measured together with ours, each with its artifact's folder: those whose artifact and environment
    are there, and that may be measured. What is wrong with another is told by its own job."""
    found = []
    for other in shared.others():
        artifact = options.artifact
        if other.spec["variant_artifact"] != spec["variant_artifact"]:
            artifact = artifact.with_name(other.spec["variant_artifact"]["name"])
        with suppress(*UNREADABLE):
            refused = refusal(other.spec, artifact, options.baseline_artifact)
            if refused is None and is_built(other.spec["environments"]["variant"]):
                found.append((other, artifact))
    return found


class Part(Work):
    """One replicate of one variant: what it is told, and the files it leaves."""

    stage = STAGE

    def __init__(self, spec: Mapping, out: Path, artifact: Path, inputs: Mapping, keeper: Keeper) -> None:
        self.spec, self.out, self.artifact = spec, out, artifact
        self.known = {**identity(spec, current_run()), "baseline": spec["baseline"]["name"]}
        self.known |= {"protocol": spec["protocol"], "inputs": inputs}
        self._notes = keeper.folder / f"{spec['variant']['name']}.notes.json"

    def begin(self) -> None:
        """Leave nothing of an earlier run, or of an attempt together with others."""
        self.document.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self._growing = job.open_partial(self.out, *RECORDS)

    @property
    def begun(self) -> bool:
        return self._notes.exists()

    def turn(self, launch: Launch, prompts: Sequence[Prompt]) -> Turn:
        counts = {key: self.spec["protocol"][key] for key in ("warmup", "requests", "block")}
        requests = plan_requests(prompts, replicate=self.spec["replicate"], **counts)
        files = Files(*self._growing, self._notes)
        return Turn(self.spec, requests, launch, files, lambda: self.finish(Outcome("ok", None, STAGE)))

    def finish(self, outcome: Outcome) -> None:
        outcome = replace(outcome, attempt=self.spec["attempt"])
        job.finish(self.document, outcome, self.known, self._notes, self._growing)


def in_turn(parts: Sequence[Part]) -> list[Part]:
    """The order of variants, those on one server side by side. In each replicate another server, and on each server
    another variant, begins: none always comes late. Only the baseline's own server is always the first, since later it
    would have no cold start for a variant."""
    places = parts[0].spec["replicate"] - 1
    groups = [rotated(group, places) for group in by_server(sorted(parts, key=name_of)).values()]
    first = [group for group in groups if is_on_baselines_server(group[0].spec)]
    others = [group for group in groups if group not in first]
    return [part for group in (*first, *rotated(others, places)) for part in group]


def name_of(part: Part) -> str:
    return part.spec["variant"]["name"]


def by_server(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """The parts that take turns on one server, by its digest, in order."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(server_of(part.spec), []).append(part)
    return groups


def rotated(items: Sequence[T], places: int) -> list[T]:
    first = places % max(len(items), 1)
    return [*items[first:], *items[:first]]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    job.add_options(parser)
    parser.add_argument("--baseline-artifact", required=True, type=Path, help="the baseline's artifact folder")
    text = f"where it is noted which jobs share the baseline's server (default: {FOLDER})"
    parser.add_argument("--shared", type=Path, default=FOLDER, help=text)
    return parser.parse_args()


def launch_of(spec: Mapping, role: str, artifact: Path, program: Path) -> Launch:
    return Launch(role, spec["environments"][role], program, job.server_spec(spec, role), artifact)


def is_on_baselines_server(spec: Mapping) -> bool:
    """Whether one server does for variant and baseline: where they differ only in what a request carries, which
    batching is not. The baseline itself is compared with another process of its artifact: that is the A/A test."""
    same_artifact = spec["variant_artifact"] == spec["baseline_artifact"]
    same_batching = spec["variant"].get("batching") == spec["baseline"].get("batching")
    return same_artifact and same_batching and spec["variant"]["name"] != spec["baseline"]["name"]


def supervise(parts: Sequence[Part], prompts: Sequence[Prompt], keeper: Keeper, options: argparse.Namespace) -> Outcome:
    """Measure the parts together, and nothing beside them on this machine, in a child that may die. Each that ends well
    is finished there and then, whatever becomes of the others.

    The time limit is that of all that take turns on one server; where there are several, it begins anew when a part
    began or ended meanwhile.
    """
    spec, run = parts[0].spec, parts[0].known["run"]
    groups = by_server(parts)
    limit_s = spec["timeout_s"] * max(map(len, groups.values()))
    baseline = launch_of(spec, "baseline", options.baseline_artifact, options.server)
    if all(is_on_baselines_server(part.spec) for part in parts):
        baseline = replace(baseline, name="variant")  # by that name its failures are told
    launches = {
        server: baseline
        if is_on_baselines_server(group[0].spec)
        else launch_of(group[0].spec, "variant", group[0].artifact, options.server)
        for server, group in groups.items()
    }
    for part in parts:
        part.begin()

    def work(times: Mapping) -> None:
        for part in parts:
            part.known |= times
        measure([part.turn(launches[server_of(part.spec)], prompts) for part in parts], baseline, run, keeper)

    def progress() -> int:
        at_once = len(next(iter(groups.values())))  # they begin together, as soon as it is looked at for the first time
        return max(sum(part.begun for part in parts), at_once) + sum(part.finished for part in parts)

    outcome, times = job.run_alone(
        work, STAGE, {**spec, "timeout_s": limit_s}, options.lock, progress if len(groups) > 1 else None
    )
    for part in parts:
        part.known |= times
    return outcome


if __name__ == "__main__":
    job.run_to_the_end(main)
