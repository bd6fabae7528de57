"""What our onnxruntime variant costs beside optimum's own ORTStableDiffusionPipeline.

The same weights (one ONNX export), prompt, noise, scheduler, steps and threads; batch 1 with guidance. All processes
live all the while; requests alternate in blocks A B B A, and only one of them ever works. Timed is a whole image, from
the prompt to the decoded pixels. Prints the medians and the ratio ours / optimum's with its 95 % interval, and as JSON
in the last line. The goal is 0.9; exits with 1 when ours is slower beyond doubt, or the two images differ.

Ours runs the two halves of guidance as two calls at once. A third process runs our engine with both in one call of
twice the batch; the ratio of the two is printed, too.

    .venv/bin/python tests/benchmarks/onnxruntime_overhead.py [--cycles 12] [--steps 20] [--model FOLDER]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffsweep.analysis.stats import Estimate

PROJECT = Path(__file__).resolve().parents[2]
GOAL, LIMIT = 0.9, 1.0
PROMPT = "a large plain red circle on a blue background"
GUIDANCE = 3.0
SIDE = 64  # pixels
BLOCK = 4  # images
WARMUP = 5  # images
MOST_DIFFERENCE = 2  # of any 8-bit pixel: both compute in fp32


# --- the measured processes -----------------------------------------------------------------------------------------


def make_ours(options: argparse.Namespace, folder: Path):
    """A function seed -> (1, H, W, 3) uint8 image, by our engine on an artifact of its own."""
    sys.path.insert(0, str(PROJECT / "scripts"))
    from diffsweep.engines import ort
    from diffsweep.engines.pipelines import ImageRequest, generate

    artifact = {"precision": "fp32", "device": "cpu", "threads": options.threads}
    out = folder / options.side
    out.mkdir()
    ort.convert(options.model, folder / "onnx", out, artifact, [])
    pipeline = ort.load(options.model, out, artifact)
    return lambda seed: generate(
        pipeline, [ImageRequest(PROMPT, "", seed, "ddim", options.steps, GUIDANCE, SIDE, SIDE)]
    )[0]


def make_one_call(options: argparse.Namespace, folder: Path):
    """Ours, with nothing cut in lanes."""
    sys.path.insert(0, str(PROJECT / "scripts"))
    from diffsweep.engines import ort

    ort.lanes = lambda batch, threads: 1
    return make_ours(options, folder)


def make_optimum(options: argparse.Namespace, folder: Path):
    """The same by optimum's pipeline, as its documentation uses it, silenced and with the same number of threads."""
    import onnxruntime
    import torch
    from diffusers import DDIMScheduler
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    pipeline = ORTStableDiffusionPipeline.from_pretrained(folder / "onnx", session_options=settings)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")

    def make(seed: int):
        images = pipeline(
            PROMPT,
            num_inference_steps=options.steps,
            guidance_scale=GUIDANCE,
            generator=torch.Generator("cpu").manual_seed(seed),
            width=SIDE,
            height=SIDE,
            output_type="np",
        ).images
        return (images * 255).round().astype("uint8")

    return make


SIDES = {
    "ours": ("onnxruntime", make_ours),
    "optimum": ("export", make_optimum),
    "one call": ("onnxruntime", make_one_call),
}
OTHERS = ("optimum", "one call")  # what ours is compared with


def work(options: argparse.Namespace, folder: Path) -> None:
    """Make the image of each seed on stdin; answer with the seconds that it took, and leave the image in a file."""
    import numpy

    make = SIDES[options.side][1](options, folder)
    print(json.dumps({"ready": True}), flush=True)
    for seed in map(int, sys.stdin):
        started_s = time.perf_counter()
        image = make(seed)
        seconds = time.perf_counter() - started_s
        numpy.save(folder / f"{options.side}.npy", image)
        print(json.dumps({"seconds": seconds}), flush=True)


# --- the client, which sleeps while they work -------------------------------------------------------------------------


class Subject:
    """One side's process."""

    def __init__(self, side: str, options: argparse.Namespace, folder: str):
        inside = ["python", __file__, "--inside", folder, "--side", side]
        settings = ["--model", str(options.model), "--steps", str(options.steps), "--threads", str(options.threads)]
        command = [sys.executable, str(PROJECT / "scripts" / "in_env"), SIDES[side][0], *inside, *settings]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit("onnxruntime_overhead: a measured process ended before its time; see its messages above")
        return json.loads(line)

    def make(self, seed: int) -> float:
        """Seconds for one image."""
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()
        return self._read()["seconds"]

    def block(self) -> list[float]:
        return [self.make(seed) for seed in range(BLOCK)]


