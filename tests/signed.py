"""Synthetic results made whole: every document names its run and its inputs' digests, as the programs write them."""

import json
import shutil
from pathlib import Path

from diffsweep.sweep.files import digest_file
from synthetic import artifact_name, digests

RUN = "20260101T000000Z-0000"


def sign(sweep: Path) -> None:
    """Add to the documents of a synthetic sweep (tests/synthetic, with pictures) what scripts/verify asks for."""
    plan = json.loads((sweep / "plan.json").read_text())
    artifacts = sweep.parent / "artifacts"
    for path in artifacts.glob("*/*/manifest.json"):
        sign_artifact(path)
    artifact = {variant["name"]: artifact_name(variant) for variant in plan["variants"]}
    cells = [(m, t, name) for m in plan["models"] for t in plan["targets"] for name in artifact]
    for model, target, name in cells:
        manifests = {"artifact": name, "baseline": plan["baseline"]}
        made_from = {
            key: digest_file(artifacts / model / artifact[of] / "manifest.json") for key, of in manifests.items()
        }
        sign_measured(sweep / model / target / name, made_from)
    for model, target, name in cells:
        folder, baseline = sweep / model / target / name, sweep / model / target / plan["baseline"]
        made_from = {"images": digest_file(folder / "images.json"), "baseline": digest_file(baseline / "images.json")}
        files = {table: digest_file(folder / table) for table in ("scores.parquet", "features.npy")}
        rewrite(folder / "quality.json", inputs=made_from, files=files)


def sign_records(replicate: Path) -> None:
    """Its records were edited on purpose: let replicate.json name them as they are now."""
    path = replicate / "replicate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": digests(replicate)}))


def sign_artifact(manifest: Path) -> None:
    """Write stand-ins for the files that a synthetic manifest names."""
    files = json.loads(manifest.read_text())["files"]
    for entry in files:
        path = manifest.parent / entry["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(entry["path"])
        entry["sha256"] = digest_file(path)
    rewrite(manifest, inputs={"source": "sha256:0", "calibration": "0", "onnx": None}, files=files)


def sign_measured(folder: Path, made_from: dict) -> None:
    for replicate in folder.glob("replicate-*"):
        for records in replicate.glob("*.jsonl"):
            lines = [json.dumps({**json.loads(line), "run": RUN}) for line in records.read_text().splitlines()]
            records.write_text("".join(f"{line}\n" for line in lines))
        rewrite(replicate / "replicate.json", inputs=made_from, files=digests(replicate))
    rewrite(folder / "images.json", inputs={"artifact": made_from["artifact"]})


def add_what_is_asked_for(sweep: Path, cell: str) -> None:
    """Stand-ins, signed, for what no sweep makes by itself: a calibration, a trace of `cell`; and a receipt."""
    calibration = sweep / "calibration" / "reference" / "local"
    shutil.copytree(sweep / cell / "replicate-1", calibration / "aa" / "replicate-1")
    for name in ("calibration.csv", "aa.png", "aa.svg", "power.png", "power.svg"):
        (calibration / name).write_text(name)
    (calibration / "report.html").write_text("<!doctype html><html></html>\n")
    (calibration / "calibration.json").write_text("{}")
    table = sweep / cell / "trace" / "operators.csv"
    table.parent.mkdir()
    table.write_text("operator,share\nConv,1\n")
    made_from = {"artifact": json.loads((sweep / cell / "images.json").read_text())["inputs"]["artifact"]}
    (sweep / cell / "trace.json").write_text("{}")
    files, profilers = {"trace/operators.csv": digest_file(table)}, {"torch": {"files": ["trace/operators.csv"]}}
    rewrite(sweep / cell / "trace.json", inputs=made_from, files=files, profilers=profilers)
    (sweep.parent / "envs").mkdir(exist_ok=True)
    (sweep.parent / "envs" / "torch-1a2b3c.txt").write_text("python==3.11.7\ntorch==2.13.0\n")


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "run": RUN, **changes}))
