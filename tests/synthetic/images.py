"""Images of a prompt suite, and their scores."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from synthetic.cells import Cell, outcome, write_json

SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "yellow": (235, 210, 40)}


def prompt_of(index: int) -> str:
    shape, colour = SHAPES[index % 3], list(COLOURS)[index % 4]
    return f"a large plain {colour} {shape} on a white background"


def draw(index: int, damage: float, rng: np.random.Generator) -> Image.Image:
    """The picture of prompt `index`, the worse the greater `damage`."""
    image = Image.new("RGB", (64, 64), (245, 245, 245))
    pen, colour = ImageDraw.Draw(image), list(COLOURS.values())[index % 4]
    if index % 3 == 0:
        pen.ellipse((14, 14, 50, 50), fill=colour)
    elif index % 3 == 1:
        pen.rectangle((15, 15, 49, 49), fill=colour)
    else:
        pen.polygon([(32, 12), (52, 50), (12, 50)], fill=colour)
    noise = rng.standard_normal((64, 64, 3)) * 255 * min(damage, 0.3)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def write_images(folder: Path, cell: Cell, pictures: bool) -> None:
    failure = cell.failure_at("convert", "images")
    quality, entries = cell.plan["quality"], []
    rng = np.random.default_rng((cell.seed, 77))
    for index in range(0 if failure else quality["images"]):
        file = f"images/{index:04d}-{index}.png"
        entry = {"file": file, "prompt_id": f"{index:04d}", "prompt": prompt_of(index), "seed": index}
        content = f"{cell.variant['name']} {index}".encode()
        if pictures:
            (folder / "images").mkdir(parents=True, exist_ok=True)
            draw(index, cell.truth.damage, rng).save(folder / file)
            content = (folder / file).read_bytes()
        entries.append(entry | {"sha256": hashlib.sha256(content).hexdigest()})
    latency_s = cell.truth.latency_s(cell.variant["steps"])
    write_json(
        folder / "images.json",
        {
            "schema": 1,
            "model": cell.model,
            "target": cell.target,
            "variant": cell.variant["name"],
            "outcome": outcome("images", failure),
            "suite": {"name": "default", "digest": "0" * 16},
            "seeds": [entry["seed"] for entry in entries],
            "images": entries,
            "seconds": 0.6 * latency_s * len(entries),
            "batch": quality["batch"],
        },
    )


def write_scores(folder: Path, cell: Cell) -> None:
    failure = cell.failure_at("convert", "images", "score")
    stage = {"schema": 1, "model": cell.model, "target": cell.target, "variant": cell.variant["name"]}
    if failure:
        write_json(folder / "quality.json", {**stage, "outcome": outcome("score", failure)})
        return
    n, truth = cell.plan["quality"]["images"], cell.truth
    rng = np.random.default_rng(4)  # the same prompts for all variants, so their scores go together
    difficulty = 2.5 * rng.standard_normal(n)
    own = np.random.default_rng((cell.seed, 5))
    clip = truth.clip_score + difficulty + 8 * truth.damage * own.standard_normal(n)
    psnr_db = np.minimum(-20 * np.log10(truth.damage) + 2 * own.standard_normal(n), 100)
    ssim = np.clip(1 - 0.6 * truth.damage * np.exp(0.5 * own.standard_normal(n)), 0, 1)
    if cell.variant == cell.baseline:
        psnr_db, ssim = np.full(n, 100.0), np.ones(n)
    features = rng.standard_normal((n, 48)).astype(np.float32)
    features[:, 0] += truth.fid_shift
    np.save(folder / "features.npy", features)
    ids = [f"{index:04d}" for index in range(n)]
    scores = {"prompt_id": ids, "seed": list(range(n)), "clip_score": clip, "ssim": ssim, "psnr_db": psnr_db}
    pq.write_table(pa.table({**scores, "defect": pa.array([None] * n, pa.string())}), folder / "scores.parquet")
    write_json(
        folder / "quality.json", {**stage, "outcome": outcome("score"), **quality_summary(cell, clip, ssim, psnr_db)}
    )


def quality_summary(cell: Cell, clip: np.ndarray, ssim: np.ndarray, psnr_db: np.ndarray) -> dict:
    """quality.json as score.py would write it, with intervals from normal theory."""
    n, truth = len(clip), cell.truth
    fid = 24.0 + truth.fid_shift**2
    half = 1.96 * clip.std(ddof=1) / np.sqrt(n)
    difference = float(truth.clip_score - cell.baseline_truth.clip_score)
    error = 8 * truth.damage / np.sqrt(n)
    same = cell.variant == cell.baseline
    worst = np.argsort(ssim)[:5]
    return {
        "images": n,
        "suite": {"name": "default", "digest": "0" * 16},
        "fid": {
            "value": fid,
            "low": fid - 3.0,
            "high": fid + 3.0,
            "n": n,
            "features": 48,
            "reference": "resources/fid",
        },
        "fid_floor": {"value": 12.4, "n": n},
        "fid_corrected": {"value": fid - 12.0, "low": fid - 15.0, "high": fid - 9.0},
        "fid_difference": None
        if same
        else {"value": truth.fid_shift**2, "low": truth.fid_shift**2 - 1, "high": truth.fid_shift**2 + 1},
        "fid_to_baseline": None
        if same
        else {"value": 30 * truth.damage, "low": 25 * truth.damage, "high": 35 * truth.damage},
        "clip_score": {"mean": float(clip.mean()), "low": float(clip.mean() - half), "high": float(clip.mean() + half)},
        "clip_difference": None
        if same
        else {
            "mean": difference,
            "low": difference - 1.96 * error,
            "high": difference + 1.96 * error,
            "margin": 1.0,
            "verdict": "equivalent" if abs(difference) + 1.96 * error < 1.0 else "worse",
        },
        "ssim": {"median": float(np.median(ssim)), "p95_worst": float(np.quantile(ssim, 0.05))},
        "psnr_db": {"median": float(np.median(psnr_db)), "p95_worst": float(np.quantile(psnr_db, 0.05))},
        "worst_pairs": [
            {
                "file": f"images/{i:04d}-{i}.png",
                "prompt_id": f"{i:04d}",
                "seed": int(i),
                "ssim": float(ssim[i]),
                "psnr_db": float(psnr_db[i]),
            }
            for i in worst
        ],
        "identical": n if same else 0,
        "attributes": {
            "share": {"mean": 0.985, "low": 0.97, "high": 0.995},
            "all_right": {"mean": 0.93, "low": 0.89, "high": 0.96},
        },
        "defects": {"count": 0, "kinds": {}, "files": []},
        "seconds": 7.5,
        "provenance": {
            "versions": {"torchmetrics": "1.9.0"},
            "weights": {"fid": "sha256:0", "clip": "sha256:0"},
            "truth": asdict(truth),
        },
    }
