"""Synthetic results folders with known truth: what a sweep would leave behind, without running a model.

`make_results(folder, plan)` writes every file of the contracts that the analysis, the plots and the report read, with
noise between processes, between requests, drift and outliers. Each variant's truth is a `Truth`; each stage of each
variant can be made to fail. Used by the tests, and by hand: `python tests/synthetic.py FOLDER`.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from diffsweep.measure.records import LatencyRecord  # noqa: E402

STARTED_UNIX_S = 1_780_000_000.0
EXPORT_S = 30.0
CLASSIC = ("engine", "precision", "compile", "scheduler", "steps", "guidance")


@dataclass(frozen=True)
class Truth:
    """What is true of a variant: times of one request without noise; spreads are standard deviations of logs."""

    step_s: float = 0.020
    prompt_encode_s: float = 0.004
    decode_s: float = 0.012
    image_encode_s: float = 0.0015
    overhead_s: float = 0.0012
    between_spread: float = 0.012  # between processes
    within_spread: float = 0.03  # between requests
    outliers: float = 0.01  # share of requests that take 1.6 times as long
    parallel_gain: float = 1.06  # throughput with several clients over one client
    fid_shift: float = 0.0  # distance of the features' mean from the baseline's
    clip_score: float = 88.0
    damage: float = 0.002  # relative difference of the images from the baseline's, sets SSIM and PSNR
    peak_memory_bytes: int = 900_000_000
    artifact_bytes: int = 20_700_000
    build_s: float = 3.0

    def latency_s(self, steps: int) -> float:
        parts = self.prompt_encode_s + self.decode_s + self.image_encode_s + self.overhead_s
        return steps * self.step_s + parts


ENGINE_STEP_S = {
    ("torch", "fp32"): 0.0200,
    ("torch", "bf16"): 0.0196,
    ("torch", "fp16"): 0.0290,
    ("torch", "int8"): 0.0330,
    ("onnxruntime", "fp32"): 0.0112,
    ("onnxruntime", "int8"): 0.0109,
    ("openvino", "fp32"): 0.0104,
    ("openvino", "bf16"): 0.0058,
    ("openvino", "int8"): 0.0098,
}
PRECISION_DAMAGE = {"fp32": 0.0001, "fp16": 0.002, "bf16": 0.02, "int8": 0.05}
PRECISION_BYTES = {"fp32": 20_700_000, "fp16": 10_500_000, "bf16": 10_500_000, "int8": 6_100_000}


def truth_of(variant: dict) -> Truth:
    """A plausible truth for a variant of the default sweep."""
    step_s = ENGINE_STEP_S[variant["engine"], variant["precision"]] * (0.8 if variant["compile"] else 1.0)
    solver = {"ddim": 1.0, "dpm++": 0.45, "unipc": 0.4, "euler": 0.9}[variant["scheduler"]]
    coarse = solver * 8.0 / variant["steps"]  # discretisation error, small at 25 steps
    damage = PRECISION_DAMAGE[variant["precision"]] + (0.2 * coarse if variant["steps"] != 25 else 0.0)
    return Truth(
        step_s=step_s,
        fid_shift=4.0 * coarse**1.5 + 10 * PRECISION_DAMAGE[variant["precision"]],
        clip_score=88.5 - 1.2 * coarse**1.5 - 4 * PRECISION_DAMAGE[variant["precision"]],
        damage=damage,
        artifact_bytes=PRECISION_BYTES[variant["precision"]],
        build_s=95.0 if variant["compile"] else 4.0 if variant["engine"] == "torch" else 22.0,
        peak_memory_bytes=int({"torch": 9e8, "onnxruntime": 6.2e8, "openvino": 5.6e8}[variant["engine"]]),
    )


def true_speedup(plan: dict, name: str, truths: dict[str, Truth] | None = None) -> float:
    """The speed-up over the baseline that an infinitely long measurement would find."""
    variants = {variant["name"]: variant for variant in plan["variants"]}
    truth = {k: (truths or {}).get(k) or truth_of(v) for k, v in variants.items()}
    baseline = plan["baseline"]
    return truth[baseline].latency_s(variants[baseline]["steps"]) / truth[name].latency_s(variants[name]["steps"])


# --- the plan -------------------------------------------------------------------------------------------------------

BASELINE = {
    "engine": "torch",
    "precision": "fp32",
    "compile": False,
    "scheduler": "ddim",
    "steps": 25,
    "guidance": 3.0,
}
DEFAULT_VARIANTS = {
    "fp32": (None, {}),
    "bf16": ("fp32", {"precision": "bf16"}),
    "fp16": ("fp32", {"precision": "fp16"}),
    "int8": ("fp32", {"precision": "int8"}),
    "compiled": ("fp32", {"compile": True}),
    "onnxruntime": ("fp32", {"engine": "onnxruntime"}),
    "onnxruntime-int8": ("onnxruntime", {"precision": "int8"}),
    "openvino": ("fp32", {"engine": "openvino"}),
    "openvino-bf16": ("openvino", {"precision": "bf16"}),
    "openvino-int8": ("openvino", {"precision": "int8"}),
    "ddim-10": ("fp32", {"steps": 10}),
    "ddim-5": ("ddim-10", {"steps": 5}),
    "dpm-20": ("fp32", {"scheduler": "dpm++", "steps": 20}),
    "dpm-10": ("dpm-20", {"steps": 10}),
    "unipc-8": ("fp32", {"scheduler": "unipc", "steps": 8}),
    "openvino-bf16-dpm-20": ("openvino-bf16", {"scheduler": "dpm++", "steps": 20}),
    "openvino-bf16-dpm-10": ("openvino-bf16", {"scheduler": "dpm++", "steps": 10}),
}
LOCAL = {
    "name": "local",
    "device": "cpu",
    "threads": 2,
    "price": {
        "instance": "c7i.large",
        "currency": "USD",
        "on_demand_per_hour": 0.0892,
        "spot_per_hour": 0.0357,
        "region": "us-east-1",
        "date": "2026-10-01",
        "source": "synthetic, for tests",
    },
}


def make_variants(table: dict = DEFAULT_VARIANTS) -> list[dict]:
    """name -> (parent, changed axes) as a plan's list of variants with all axes."""
    axes: dict[str, dict] = {}
    variants = []
    for name, (parent, changed) in table.items():
        before = axes[parent] if parent else BASELINE
        axes[name] = before | changed
        change = "; ".join(f"{axis}: {before[axis]} -> {value}" for axis, value in changed.items())
        variants.append({"name": name, "parent": parent, "change": change, **axes[name]})
    return variants


