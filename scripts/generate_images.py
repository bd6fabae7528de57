"""Make the images of one variant for a prompt suite, the same prompts, seeds and initial latents for every variant.

    scripts/in_env torch python scripts/generate_images.py --artifact results/artifacts/reference/torch-fp32 \\
        --out images.json --spec '{"model": ..., "variant": ..., "artifact": ..., "suite": {"path": ..., "digest": ...},
                                   "images": 200, "seed": 0, "batch": 8}'

Image number i has the prompt i (modulo the length of the suite) and the seed `seed` + i. "batch" images are made at a
time; the latents are drawn image by image. The PNGs lie in images/ beside the manifest, which appears last.

When more images are asked for, those that are there are kept, in whole batches: the same images in a smaller batch
would be rounded differently. images.made.json says what they were made with; should that differ, all are made anew.
Variants whose jobs wait for the same pipeline get theirs from it too (diffsweep/sweep/sharing.py).
"""

import argparse
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffsweep.sweep.digests import data_digest
from diffsweep.sweep.environments import lock_digest
from diffsweep.sweep.files import atomic_folder, digest_file, read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Outcome, handed_on, run_program, run_supervised
from diffsweep.sweep.runs import current_run
from diffsweep.sweep.sharing import FOLDER as FOLDER_OF_SHARED
from diffsweep.sweep.sharing import Shared, Work

STAGE = "images"
FOLDER = "images"
MADE = "images.made.json"
PROGRESS_S = 3.0


def main() -> None:
    options = parse_options()
    spec, folder, made = options.spec, options.out.parent, read_json(options.artifact / "manifest.json")
    inputs = {"artifact": digest_file(options.artifact / "manifest.json")}

    def part(spec: Mapping, out: Path, earlier: Path) -> Part:
        return Part(spec, out, read_earlier(earlier, origin(spec, options.artifact, options.code)), inputs)

    ours = part(spec, folder, folder)
    refused = handed_on(made, "convert", STAGE, ours.attempt)
    if refused is not None:
        ours.fail(refused)
        return
    shared = Shared(STAGE, spec, folder, options.shared)
    if shared.take(inputs):
        say(f"{ours.name}: made before, by a pipeline that was loaded once for several variants")
        return
    others = [part(job.spec, shared.aside(job), Path(job.folder)) for job in shared.others()]
    outcome = shared.work_through(ours, others, lambda parts: supervise(parts, options.artifact))
    if not ours.finished:
        ours.fail(outcome)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "what to make")
    parser.add_argument("--artifact", required=True, type=Path, help="the artifact's folder")
    parser.add_argument("--out", required=True, type=Path, help="images.json; the PNGs go to images/ beside it")
    parser.add_argument("--code", help="digest of the code that makes images; without it none are kept")
    text = f"where it is noted which jobs share a pipeline (default: {FOLDER_OF_SHARED})"
    parser.add_argument("--shared", type=Path, default=FOLDER_OF_SHARED, help=text)
    options = parser.parse_args()
    options.spec = read_spec("generate_images", options.spec)
    return options


def say(text: str) -> None:
    print(f"images: {text}", flush=True)


@dataclass(frozen=True)
class Part(Work):
    """The images of one variant: what it is told, the folder for its results, and the images that may be kept."""

    stage = STAGE
    spec: Mapping
    out: Path
    earlier: "Earlier"
    inputs: Mapping

    @property
    def name(self) -> str:
        return self.spec["variant"]["name"]

    @property
    def attempt(self) -> int:
        return self.spec.get("attempt", 0)

    def finish(self, outcome: Outcome, facts: Mapping) -> None:
        """Write the manifest, now that the images lie in their place."""
        outcome, run = replace(outcome, attempt=self.attempt), current_run()
        images = [{"run": run, **entry} for entry in facts.get("images", ())]  # one that was kept has its own
        if outcome.ok and self.earlier.origin:
            write_json(self.out / MADE, {"origin": self.earlier.origin, "images": images})
        document = {**manifest(self.spec, outcome, {**facts, "images": images}), "run": run, "inputs": self.inputs}
        write_json(self.document, document)
        say(f"{self.name}: {outcome.status}" + (f": {outcome.reason}" if outcome.reason else ""))

    def fail(self, outcome: Outcome) -> None:
        """Without images: none of an earlier run stays beside a manifest that knows of none."""
        with atomic_folder(self.out / FOLDER):
            pass
        self.finish(outcome, {})


def supervise(parts: Sequence[Part], artifact: Path) -> Outcome:
    """Make the images of all parts, by one pipeline in a child that may die. Each part is finished as soon as its
    images are made, whatever becomes of the others."""
    for part in parts:
        part.document.unlink(missing_ok=True)
    timeout_s = sum(part.spec.get("timeout_s", 7200) for part in parts)
    return run_supervised(lambda: make(parts, artifact), stage=STAGE, timeout_s=timeout_s)


def manifest(spec: Mapping, outcome: Outcome, facts: Mapping) -> dict:
    return {
        "schema": 1,
        "model": spec["model"]["name"],
        "target": spec.get("target"),
        "variant": spec["variant"]["name"],
        "outcome": outcome.as_dict(),
        "suite": {**spec["suite"], **facts.get("suite", {})},
        "batch": spec["batch"],
        "seeds": [image["seed"] for image in facts.get("images", [])],
        "images": facts.get("images", []),
        **{name: facts.get(name) for name in ("kept", "seconds", "load_s", "peak_memory_bytes", "versions")},
    }


