"""Find the highest Poisson rate that one variant's server takes with P95 within the objective and few errors.

Writes arrivals.jsonl and arrivals.json into the folder --out. The objective is protocol.objective_s; without it, a
multiple of the baseline's unloaded latency, the same for all variants, from the latency.jsonl beside each of the
baseline's own replicate.json (--unloaded). A server that fails, or the time limit, ends in an outcome "failed" with its
reason, with the records until then.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from diffsweep.measure import job
from diffsweep.measure.journal import Files, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.open_loop import measure_arrivals
from diffsweep.measure.records import read_latency
from diffsweep.measure.servers import Launch, build_environments
from diffsweep.sweep.files import digest_file, read_json
from diffsweep.sweep.options import read_spec
from diffsweep.sweep.outcomes import Outcome
from diffsweep.sweep.runs import current_run

STAGE = "arrivals"


def main() -> None:
    options = parse_options()
    spec = read_spec(STAGE, options.spec)
    try:
        prompts = job.read_prompts(spec)
        objective_s = objective_of(spec, options.unloaded)
        refused = job.refusal(STAGE, spec["attempt"], {"": options.artifact})
        if refused is None and objective_s is None:
            reason = "no objective: the baseline has no measured latency, and protocol.objective_s is not given"
            refused = Outcome("failed", reason, STAGE, spec["attempt"])
        if refused is None:
            build_environments([spec["environments"]["variant"]])
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        sys.exit(f"{STAGE}: {type(error).__name__}: {error}")
    known = {**identity(spec, current_run()), **{k: spec[k] for k in ("protocol", "arrivals")}, "trials": []}
    known["inputs"] = {
        "artifact": digest_file(options.artifact / job.MANIFEST),
        "prompts": spec["prompts"]["digest"],
        "unloaded": [digest_file(path) for path in options.unloaded],
    }
    growing = job.open_partial(options.out, STAGE)
    with closing(Keeper()) as keeper:
        files = files_of(*growing, keeper.folder)
        launch = launch_of(spec, options)
        outcome, times = refused, {}
        if refused is None:
            outcome, times = job.run_alone(
                lambda _: measure_arrivals(spec, launch, prompts, objective_s, known["run"], files, keeper),
                STAGE,
                spec,
                options.lock,
            )
        job.finish(options.out / "arrivals.json", outcome, {**known, **times}, files.notes, growing)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    job.add_options(parser)
    text = "the baseline's replicate.json files; needed without protocol.objective_s"
    parser.add_argument("--unloaded", nargs="*", default=[], type=Path, help=text)
    return parser.parse_args()


def files_of(records: Path, scratch: Path) -> Files:
    return Files(scratch / "latency", records, scratch / "resources", scratch / "notes.json")


def launch_of(spec: Mapping, options: argparse.Namespace) -> Launch:
    environment = spec["environments"]["variant"]
    return Launch("variant", environment, options.server, job.server_spec(spec, "variant"), options.artifact)


def objective_of(spec: Mapping, unloaded: Sequence[Path]) -> float | None:
    """The objective in seconds; None when nothing gives one. Raises OSError and CorruptRecords."""
    given = spec["protocol"].get("objective_s")
    if given is not None:
        return given
    records = [r for path in unloaded for r in read_latency(path.with_name("latency.jsonl"), read_json(path))]
    times = [r.e2e_s for r in records if r.role == "variant" and not r.warmup and r.status == "ok"]
    return float(f"{spec['arrivals']['objective_multiple'] * statistics.median(times):.3g}") if times else None


if __name__ == "__main__":
    job.run_to_the_end(main)