def make_plan(
    variants: list[dict] | None = None, *, replicates: int = 3, requests: int = 24, images: int = 200
) -> dict:
    """A resolved plan such as sweep/plan.py writes; all variants of the default sweep unless others are given."""
    variants = make_variants() if variants is None else variants
    names = {v["name"]: artifact_name(v) for v in variants}
    artifacts = {
        names[v["name"]]: {"name": names[v["name"]], **{k: v[k] for k in CLASSIC[:3]}, "threads": 2, "device": "cpu"}
        for v in variants
    }
    prompts = "config/prompts/default.yaml"
    return {
        "schema": 1,
        "sweep": "default",
        "models": {"reference": {"name": "reference", "path": "resources/reference-model", "width": 64, "height": 64}},
        "targets": {"local": LOCAL},
        "baseline": variants[0]["name"],
        "variants": variants,
        "artifacts": artifacts,
        "protocol": {
            "prompts": prompts,
            "distinct_prompts": 10,
            "replicates": replicates,
            "warmup": 5,
            "requests": requests,
            "block": 2,
            "levels": [1, 2, 4],
            "requests_per_level": 12,
        },
        "quality": {
            "prompts": prompts,
            "suite": "default",
            "images": images,
            "seed": 0,
            "batch": 8,
            "fid": "resources/fid",
            "clip": "resources/clip",
            "classifier": None,
            "clip_margin": 1.0,
            "bootstrap": 1000,
        },
        "workflow": {"git": "0" * 40},
    }


def artifact_name(variant: dict) -> str:
    name = f"{variant['engine']}-{variant['precision']}"
    return f"{name}-compile-local" if variant["compile"] else name


# --- writing it down ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A stage (convert, benchmark, images, score) that ended badly, in one `replicate` of the benchmark or in all."""

    stage: str
    status: str = "failed"
    reason: str = "ran out of memory"
    replicate: int | None = None


OK = {"status": "ok", "reason": None}


def outcome(stage: str, failure: Failure | None = None) -> dict:
    """The outcome of `stage`, given what failed at or before it."""
    if failure is None:
        return {**OK, "stage": stage, "attempt": 0}
    reason = failure.reason if failure.stage == stage else f"{failure.stage}: {failure.reason}"
    return {"status": failure.status, "reason": reason, "stage": failure.stage, "attempt": 0}