# --- images of an earlier run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Earlier:
    """Images below `folder` that may be kept. origin: what they are made with; images: their entries, in order."""

    folder: Path
    origin: str | None
    images: Sequence[dict] = ()

    def batch(self, indices: range, size: int, wanted: Callable[[int], dict]) -> list[dict] | None:
        """The entries of a batch that was made as a whole, of the `wanted` prompts and seeds, and is still intact."""
        found = self.images[indices.start : indices.stop]
        if indices.stop != min(indices.start + size, len(self.images)):  # it was made in another batch
            return None
        same = all(wanted(index).items() <= entry.items() for index, entry in zip(indices, found, strict=True))
        return list(found) if same and all(map(self._intact, found)) else None

    def _intact(self, entry: dict) -> bool:
        path = self.folder / entry["file"]
        return path.is_file() and digest_file(path) == f"sha256:{entry['sha256']}"


def origin(spec: dict, artifact: Path, code: str | None) -> str | None:
    """A digest of everything that decides an image but its prompt and seed; None when the code is not known."""
    if code is None:
        return None
    settings = {key: spec[key] for key in ("model", "variant", "artifact", "batch")}
    made_with = [digest_file(artifact / "manifest.json"), code, lock_digest(spec["artifact"]["engine"])]
    return data_digest([settings, *made_with])


def read_earlier(folder: Path, origin: str | None) -> Earlier:
    """What lies in `folder` from an earlier run with the same origin."""
    try:
        made = read_json(folder / MADE)
    except (FileNotFoundError, ValueError):
        return Earlier(folder, origin)
    return Earlier(folder, origin, made["images"] if origin and made["origin"] == origin else ())


# --- in the child, where the heavy imports are -----------------------------------------------------------------------


def make(parts: Sequence[Part], artifact: Path) -> None:
    """Make the images of each part, and finish it."""
    from diffsweep.engines.imports import yield_cores

    yield_cores()
    from diffsweep.engines import load_engine
    from diffsweep.engines.manifests import peak_memory_bytes, versions
    from diffsweep.engines.prompts import read_suite
    from diffsweep.engines.sources import source_of

    started, first = time.perf_counter(), parts[0].spec  # variant and attempt apart, all are told the same
    suite = read_suite(first["suite"]["path"])
    pipeline = load_engine(first["artifact"]["engine"]).load(source_of(first["model"]), artifact, first["artifact"])
    loaded = time.perf_counter()
    for part in parts:
        began = time.perf_counter()
        with atomic_folder(part.out / FOLDER) as folder:
            images = list(make_images(pipeline, part.spec, suite["prompts"], folder, part.earlier))
        facts = {
            "suite": {"name": suite["name"]},
            "images": [entry for entry, _ in images],
            "kept": sum(kept for _, kept in images),
            "seconds": time.perf_counter() - began,
            "load_s": loaded - started,
            "peak_memory_bytes": peak_memory_bytes(),
            "versions": versions(),
        }
        part.finish(Outcome("ok", None, STAGE), facts)


def make_images(
    pipeline: Any, spec: dict, prompts: list[str], folder: Path, earlier: Earlier
) -> Iterator[tuple[dict, bool]]:
    """Write the PNGs a batch at a time; yield the manifest's entry of each, and whether it was there already."""
    from diffsweep.engines.pipelines import sample

    total, batch = spec["images"], spec["batch"]
    progress = Progress(spec["variant"]["name"], total)
    for start in range(0, total, batch):
        indices = range(start, min(start + batch, total))
        kept = earlier.batch(indices, batch, lambda index: identity(spec, prompts, index))
        if kept is not None:
            for entry in kept:
                shutil.copy2(earlier.folder / entry["file"], folder)
                yield entry, True
            continue
        images, _ = sample(pipeline, [request_of(spec, prompts, index) for index in indices])
        for index, image in zip(indices, images, strict=True):
            yield write_image(image, folder, identity(spec, prompts, index)), False
        progress.report(indices.stop)


def identity(spec: dict, prompts: list[str], index: int) -> dict:
    """Which image number `index` is, as the manifest names it."""
    number, seed = index % len(prompts), spec["seed"] + index
    prompt_id = f"p{number:03d}"
    file = f"{FOLDER}/{prompt_id}-{seed}.png"
    return {"file": file, "prompt_id": prompt_id, "prompt": prompts[number], "seed": seed}


def request_of(spec: dict, prompts: list[str], index: int) -> Any:
    from diffsweep.engines.pipelines import ImageRequest

    return ImageRequest(
        prompt=prompts[index % len(prompts)],
        negative_prompt="",
        seed=spec["seed"] + index,
        width=spec["model"]["width"],
        height=spec["model"]["height"],
        **{axis: spec["variant"][axis] for axis in ("scheduler", "steps", "guidance")},
    )


def write_image(image: Any, folder: Path, identity: dict) -> dict:
    """Write one image (H, W, 3), 0..1, as PNG. `finite` is false when NaN or infinity was in it, which turns black."""
    import numpy as np
    from PIL import Image

    from diffsweep.engines.pipelines import to_uint8

    path = folder / Path(identity["file"]).name
    Image.fromarray(to_uint8(image)).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {**identity, "sha256": digest, "finite": bool(np.isfinite(image).all())}


class Progress:
    """A line every few seconds: how far, how fast, how long still."""

    def __init__(self, name: str, total: int):
        self._name, self._total = name, total
        self._started = self._told = time.monotonic()

    def report(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told < PROGRESS_S and done < self._total:
            return
        self._told, rate = now, done / (now - self._started)
        left = f", {(self._total - done) / rate:.0f} s left" if done < self._total else ""
        say(f"{self._name}: {done} of {self._total} images, {rate:.1f} a second{left}")


if __name__ == "__main__":
    run_program(main, supervises=True)
