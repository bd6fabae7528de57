"""A sweep's folder, and the artifacts'."""

from pathlib import Path

import numpy as np

from diffsweep.sweep.plan import replicates_of
from synthetic.cells import Cell, Failure, outcome, write_json
from synthetic.images import write_images, write_scores
from synthetic.plan import CLASSIC, Truth, artifact_name
from synthetic.replicates import write_replicate

EXPORT_S = 30.0


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
    for replicate in replicates_of(cell.plan, cell.variant["name"]):
        write_replicate(folder / f"replicate-{replicate}", cell, replicate)
    write_images(folder, cell, pictures)
    write_scores(folder, cell)