def make_results(
    folder: Path | str,
    plan: dict,
    truths: dict[str, Truth] | None = None,
    failures: dict[str, Failure] | None = None,
    seed: int = 0,
    pictures: bool = True,
) -> Path:
    """Write `folder`/results/<sweep>/... and `folder`/results/artifacts/...; returns the sweep's folder.

    `truths` and `failures` are by variant name. `pictures=False` leaves the PNG files out (their manifest stays).
    """
    truths, failures = truths or {}, failures or {}
    results = Path(folder) / "results"
    sweep = results / plan["sweep"]
    write_json(sweep / "plan.json", plan)
    for model in plan["models"]:
        exported = {"outcome": outcome("export"), "build_s": EXPORT_S, "files": []}
        write_json(results / "artifacts" / model / "onnx" / "manifest.json", exported)
        for target in plan["targets"]:
            for index, variant in enumerate(plan["variants"]):
                cell = Cell(plan, model, target, variant, truths, failures.get(variant["name"]), seed + 1000 * index)
                write_manifest(results / "artifacts" / model, cell)
                write_cell(sweep / model / target / variant["name"], cell, pictures)
    return sweep


@dataclass(frozen=True)
class Cell:
    """One model x target x variant, with its truth."""

    plan: dict
    model: str
    target: str
    variant: dict
    truths: dict
    failure: Failure | None
    seed: int

    @property
    def truth(self) -> Truth:
        return self.truths.get(self.variant["name"]) or truth_of(self.variant)

    @property
    def baseline(self) -> dict:
        return next(v for v in self.plan["variants"] if v["name"] == self.plan["baseline"])

    @property
    def baseline_truth(self) -> Truth:
        return self.truths.get(self.baseline["name"]) or truth_of(self.baseline)

    def failure_at(self, *stages: str, replicate: int | None = None) -> Failure | None:
        failure = self.failure
        if failure is None or failure.stage not in stages:
            return None
        return failure if failure.replicate in (None, replicate) else None


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_manifest(folder: Path, cell: Cell) -> None:
    name = artifact_name(cell.variant)
    failure, truth = cell.failure_at("convert"), cell.truth
    path = folder / name / "manifest.json"
    if path.exists() and failure is None:
        return
    weights = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}[cell.variant["precision"]]
    manifest = {
        "schema": 1,
        "model": cell.model,
        "artifact": {"name": name, **{k: cell.variant[k] for k in CLASSIC[:3]}, "threads": 2, "device": "cpu"},
        "outcome": outcome("convert", failure),
    }
    if failure is None:
        manifest |= {
            "files": [{"path": "unet/model", "bytes": truth.artifact_bytes, "sha256": "0" * 64}],
            "artifact_bytes": truth.artifact_bytes,
            "build_s": truth.build_s,
            "peak_memory_bytes": 1_500_000_000,
            "versions": {"torch": "2.13.0", "diffusers": "0.42.1", "python": "3.11.2"},
            "parity": {
                "denoiser_relative_error": truth.damage,
                "image_psnr_db": float(-20 * np.log10(truth.damage)),
                "limits": {"denoiser_relative_error": 0.3, "image_psnr_db": 12},
                "passed": True,
            },
            "census": {
                "weights": {weights: 5_000_000},
                "operators": {weights: 120, "float32": 14},
                "providers": ["CPUExecutionProvider"] if cell.variant["engine"] == "onnxruntime" else [],
                "graph_breaks": 0 if cell.variant["compile"] else None,
                "engaged": True,
                "detail": f"120 of 134 operators in {weights}",
            },
        }
    write_json(path, manifest)


def write_cell(folder: Path, cell: Cell, pictures: bool) -> None:
    for replicate in range(1, cell.plan["protocol"]["replicates"] + 1):
        write_replicate(folder / f"replicate-{replicate}", cell, replicate)
    write_images(folder, cell, pictures)
    write_scores(folder, cell)


# --- latency and capacity -------------------------------------------------------------------------------------------


