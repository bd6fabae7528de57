"""What the measuring programs share: options, refusals, the machine to themselves, how a job leaves its files."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from diffsweep.measure.host import LOCK, measuring_alone
from diffsweep.measure.journal import PHASES
from diffsweep.measure.pairing import Prompt
from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import digest_file, read_json, write_json
from diffsweep.sweep.options import add_spec_option
from diffsweep.sweep.outcomes import Outcome, outcome_of, run_program, run_supervised

MANIFEST = "manifest.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every measuring program."""
    add_spec_option(parser, "what to measure")
    parser.add_argument("--artifact", required=True, type=Path, help="the variant's artifact folder")
    parser.add_argument("--out", required=True, type=Path, help="the folder for the results")
    serve = PROJECT / "scripts" / "serve.py"
    parser.add_argument("--server", type=Path, default=serve, help="the server program (default: scripts/serve.py)")
    parser.add_argument("--lock", type=Path, default=LOCK, help=f"the machine-wide lock (default: {LOCK})")


def run_to_the_end(main: Callable[[], None]) -> None:
    """Call `main`. A signal ends it by an exception, so that `finally` and `with` are run; servers die with us."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        run_program(main, supervises=True)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def read_prompts(spec: Mapping) -> list[Prompt]:
    """The suite's first prompts, as many as the protocol uses; ids as scripts/generate_images.py gives them."""
    import yaml

    text = (PROJECT / spec["prompts"]["path"]).read_text(encoding="utf-8")
    texts = islice(yaml.safe_load(text)["prompts"], spec["protocol"]["distinct_prompts"])
    return [Prompt(f"p{number:03d}", text) for number, text in enumerate(texts)]


def refusal(stage: str, attempt: int, artifacts: Mapping[str, Path]) -> Outcome | None:
    """The outcome of an artifact that must not be measured, as this stage's own; None when all may.

    artifacts: what their reasons begin with ("" or "baseline: ") -> their folders.
    """
    for name, folder in artifacts.items():
        built = outcome_of(read_json(folder / MANIFEST))
        if not built.ok:
            return Outcome(built.status, f"{name}{built.stage}: {built.reason}", stage, attempt)
    return None


def server_spec(spec: Mapping, role: str) -> dict:
    return {"model": spec["model"], "artifact": spec[f"{role}_artifact"], "variant": spec[role], "limits": {}}


def run_alone(
    work: Callable[[Mapping], None],
    stage: str,
    spec: Mapping,
    lock: Path,
    progress: Callable[[], object] | None = None,
) -> tuple[Outcome, dict]:
    """Run `work` alone on this machine, in a child that may die. The time limit does not count the waiting, and begins
    anew with `progress`, as run_supervised has it.

    Returns how it ended, and when it began and how long it waited, which `work` is told too.
    """
    with measuring_alone(lock) as waited_s:
        times = {"started_unix_s": time.time(), "lock_wait_s": round(waited_s, 3)}
        limits = {key: spec[key] for key in ("timeout_s", "attempt")}
        outcome = run_supervised(lambda: work(times), stage=stage, progress=progress, **limits)
    return outcome, {**times, "ended_unix_s": time.time()}


def open_partial(out: Path, *names: str) -> dict[Path, Path]:
    """Where records grow: empty files beside the final names, which are the values."""
    out.mkdir(parents=True, exist_ok=True)
    growing = {out / f"{name}.jsonl.partial": out / f"{name}.jsonl" for name in names}
    for path in growing:
        path.write_bytes(b"")
    return growing


def finish(document: Path, outcome: Outcome, known: Mapping, notes_file: Path, growing: Mapping[Path, Path]) -> None:
    """Give the records their names and, last of all, write the document of the job."""
    notes = read_json(notes_file) if notes_file.exists() else {}
    phase = notes.pop("phase", "done")
    if outcome.status == "failed" and phase != "done":  # it did not get to say so itself
        outcome = replace(outcome, reason=f"{outcome.reason} (while {PHASES[phase]})")
    for partial, final in growing.items():
        with suppress(FileNotFoundError):  # a child that ran out of time may have got so far
            os.replace(partial, final)
    made = {"files": {final.name: digest_file(final) for final in growing.values()}}
    write_json(document, {"outcome": outcome.as_dict(), **known, **made, **notes})
    if not outcome.ok:
        print(f"{known['variant']} {outcome.stage}: {outcome.status}: {outcome.reason}", flush=True)
