"""Score one variant's images: defects, FID, CLIP score, SSIM and PSNR against the baseline's images.

Writes quality.json, scores.parquet and features.npy into the folder --out. Images that were not made, are defective or
do not belong to the baseline's end in an outcome "failed" with its reason.

Variants whose jobs wait to be compared with the same baseline are scored with it (diffsweep/sweep/sharing.py), by
--processes side by side: the libraries are loaded once for all, scorers and the baseline's own scores once a process.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from diffsweep.engines.imports import uncollected
from diffsweep.sweep.files import digest_file, read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import (
    KILLED,
    Failed,
    Killed,
    Outcome,
    handed_on,
    judge_exit,
    oom_kills,
    outcome_of,
    run_program,
    run_supervised,
)
from diffsweep.sweep.privacy import impersonal
from diffsweep.sweep.runs import current_run
from diffsweep.sweep.sharing import FOLDER, STAGES, Shared, Work
from diffsweep.sweep.workflow import die_with_parent

STAGE = "score"
TABLES = ("scores.parquet", "features.npy")
IMAGES = STAGES["images"].document
UNREADABLE = (OSError, ValueError, KeyError, TypeError)  # what reading an images.json may raise


def main() -> None:
    # Small pictures: a second thread only waits, and so takes the core of the process beside this one (a variant took
    # ten times as long). Snakemake sets all three to the threads of the job.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    options = parse_options()
    spec = read_spec(STAGE, options.spec)
    try:
        ours = Part(spec, options.images, options.baseline, options.out)
    except UNREADABLE as error:
        sys.exit(f"{STAGE}: {type(error).__name__}: {error}")
    shared = Shared(STAGE, spec, options.out, options.shared)
    if shared.take(ours.inputs):
        print(f"{ours.name}: scored before, together with others", flush=True)
        return
    others = []
    for job in shared.others():
        with suppress(*UNREADABLE):  # its own job says what is wrong with its images
            others.append(Part(job.spec, Path(job.folder) / IMAGES, options.baseline, shared.aside(job)))
    outcome = shared.work_through(ours, others, lambda parts: supervise(parts, options.processes))
    if not ours.finished:
        ours.finish(outcome)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "how to score")
    parser.add_argument("--images", required=True, type=Path, help="the variant's images.json")
    parser.add_argument("--baseline", required=True, type=Path, help="the baseline's images.json")
    parser.add_argument("--out", required=True, type=Path, help="the folder for the results")
    parser.add_argument("--processes", type=int, default=1, help="how many variants are scored side by side")
    text = f"where it is noted which jobs are scored together (default: {FOLDER})"
    parser.add_argument("--shared", type=Path, default=FOLDER, help=text)
    return parser.parse_args()


class Part(Work):
    """The scores of one variant: what it is told, its images.json and the baseline's, the folder for its results."""

    stage = STAGE

    def __init__(self, spec: Mapping, images: Path, baseline: Path, out: Path) -> None:
        self.spec, self.images, self.baseline, self.out = spec, images, baseline, out
        self.made, self.baseline_made = read_json(images), read_json(baseline)
        outcome_of(self.made)  # or it is no images.json
        self.baseline_outcome = outcome_of(self.baseline_made)
        self.inputs = {"images": digest_file(images), "baseline": digest_file(baseline)}
        self._known: dict = {}

    @property
    def name(self) -> str:
        return self.made.get("variant")

    @property
    def _notes(self) -> Path:
        return self.out / "quality.notes.json.partial"  # a kill may leave it

    @cached_property
    def image_sets(self) -> tuple:
        """The variant's ImageSet, and the baseline's; None where it has no images. Raises Failed."""
        from diffsweep.quality.manifests import image_set

        baseline = image_set(self.baseline_made, self.baseline) if self.baseline_outcome.ok else None
        return image_set(self.made, self.images), baseline

    def begin(self) -> None:
        """Leave nothing of an earlier run."""
        self.out.mkdir(parents=True, exist_ok=True)
        for path in (self.document, self._notes, *(self.out / name for name in TABLES)):
            path.unlink(missing_ok=True)

    def note(self, **known: object) -> None:
        """Keep what is known so far for a finish in another process, whatever ends this one."""
        self._known |= known
        write_json(self._notes, self._known)

    def finish(self, outcome: Outcome) -> None:
        """Write the document, last of all."""
        known = read_json(self._notes) if self._notes.exists() else {}
        if not known:
            write_empty(self.out)
        baseline = self.baseline_outcome
        lacking = None if baseline.ok else f"the baseline has no images: {baseline.reason}"
        document = {
            "schema": 1,
            "run": current_run(),
            "inputs": self.inputs,
            "files": {name: digest_file(self.out / name) for name in TABLES},
            **{key: self.made.get(key) for key in ("model", "target", "variant")},
            "outcome": replace(outcome, attempt=self.spec["attempt"]).as_dict(),
            "not_compared": lacking,
            **known,
        }
        self._notes.unlink(missing_ok=True)
        write_json(self.document, document)
        say(document)

    def fail(self, reason: Failed) -> None:
        self.finish(Outcome("failed", impersonal(str(reason)), STAGE))


