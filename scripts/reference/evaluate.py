"""Measures the reference model, and shows that its scores move the right way on known damage.

    python -m reference.evaluate --images WORK/images

Writes resources/reference-model/evaluation.json: accuracy, FID and CLIP score with 95 % intervals for the default and
the hard suite, and the damage table, each row with its paired difference to the undamaged images.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml

from . import metrics, sampling, world
from .train_extractor import suite_scenes

STEPS = 25
BLUR_SIGMAS = (1.0, 2.0)  # pixels
NOISE_LEVELS = (16, 48)  # grey levels
BETTER = {"fid": -1, "clip_score": 1, "attributes_right": 1, "all_right": 1}  # which way is up


@dataclass(frozen=True)
class Row:
    """Images (N, 3, 64, 64) uint8 and their captions; image i is of prompt i modulo the number of prompts."""

    images: torch.Tensor
    prompts: list[str]

    @property
    def captions(self) -> list[str]:
        """(N,): that of each image."""
        return self.prompts * (len(self.images) // len(self.prompts))


@dataclass(frozen=True)
class Job:
    """One set of images to generate; `bits` rounds the denoiser's weights."""

    name: str
    suite: str = "default"
    steps: int = STEPS
    bits: int | None = None
    first_seed: int = 0


# In an order in which every second one makes about half of the work, for two processes.
JOBS = (
    Job("baseline"),
    Job("4-bit denoiser", bits=4),
    Job("hard", suite="hard", first_seed=10_000),
    Job("3-bit denoiser", bits=3),
    Job("steps 10", steps=10),
    Job("steps 5", steps=5),
    Job("steps 2", steps=2),
)


def read_suite(path: Path) -> list[str]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["prompts"]


def image_file(images: Path, name: str) -> Path:
    return images / f"{name.replace(' ', '-')}.npy"


def generate_part(part: int, options: argparse.Namespace) -> None:
    """Generates every n-th job's images, one process of n; single threads side by side beat one with two."""
    torch.set_num_threads(1)
    for job in JOBS[part :: options.processes]:
        pipeline = sampling.load_pipeline(options.resources / "reference-model")
        if job.bits:
            sampling.round_weights(pipeline.unet, job.bits)
        prompts = read_suite(options.prompts / f"{job.suite}.yaml") * options.per_prompt
        images = sampling.generate(pipeline, prompts, job.steps, job.first_seed, options.fast)
        np.save(image_file(options.images, job.name), images.numpy())
        print(f"{job.name}: {len(images)} images", flush=True)


def read_images(images: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(image_file(images, name)))


def default_rows(options: argparse.Namespace) -> dict[str, Row]:
    """Name -> row: drawn images, their reconstructions, the undamaged images, and every kind of damage."""
    path = options.prompts / "default.yaml"
    prompts = read_suite(path)
    scenes = suite_scenes(path) * options.per_prompt
    drawn = torch.from_numpy(world.draw_batch(scenes, np.random.default_rng(99)))
    pipeline = sampling.load_pipeline(options.resources / "reference-model")
    rows = {"drawn": drawn, "reconstructed": sampling.reconstruct(pipeline, drawn)}
    rows |= {job.name: read_images(options.images, job.name) for job in JOBS if job.suite == "default"}
    made = rows["baseline"]
    rows |= {f"blur {sigma:g} px": sampling.blur(made, sigma) for sigma in BLUR_SIGMAS}
    rows |= {f"noise {level}": sampling.add_noise(made, level) for level in NOISE_LEVELS}
    named = {name: Row(images, prompts) for name, images in rows.items()}
    shuffled = [prompts[index] for index in np.roll(np.arange(len(prompts)), 7)]
    return named | {"shuffled captions": Row(made, shuffled)}


def draws_of(scorer: metrics.Scorer, row: Row) -> dict[str, tuple[float, np.ndarray]]:
    """Metric -> (value, bootstrap draws); the draws of all rows use the same resampled prompts."""
    scores, prompts = scorer.score(row.images, row.captions), len(row.prompts)
    means = {"clip_score": scores.clip, "attributes_right": scores.share, "all_right": scores.all_right}
    found = {name: (float(values.mean()), metrics.mean_draws(values, prompts)) for name, values in means.items()}
    return {"fid": (scorer.fid(scores.features), metrics.fid_draws(scorer, scores.features, prompts))} | found


def interval_of(metric: str, value: float, draws: np.ndarray) -> dict[str, float]:
    return metrics.with_interval(value, draws, centre=metric == "fid")


def change(damaged: tuple[float, np.ndarray], baseline: tuple[float, np.ndarray], metric: str) -> dict:
    """The paired difference with its interval, and whether it is worse beyond that interval."""
    count = min(len(damaged[1]), len(baseline[1]))
    interval = interval_of(metric, damaged[0] - baseline[0], damaged[1][:count] - baseline[1][:count])
    worse = interval["high"] < 0 if BETTER[metric] > 0 else interval["low"] > 0
    return interval | {"worse_beyond_interval": bool(worse)}


