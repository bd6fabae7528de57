"""Make the images of one variant for a prompt suite, the same prompts, seeds and initial latents for every variant.

    scripts/in_env torch python scripts/generate_images.py --artifact results/artifacts/reference/torch-fp32 \\
        --out images.json --spec '{"model": ..., "variant": ..., "artifact": ..., "suite": {"path": ..., "digest": ...},
                                   "images": 200, "seed": 0, "batch": 8}'

Image number i has the prompt i (modulo the length of the suite) and the seed `seed` + i. "batch" images are made at a
time, which changes how long it takes and not what comes out: the latents are drawn image by image. The PNGs lie in
images/ beside the manifest, which appears last.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffsweep.sweep.files import atomic_folder, digest_file, read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Outcome, handed_on, run_program, run_supervised
from diffsweep.sweep.runs import current_run

STAGE = "images"
FOLDER = "images"
FACTS = ".facts.json"
PROGRESS_S = 3.0


def main() -> None:
    options = parse_options()
    spec, attempt = options.spec, options.spec.get("attempt", 0)
    with atomic_folder(options.out.parent / FOLDER) as folder:
        outcome = handed_on(read_json(options.artifact / "manifest.json"), "convert", STAGE, attempt) or run_supervised(
            lambda: make(spec, options.artifact, folder),
            stage=STAGE,
            timeout_s=spec.get("timeout_s", 7200),
            attempt=attempt,
        )
        facts = read_json(folder / FACTS) if outcome.ok else {}
        for path in [folder / FACTS] if outcome.ok else list(folder.iterdir()):
            path.unlink()
    document = {**manifest(spec, outcome, facts), "run": current_run()}
    write_json(options.out, {**document, "inputs": {"artifact": digest_file(options.artifact / "manifest.json")}})
    say(f"{spec['variant']['name']}: {outcome.status}" + (f": {outcome.reason}" if outcome.reason else ""))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "what to make")
    parser.add_argument("--artifact", required=True, type=Path, help="the artifact's folder")
    parser.add_argument("--out", required=True, type=Path, help="images.json; the PNGs go to images/ beside it")
    options = parser.parse_args()
    options.spec = read_spec("generate_images", options.spec)
    return options


def say(text: str) -> None:
    print(f"images: {text}", flush=True)


def manifest(spec: dict, outcome: Outcome, facts: dict) -> dict:
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
        **{name: facts.get(name) for name in ("seconds", "load_s", "peak_memory_bytes", "versions")},
    }


# --- in the child, where the heavy imports are -----------------------------------------------------------------------


def make(spec: dict, artifact: Path, folder: Path) -> None:
    """Fill `folder` with the PNGs and the facts about them."""
    from diffsweep.engines import load_engine
    from diffsweep.engines.manifests import peak_memory_bytes, versions
    from diffsweep.engines.prompts import read_suite
    from diffsweep.engines.sources import source_of

    started = time.perf_counter()
    suite = read_suite(spec["suite"]["path"])
    pipeline = load_engine(spec["artifact"]["engine"]).load(source_of(spec["model"]), artifact, spec["artifact"])
    loaded = time.perf_counter()
    images = list(make_images(pipeline, spec, suite["prompts"], folder))
    facts = {
        "suite": {"name": suite["name"]},
        "images": images,
        "seconds": time.perf_counter() - loaded,
        "load_s": loaded - started,
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": versions(),
    }
    write_json(folder / FACTS, facts)


def make_images(pipeline: Any, spec: dict, prompts: list[str], folder: Path) -> Iterator[dict]:
    """Write the PNGs a batch at a time; yield the manifest's entry of each."""
    from diffsweep.engines.pipelines import sample

    total, batch = spec["images"], spec["batch"]
    progress = Progress(spec["variant"]["name"], total)
    for start in range(0, total, batch):
        indices = range(start, min(start + batch, total))
        images, _ = sample(pipeline, [request_of(spec, prompts, index) for index in indices])
        for index, image in zip(indices, images, strict=True):
            yield write_image(image, folder, index % len(prompts), prompts, spec["seed"] + index)
        progress.report(indices.stop)


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


def write_image(image: Any, folder: Path, prompt: int, prompts: list[str], seed: int) -> dict:
    """Write one image (H, W, 3), 0..1, as PNG. `finite` is false when NaN or infinity was in it, which turns black."""
    import numpy as np
    from PIL import Image

    from diffsweep.engines.pipelines import to_uint8

    prompt_id = f"p{prompt:03d}"
    path = folder / f"{prompt_id}-{seed}.png"
    Image.fromarray(to_uint8(image)).save(path)
    return {
        "file": f"{FOLDER}/{path.name}",
        "prompt_id": prompt_id,
        "prompt": prompts[prompt],
        "seed": seed,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "finite": bool(np.isfinite(image).all()),
    }


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
        say(f"{self._name}: {done}/{self._total}, {rate:.1f} images/s{left}")


if __name__ == "__main__":
    run_program(main)
