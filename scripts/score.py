"""Score one variant's images: defects, FID, CLIP score, SSIM and PSNR against the baseline's images.

Writes quality.json, scores.parquet and features.npy into the folder --out. Images that were not made, are defective or
do not belong to the baseline's end in an outcome "failed" with its reason.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from diffsweep.engines.imports import uncollected
from diffsweep.sweep.files import digest_file, read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Outcome, outcome_of, run_program, run_supervised
from diffsweep.sweep.runs import current_run

STAGE = "score"
TABLES = ("scores.parquet", "features.npy")


def main() -> None:
    # Small pictures: a second thread only waits. Several of these jobs run side by side.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    options = parse_options()
    spec = read_spec("score", options.spec)
    try:
        images, baseline = read_json(options.images), read_json(options.baseline)
        made, baseline_made = outcome_of(images), outcome_of(baseline)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"score: {type(error).__name__}: {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in TABLES:  # of an earlier run
        (options.out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="diffsweep-") as scratch:
        notes = Path(scratch) / "quality.json"
        if made.ok:
            work = scoring_work(spec, images, baseline if baseline_made.ok else None, options, notes)
            outcome = run_supervised(work, stage=STAGE, timeout_s=spec["timeout_s"], attempt=spec["attempt"])
        else:
            outcome = Outcome(made.status, f"{made.stage}: {made.reason}", STAGE, spec["attempt"])
        known = read_json(notes) if notes.exists() else {}
    if not known:
        write_empty(options.out)
    names = {key: images.get(key) for key in ("model", "target", "variant")}
    lacking = None if baseline_made.ok else f"the baseline has no images: {baseline_made.reason}"
    document = {
        "schema": 1,
        "run": current_run(),
        "inputs": {"images": digest_file(options.images), "baseline": digest_file(options.baseline)},
        "files": {name: digest_file(options.out / name) for name in TABLES},
        **names,
        "outcome": outcome.as_dict(),
        "not_compared": lacking,
        **known,
    }
    write_json(options.out / "quality.json", document)
    say(document)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "how to score")
    parser.add_argument("--images", required=True, type=Path, help="the variant's images.json")
    parser.add_argument("--baseline", required=True, type=Path, help="the baseline's images.json")
    parser.add_argument("--out", required=True, type=Path, help="the folder for the results")
    return parser.parse_args()


def scoring_work(spec: Mapping, images: Mapping, baseline: Mapping | None, options: argparse.Namespace, notes: Path):
    """The work of the supervised child, which does the heavy imports; it notes what it knows as it goes on."""

    def work() -> None:
        from diffsweep.quality import screening
        from diffsweep.quality.manifests import image_set

        ours = image_set(images, options.images)
        theirs = None if baseline is None else image_set(baseline, options.baseline)
        known = screening.count_defects(ours, options.out)
        write_json(notes, known)
        screening.refuse(known, ours, theirs)

        with uncollected():
            from diffsweep.quality import scoring

        write_json(notes, known | scoring.score(spec, ours, theirs, options.out))

    return work


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


if __name__ == "__main__":
    run_program(main, supervises=True)