def measure(ours: Subject, other: Subject, name: str, cycles: int) -> list[tuple[list[float], list[float]]]:
    """Seconds of ours and of the other side, by cycle A B B A; every other cycle starts with the other side."""
    for subject in (ours, other):
        [subject.make(seed) for seed in range(WARMUP)]
    found = []
    for number in range(cycles):
        first, second = (ours, other) if number % 2 == 0 else (other, ours)
        before, inner, inner_again, after = first.block(), second.block(), second.block(), first.block()
        outer, inner = before + after, inner + inner_again
        found.append((outer, inner) if first is ours else (inner, outer))
        print(f"cycle {number + 1} of {cycles}: ours / {name} {ratio_of(found[-1]):.3f}", flush=True)
    return found


def ratio_of(cycle: tuple[list[float], list[float]]) -> float:
    """Of undisturbed times, as a sweep compares them."""
    from diffsweep.analysis.stats import undisturbed

    ours, other = cycle
    return float(undisturbed(ours) / undisturbed(other))


def largest_difference(folder: str) -> int:
    """Of any pixel, between ours and the others."""
    import numpy

    images = {side: numpy.load(Path(folder) / f"{side}.npy").astype(int) for side in SIDES}
    return max(int(abs(images["ours"] - images[other]).max()) for other in OTHERS)


def estimate(cycles: list) -> "Estimate":
    """Ours / the other side's."""
    import math

    from diffsweep.analysis.stats import speedup

    return speedup([math.log(ratio_of(cycle)) for cycle in cycles])


def report(compared: dict[str, list], difference: int, out: Path | None) -> int:
    """Print the comparisons, and keep them at `out`; the exit code."""
    cycles = compared["optimum"]
    medians = [statistics.median([s for cycle in cycles for s in cycle[side]]) for side in (0, 1)]
    ratio, lanes = estimate(cycles), estimate(compared["one call"])
    verdict = "goal reached" if ratio.high <= GOAL else "no slower" if ratio.high <= LIMIT else "cannot tell"
    verdict = "too slow" if ratio.low > LIMIT else verdict
    print(f"median of {len(cycles) * 2 * BLOCK} images each: ours {medians[0]:.4f} s, optimum's {medians[1]:.4f} s")
    print(f"ours / optimum's: {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), goal {GOAL}, limit {LIMIT}")
    print(f"two calls at once / one call of twice the batch: {lanes.value:.3f} ({lanes.low:.3f} to {lanes.high:.3f})")
    print(f"largest difference of a pixel: {difference} of 255")
    print(f"verdict: {verdict}")
    figures = {
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "ours_s": medians[0],
        "optimum_s": medians[1],
        "lanes": asdict(lanes),
    }
    print(json.dumps({**figures, "cycles": len(cycles), "difference": difference, "verdict": verdict}))
    if out:
        from figures import RATIO, Figure, keep

        kept = []
        for what, found, limit in (
            ("ours / optimum's", ratio, LIMIT),
            ("two calls at once / one of twice", lanes, None),
        ):
            ends = {", interval from": found.low, ", interval to": found.high}
            kept.append(Figure(what, found.value, RATIO, limit))
            kept += [Figure(f"{what}{end}", value, RATIO) for end, value in ends.items()]
        keep(out, Path(__file__).stem, [*kept, Figure("optimum's, median of an image", medians[1], "s")])
    return int(verdict == "too slow" or difference > MOST_DIFFERENCE)


def export(options: argparse.Namespace, folder: str) -> None:
    spec = json.dumps({"model": {"name": "reference", "path": str(options.model.resolve())}})
    program = [sys.executable, str(PROJECT / "scripts" / "in_env"), "export", "python"]
    arguments = [str(PROJECT / "scripts" / "export_onnx.py"), "--spec", spec, "--out", f"{folder}/onnx"]
    subprocess.run([*program, *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", type=Path, default=PROJECT / "resources" / "reference-model")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="the table that keeps the figures")
    options = parser.parse_args()
    if options.inside:
        work(options, options.inside)
        return
    sys.path.insert(0, str(PROJECT / "scripts"))  # run as a program, outside of pytest
    from diffsweep.measure.host import measuring_alone

    with tempfile.TemporaryDirectory() as folder:
        export(options, folder)
        with measuring_alone():
            subjects: dict[str, Subject] = {}
            try:
                for side in SIDES:
                    subjects[side] = Subject(side, options, folder)
                ours = subjects["ours"]
                compared = {name: measure(ours, subjects[name], name, options.cycles) for name in OTHERS}
            finally:
                for subject in subjects.values():
                    subject.process.kill()
                    subject.process.wait()
        difference = largest_difference(folder)
    sys.exit(report(compared, difference, options.out))


if __name__ == "__main__":
    main()