def table(scorer: metrics.Scorer, rows: dict[str, Row]) -> dict[str, dict]:
    """Row name -> metric -> value with interval, and its change against the row "baseline"."""
    draws = {name: draws_of(scorer, row) for name, row in rows.items()}
    result = {}
    for name, found in draws.items():
        result[name] = {metric: interval_of(metric, *pair) for metric, pair in found.items()}
        if name != "baseline":
            result[name]["change"] = {
                metric: change(pair, draws["baseline"][metric], metric) for metric, pair in found.items()
            }
    return result


def per_attribute(scorer: metrics.Scorer, row: Row) -> dict[str, float]:
    """Share right of each attribute, over the images whose caption names it."""
    results = metrics.attribute_accuracy(row.images, row.captions, scorer.classifier)
    heads = [f"{head}_right" for head in scorer.classifier.heads]
    known = {head: [result[head] for result in results if head in result] for head in heads}
    return {head: round(float(np.mean(values)), 4) for head, values in known.items() if values}


def judge_accuracy(scorer: metrics.Scorer) -> dict[str, dict[str, float]]:
    """How well the classifier itself reads drawn images: held-out scenes of one and of two objects."""
    rng = np.random.default_rng(98)
    checks = {"single": (world.sample_scenes(1000, rng, held_out=True, single_share=1.0))}
    checks["two"] = world.sample_scenes(1000, rng, held_out=True, single_share=0.0)
    found = {}
    for name, scenes in checks.items():
        images = torch.from_numpy(world.draw_batch(scenes, rng))
        rows = metrics.attribute_accuracy(images, [world.caption(scene) for scene in scenes], scorer.classifier)
        found[name] = {
            "attributes_right": round(float(np.mean([row["share"] for row in rows])), 4),
            "all_right": round(float(np.mean([row["all_right"] for row in rows])), 4),
        }
    return found


def weight_bytes(resources: Path) -> dict[str, int]:
    return {str(path.relative_to(resources)): path.stat().st_size for path in sorted(resources.rglob("*.safetensors"))}


def evaluate(options: argparse.Namespace) -> dict:
    """Scores the generated images; returns what evaluation.json holds."""
    resources, scorer = options.resources, metrics.Scorer(options.resources)
    rows, hard = default_rows(options), read_suite(options.prompts / "hard.yaml")
    two = Row(read_images(options.images, "hard"), hard)
    for name, row in (rows | {"hard": two}).items():
        sampling.write_grid(row.images[:60], 10, image_file(options.images, name).with_suffix(".png"))
    hard_scores = draws_of(scorer, two)
    hard_scores.pop("fid")  # the reference images are single objects
    sizes = weight_bytes(resources)
    return {
        "settings": {
            "scheduler": "DDIM, trailing",
            "steps": STEPS,
            "guidance": sampling.GUIDANCE,
            "dtype": "bfloat16 autocast" if options.fast else "float32",
            "seeds": "image i of the default suite: i; of the hard suite: 10000 + i",
            "prompts": {"default": len(rows["baseline"].prompts), "hard": len(hard)},
            "images_per_prompt": options.per_prompt,
            "reference_images": len(scorer.reference["features"]),
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "torchmetrics")},
        },
        "default": table(scorer, rows),
        "default_per_attribute": per_attribute(scorer, rows["baseline"]),
        "hard": {metric: interval_of(metric, *pair) for metric, pair in hard_scores.items()},
        "hard_per_attribute": per_attribute(scorer, two),
        "classifier_on_drawn_held_out_images": judge_accuracy(scorer),
        "safetensors_bytes": sizes | {"total": sum(sizes.values())},
    }


def print_table(result: dict) -> None:
    for name, row in (result["default"] | {"hard": result["hard"]}).items():
        cells = [f"{m} {row[m]['value']:.3f} [{row[m]['low']:.3f}, {row[m]['high']:.3f}]" for m in BETTER if m in row]
        worse = [metric for metric, found in row.get("change", {}).items() if found["worse_beyond_interval"]]
        print(f"{name:18} " + "  ".join(cells) + f"  worse: {' '.join(worse)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=Path, default=Path("resources"))
    parser.add_argument("--prompts", type=Path, default=Path("config/prompts"))
    parser.add_argument("--images", type=Path, required=True, help="folder for the images, and grids of them as PNG")
    parser.add_argument("--out", type=Path, help="default: evaluation.json in the model's folder")
    parser.add_argument("--per-prompt", type=int, default=5, help="images of each prompt (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="bfloat16, for a look at a checkpoint")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.images.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(generate_part, (options,), nprocs=options.processes)
    result = evaluate(options)
    out = options.out or options.resources / "reference-model" / "evaluation.json"
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print_table(result)


if __name__ == "__main__":
    main()