def write_replicate(folder: Path, cell: Cell, replicate: int) -> None:
    failure = cell.failure_at("convert", "benchmark", replicate=replicate)
    rng = np.random.default_rng((cell.seed, replicate))
    latency, capacity = ([], []) if failure else (latency_records(cell, replicate, rng), [])
    if not failure:
        capacity = capacity_records(cell, replicate, rng)
    write_lines(folder / "latency.jsonl", latency)
    write_lines(folder / "capacity.jsonl", capacity)
    server = {
        "start_s": 4.1,
        "first_image_s": 5.2,
        "peak_memory_bytes": int(cell.truth.peak_memory_bytes * np.exp(0.01 * rng.standard_normal())),
        "cpu_s": 41.0,
        "versions": {"torch": "2.13.0", "diffusers": "0.42.1", "python": "3.11.2"},
    }
    both = {} if shares_server(cell) else {"baseline": server | {"peak_memory_bytes": 900_000_000}}
    levels = [] if failure else [note_level(level, capacity) for level in cell.plan["protocol"]["levels"]]
    write_json(
        folder / "replicate.json",
        {
            "outcome": outcome("benchmark", failure),
            **identity(cell, replicate),
            "baseline": cell.baseline["name"],
            "protocol": {k: v for k, v in cell.plan["protocol"].items() if k not in ("replicates", "prompts")},
            "started_unix_s": STARTED_UNIX_S,
            "ended_unix_s": STARTED_UNIX_S + 60,
            "first_role": "baseline" if replicate % 2 else "variant",
            "shared_server": shares_server(cell),
            "warmup": cell.plan["protocol"]["warmup"],
            "host": {"cpu_model": "Synthetic CPU", "cpus": 2, "before": {"load_1min": 0.1}},
            "servers": {} if failure else {"variant": server, **both},
            "disturbed_blocks": [],
            "levels": levels,
            "seconds": {"start": 5.2, "warmup": 3.0, "latency": 24.0, "capacity": 15.0, "end": 0.3},
        },
    )


def shares_server(cell: Cell) -> bool:
    """Variants that differ only in what a request carries share the baseline's server; the A/A test does not."""
    return artifact_name(cell.variant) == artifact_name(cell.baseline) and cell.variant != cell.baseline


def note_level(level: int, records: list[dict]) -> dict:
    """As measure/load.py notes a level, from its records; they follow each other at a distance of 1,000 s."""
    mine = [r for r in records if r["level"] == level]
    opened_s = max(r["done_s"] for r in mine if not r["steady"])
    times = {"window_start_s": opened_s, "window_s": mine[-1]["done_s"] - opened_s}
    known = {"scenario": "steps", "level": level, "server_cpu_cores": 1.9, "valid": True, "reason": None, "errors": {}}
    return {**known, "started_unix_s": STARTED_UNIX_S + 1000 * level, **times}


def run_name(cell: Cell, replicate: int) -> str:
    return f"{cell.variant['name']}-{replicate}"


def sides(cell: Cell, replicate: int) -> list[str]:
    """The role of each block: A B B A, variant first in every other replicate."""
    per_side = cell.plan["protocol"]["requests"] // cell.plan["protocol"]["block"]
    first, second = ("baseline", "variant") if replicate % 2 else ("variant", "baseline")
    pairs = [(first, second) if pair % 2 == 0 else (second, first) for pair in range(per_side)]
    return [role for pair in pairs for role in pair]


