"""Measure one replicate of one variant, paired with the baseline: latency in blocks A B B A, then capacity.

Writes latency.jsonl, capacity.jsonl, resources.jsonl and replicate.json into the folder --out. A server that crashes,
hangs or runs out of memory, or the time limit, ends in an outcome "failed" with its reason, with the records measured
until then.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

from diffsweep.measure.host import LOCK, PROJECT, measuring_alone
from diffsweep.measure.journal import PHASES, Files, identity
from diffsweep.measure.keeper import Keeper
from diffsweep.measure.pairing import Prompt, plan_requests
from diffsweep.measure.replicate import measure
from diffsweep.measure.servers import Launch, build_environments
from diffsweep.sweep.files import digest_file, read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Outcome, outcome_of, run_program, run_supervised
from diffsweep.sweep.runs import current_run

STAGE = "benchmark"
MANIFEST = "manifest.json"
RECORDS = ("latency", "capacity", "resources")  # the files of records, as journal.Files names them


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` and `with` are run
    options = parse_options()
    spec = read_spec("benchmark", options.spec)
    try:
        prompts = read_prompts(spec)
        refused = refusal(spec, options.artifact, options.baseline_artifact)
        if refused is None:
            build_environments(list(spec["environments"].values()))
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        sys.exit(f"benchmark: {type(error).__name__}: {error}")
    known = {**identity(spec, current_run()), "baseline": spec["baseline"]["name"], "protocol": spec["protocol"]}
    known["inputs"] = {
        "artifact": digest_file(options.artifact / MANIFEST),
        "baseline": digest_file(options.baseline_artifact / MANIFEST),
        "prompts": spec["prompts"]["digest"],
    }
    with closing(Keeper()) as keeper:
        files = partial_files(options.out, keeper.folder)
        if refused is None:
            outcome, times = supervise(spec, prompts, known["run"], files, keeper, options)
        else:
            outcome, times = refused, {}
        finish(options.out, outcome, {**known, **times}, files)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "what to measure")
    parser.add_argument("--artifact", required=True, type=Path, help="the variant's artifact folder")
    parser.add_argument("--baseline-artifact", required=True, type=Path, help="the baseline's artifact folder")
    parser.add_argument("--out", required=True, type=Path, help="the folder for the results")
    serve = PROJECT / "scripts" / "serve.py"
    parser.add_argument("--server", type=Path, default=serve, help="the server program (default: scripts/serve.py)")
    parser.add_argument("--lock", type=Path, default=LOCK, help=f"the machine-wide lock (default: {LOCK})")
    return parser.parse_args()


def read_prompts(spec: Mapping) -> list[Prompt]:
    """The suite's first prompts, as many as the protocol uses; ids as scripts/generate_images.py gives them."""
    import yaml

    text = (PROJECT / spec["prompts"]["path"]).read_text(encoding="utf-8")
    texts = islice(yaml.safe_load(text)["prompts"], spec["protocol"]["distinct_prompts"])
    return [Prompt(f"p{number:03d}", text) for number, text in enumerate(texts)]


def counts(spec: Mapping) -> dict[str, int]:
    return {key: spec["protocol"][key] for key in ("warmup", "requests", "block")}


def refusal(spec: Mapping, *artifacts: Path) -> Outcome | None:
    """The outcome of an artifact that must not be measured, as this stage's own; None when all may."""
    for name, folder in zip(("", "baseline: "), artifacts, strict=True):
        built = outcome_of(read_json(folder / MANIFEST))
        if not built.ok:
            return Outcome(built.status, f"{name}{built.stage}: {built.reason}", STAGE, spec["attempt"])
    return None


def launches_of(spec: Mapping, options: argparse.Namespace) -> dict[str, Launch]:
    """How each role's server is started: one server for both roles where they differ only in what a request carries.

    The baseline's own job compares two processes of the same artifact: it is the A/A test.
    """
    folders = {"variant": options.artifact, "baseline": options.baseline_artifact}
    launches = {
        role: Launch(role, spec["environments"][role], options.server, server_spec(spec, role), folder)
        for role, folder in folders.items()
    }
    same_artifact = spec["variant_artifact"] == spec["baseline_artifact"]
    if same_artifact and spec["variant"]["name"] != spec["baseline"]["name"]:
        launches["baseline"] = launches["variant"]
    return launches


def server_spec(spec: Mapping, role: str) -> dict:
    return {"model": spec["model"], "artifact": spec[f"{role}_artifact"], "variant": spec[role], "limits": {}}


def partial_files(out: Path, scratch: Path) -> Files:
    """Where the records grow: beside their final names, and empty."""
    out.mkdir(parents=True, exist_ok=True)
    records = [out / f"{name}.jsonl.partial" for name in RECORDS]
    for path in records:
        path.write_bytes(b"")
    return Files(*records, scratch / "notes.json")


def supervise(
    spec: Mapping, prompts: Sequence[Prompt], run: str, files: Files, keeper: Keeper, options: argparse.Namespace
) -> tuple[Outcome, dict]:
    """Run the replicate alone on this machine, in a child that may die. The time limit does not count the waiting."""
    requests = plan_requests(prompts, replicate=spec["replicate"], **counts(spec))
    launches = launches_of(spec, options)
    with measuring_alone(options.lock) as waited_s:
        started_unix_s = time.time()
        outcome = run_supervised(
            lambda: measure(spec, launches, requests, run, files, keeper),
            stage=STAGE,
            timeout_s=spec["timeout_s"],
            attempt=spec["attempt"],
        )
    times = {"started_unix_s": started_unix_s, "ended_unix_s": time.time(), "lock_wait_s": round(waited_s, 3)}
    return outcome, times


def finish(out: Path, outcome: Outcome, known: Mapping, files: Files) -> None:
    """Give the records their names and, last of all, write replicate.json."""
    notes = read_json(files.notes) if files.notes.exists() else {}
    phase = notes.pop("phase", "done")
    if outcome.status == "failed" and phase != "done":  # it did not get to say so itself
        outcome = replace(outcome, reason=f"{outcome.reason} (while {PHASES[phase]})")
    for name in RECORDS:
        os.replace(getattr(files, name), out / f"{name}.jsonl")
    made = {"files": {path.name: digest_file(path) for path in (out / f"{name}.jsonl" for name in RECORDS)}}
    write_json(out / "replicate.json", {"outcome": outcome.as_dict(), **known, **made, **notes})
    if not outcome.ok:
        print(f"{known['variant']} replicate {known['replicate']}: {outcome.status}: {outcome.reason}", flush=True)


if __name__ == "__main__":
    try:
        run_program(main)
    except KeyboardInterrupt:  # the servers die with their parent
        sys.exit(128 + signal.SIGINT)