def supervise(parts: Sequence[Part], processes: int) -> Outcome:
    """Score all parts in a child that may die. Each is finished as soon as it is scored, whatever becomes of others."""
    for part in parts:
        part.begin()
    timeout_s = sum(part.spec["timeout_s"] for part in parts)
    return run_supervised(lambda: score_parts(parts, processes), stage=STAGE, timeout_s=timeout_s)


def write_empty(folder: Path) -> None:
    """The tables of a variant without images: no rows."""
    from diffsweep.quality.tables import PerImage, write_scores

    write_scores(folder, None, [], PerImage())


def say(document: Mapping) -> None:
    outcome, name = document["outcome"], document["variant"]
    if outcome["status"] != "ok":
        print(f"{name}: {outcome['status']}: {outcome['reason']}", flush=True)
        return
    fid = document.get("fid")
    distance = f"FID {fid['value']:.2f} ({fid['low']:.2f} to {fid['high']:.2f})" if fid else document["fid_refused"]
    clip = document["clip_score"]["mean"]
    print(f"{name}: {document['images']} images, {distance}, CLIP score {clip:.2f}", flush=True)


# --- in the child, where the heavy imports are -----------------------------------------------------------------------


def score_parts(parts: Sequence[Part], processes: int) -> None:
    """Score the parts, by several processes where there are several of both. Raises Failed or Killed when one dies."""
    passed = [part for part in parts if passes(part)]
    if not passed:
        return
    with uncollected():
        from diffsweep.quality import scoring  # noqa: F401  forked processes find it loaded
    number = max(1, min(processes, len(passed)))
    shares = [passed[n::number] for n in range(number)]
    if len(shares) == 1:
        score_share(shares[0])
        return
    parent, oom_kills_before, forking = os.getpid(), oom_kills(), multiprocessing.get_context("fork")
    started = [forking.Process(target=score_share, args=(share, parent)) for share in shares]
    for process in started:
        process.start()
    for process in started:  # all of them: what one has scored by the end of another need not be scored again
        process.join()
    ends = [judge_exit(process.exitcode, oom_kills_before) for process in started if process.exitcode]
    if ends:
        status, words = min(ends, key=lambda end: end[0] != KILLED)
        raise (Killed if status == KILLED else Failed)(f"a process that scores images {words}")


def passes(part: Part) -> bool:
    """Are these images to be scored? Those that are not are finished with the reason."""
    from diffsweep.quality import screening

    refused = handed_on(part.made, "images", STAGE, part.spec["attempt"])
    if refused is not None:
        part.finish(refused)
        return False
    try:
        ours, baseline = part.image_sets
        known = screening.count_defects(ours, part.out)
        part.note(**known)
        screening.refuse(known, ours, baseline)
    except Failed as reason:
        part.fail(reason)
        return False
    return True


def score_share(parts: Sequence[Part], parent: int | None = None) -> None:
    """Score these parts, one after the other; all have the same baseline and are told the same. parent: the process to
    end with, for one of its own."""
    if parent is not None:
        die_with_parent(parent)
    from diffsweep.quality import scoring

    began_s = time.perf_counter()
    judge = scoring.Judge(parts[0].spec, parts[0].image_sets[1])
    for part in parts:
        try:
            part.note(**judge.score(part.image_sets[0], part.out))
        except Failed as reason:
            part.fail(reason)
        else:
            part.note(seconds=round(time.perf_counter() - began_s, 3))
            part.finish(Outcome("ok", None, STAGE))
        began_s = time.perf_counter()


if __name__ == "__main__":
    run_program(main, supervises=True)