def latency_records(cell: Cell, replicate: int, rng: np.random.Generator) -> list[dict]:
    """The lines of latency.jsonl: warm-up of both servers, then the blocks."""
    protocol = cell.plan["protocol"]
    process = {role: cell.truth.between_spread * rng.standard_normal() for role in ("baseline", "variant")}
    if shares_server(cell):
        process["variant"] = process["baseline"]
    drift = np.cumsum(0.004 * rng.standard_normal(4 * (protocol["requests"] + protocol["warmup"])))
    clock, order, records = STARTED_UNIX_S, 1, []

    def ask(role: str, block: int, prompt: int, warmup: bool) -> None:
        nonlocal clock, order
        side = cell.truth if role == "variant" else cell.baseline_truth
        steps = (cell.variant if role == "variant" else cell.baseline)["steps"]
        slow = (1.6 if rng.random() < side.outliers else 1.0) * (1.3 if warmup else 1.0)
        factor = slow * np.exp(process[role] + drift[order] + side.within_spread * rng.standard_normal())
        step_s = side.step_s * factor * np.exp(0.02 * rng.standard_normal(steps))
        parts = {
            "queue_s": 0.0002,
            "prompt_encode_s": float(side.prompt_encode_s * factor),
            "step_s": [round(float(s), 7) for s in step_s],
            "decode_s": float(side.decode_s * factor),
            "image_encode_s": float(side.image_encode_s * factor),
        }
        rest_s = side.overhead_s * factor - parts["queue_s"]
        e2e_s = sum(parts["step_s"]) + rest_s + sum(v for k, v in parts.items() if k != "step_s")
        records.append(
            {
                **identity(cell, replicate),
                "role": role,
                "block": block,
                "order": order,
                "prompt_id": f"{prompt:04d}",
                "seed": prompt,
                "warmup": warmup,
                "status": "ok",
                "error": None,
                "sent_unix_s": clock,
                "e2e_s": float(e2e_s),
                **parts,
                "residual_s": float(0.3 * rest_s),
                "transfer_s": float(0.7 * rest_s),
                "first_byte_s": float(e2e_s - 0.0001),
            }
        )
        clock, order = clock + e2e_s + 0.001, order + 1

    for role in ("baseline", "variant"):
        for prompt in range(protocol["warmup"]):
            ask(role, 0, prompt, warmup=True)
    for block, role in enumerate(sides(cell, replicate), start=1):
        for position in range(protocol["block"]):
            ask(
                role,
                block,
                ((block - 1) // 2 * protocol["block"] + position) % protocol["distinct_prompts"],
                warmup=False,
            )
    return records


def identity(cell: Cell, replicate: int) -> dict:
    names = {"model": cell.model, "target": cell.target, "variant": cell.variant["name"]}
    return {"schema": 1, "run": run_name(cell, replicate), **names, "replicate": replicate}


def capacity_records(cell: Cell, replicate: int, rng: np.random.Generator) -> list[dict]:
    """The lines of capacity.jsonl: a server that works one request after the other, a little better when kept busy.

    As measure/capacity.py does it: the level ends with its last measured completion, the first `level` are ramp-up.
    """
    records = []
    process = np.exp(cell.truth.between_spread * rng.standard_normal())
    service_s = cell.truth.latency_s(cell.variant["steps"]) * process
    for level in cell.plan["protocol"]["levels"]:
        mean_s = service_s / (cell.truth.parallel_gain if level > 1 else 1.0)
        free_at, ready = 0.0, [0.0] * level  # when the server, and each client, can go on
        for place in range(level + cell.plan["protocol"]["requests_per_level"]):
            client = int(np.argmin(ready))
            sent = ready[client]
            free_at = max(free_at, sent) + mean_s * np.exp(cell.truth.within_spread * rng.standard_normal())
            ready[client] = free_at + 0.0005
            records.append(
                {
                    **identity(cell, replicate),
                    "scenario": "steps",
                    "level": level,
                    "scheduled_s": None,
                    "sent_s": float(sent),
                    "done_s": float(free_at),
                    "status": "ok",
                    "error": None,
                    "images": 1,
                    "client": client,
                    "steady": place >= level,
                }
            )
    return records


# --- images and scores ----------------------------------------------------------------------------------------------

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


def slower(truth: Truth, factor: float) -> Truth:
    """The same variant, every part `factor` times as long."""
    parts = ("step_s", "prompt_encode_s", "decode_s", "image_encode_s", "overhead_s")
    return replace(truth, **{part: getattr(truth, part) * factor for part in parts})


def records_of_steps(
    variant_steps_s: Sequence[Sequence[float]], baseline_steps_s: Sequence[Sequence[float]]
) -> list[LatencyRecord]:
    """The latency records of one replicate with these steps, one list a request, and 10 ms for all else."""
    shared = {"schema": 1, "run": "r", "model": "m", "target": "t", "variant": "v", "replicate": 1, "prompt_id": "p"}
    shared |= {"warmup": False, "status": "ok", "error": None, "sent_unix_s": 1e9, "queue_s": 0.0, "residual_s": 0.0}
    shared |= {"prompt_encode_s": 0.004, "decode_s": 0.003, "image_encode_s": 0.002, "transfer_s": 0.001}
    return [
        LatencyRecord(
            **shared,
            role=role,
            block=2 * i + side,
            order=2 * i + side,
            seed=i,
            step_s=steps,
            e2e_s=sum(steps) + 0.01,
            first_byte_s=sum(steps) + 0.009,
        )
        for side, (role, asked) in enumerate((("variant", variant_steps_s), ("baseline", baseline_steps_s)), start=1)
        for i, steps in enumerate(asked)
    ]


if __name__ == "__main__":
    failing = {
        "int8": Failure("convert", "failed", "parity: the denoiser's relative error is 0.41, the limit 0.2"),
        "fp16": Failure("benchmark", "failed", "was killed (signal 9); usually the machine ran out of memory"),
        "openvino-int8": Failure("score", "failed", "3 of 200 images are black (first: 0007-7.png)"),
    }
    print(make_results(sys.argv[1], make_plan(), failures=failing))
