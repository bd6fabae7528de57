"""Make one artifact: convert the model, compare it with the FP32 original, and count what it really runs.

    scripts/in_env torch python scripts/convert.py --out results/artifacts/reference/torch-bf16 --spec '{
        "model": {"name": "reference", "path": "resources/reference-model", "width": 64, "height": 64},
        "artifact": {"name": "torch-bf16", "engine": "torch", "precision": "bf16", "compile": false, "threads": 2,
                     "device": "cpu"},
        "request": {"scheduler": "ddim", "steps": 25, "guidance": 3.0},
        "calibration": {"path": "config/prompts/calibration.yaml"},
        "parity": {"denoiser_relative_error": 0.05, "image_psnr_db": 35}}'

The folder --out appears when all is done, with a manifest.json. An artifact that cannot be made (out of memory, crash,
time limit), that differs from the original, or whose optimisation is not engaged, leaves a manifest that says so and
nothing else; the exit code is 0, since the sweep goes on without it.
"""

import argparse
import shutil
import time
from pathlib import Path

from diffsweep.sweep.files import atomic_folder, digest_file, read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Failed, Outcome, handed_on, run_program, run_supervised
from diffsweep.sweep.runs import current_run

STAGE = "convert"
MANIFEST = "manifest.json"
FACTS = ".facts.json"  # what the child has found out so far; the parent makes the manifest of it


def main() -> None:
    options = parse_options()
    spec = options.spec
    attempt = spec.get("attempt", 0)
    onnx = options.onnx if options.onnx and (options.onnx / MANIFEST).is_file() else None
    with atomic_folder(options.out) as folder:
        outcome = handed_on(read_json(onnx / MANIFEST), "export", STAGE, attempt) if onnx else None
        outcome = outcome or run_supervised(
            lambda: build(spec, onnx, folder), stage=STAGE, timeout_s=spec.get("timeout_s", 1800), attempt=attempt
        )
        facts = read_json(folder / FACTS) if (folder / FACTS).exists() else {}
        if not outcome.ok:
            remove_content(folder)
        (folder / FACTS).unlink(missing_ok=True)
        write_json(folder / MANIFEST, manifest(spec, outcome, facts, onnx))
    say(f"{spec['artifact']['name']}: {outcome.status}" + (f": {outcome.reason}" if outcome.reason else ""))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "what to make")
    parser.add_argument("--onnx", type=Path, help="folder of the model's ONNX export, for engines that start from it")
    parser.add_argument("--out", required=True, type=Path, help="the artifact's folder, made or replaced")
    options = parser.parse_args()
    options.spec = read_spec("convert", options.spec)
    return options


def say(text: str) -> None:
    print(f"convert: {text}", flush=True)


def remove_content(folder: Path) -> None:
    """An artifact that must not be used leaves nothing that could be."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def manifest(spec: dict, outcome: Outcome, facts: dict, onnx: Path | None) -> dict:
    unknown = dict.fromkeys(("build_s", "peak_memory_bytes", "versions", "parity", "census"))
    files = facts.pop("files", []) if outcome.ok else []
    return {
        "schema": 1,
        "run": current_run(),
        "inputs": {
            "source": spec.get("source"),
            "calibration": spec["calibration"].get("digest"),
            "onnx": digest_file(onnx / MANIFEST) if onnx else None,
        },
        "model": spec["model"],
        "artifact": spec["artifact"],
        "outcome": outcome.as_dict(),
        "files": files,
        "artifact_bytes": sum(file["bytes"] for file in files) if outcome.ok else None,
        **unknown,
        **{name: value for name, value in facts.items() if name in unknown},
    }


# --- in the child, where the heavy imports are -----------------------------------------------------------------------


def build(spec: dict, onnx: Path | None, folder: Path) -> None:
    """Fill `folder`. Raises Failed or Unsupported with the reason; crashes are the parent's to notice."""
    from diffsweep.engines.imports import yield_cores

    yield_cores()
    from diffsweep.engines import load_engine
    from diffsweep.engines.prompts import read_suite
    from diffsweep.engines.sources import source_of

    engine, artifact, facts = load_engine(spec["artifact"]["engine"]), spec["artifact"], {}
    source = source_of(spec["model"])
    prompts = read_suite(spec["calibration"]["path"])["prompts"]
    say(f"{artifact['name']}: converting" + (" and compiling" if artifact["compile"] else ""))
    note_build(folder, facts, lambda: engine.convert(source, onnx, folder, artifact, prompts))
    say(f"{artifact['name']}: built in {facts['build_s']:.1f} s; loading it as a server does")
    pipeline = engine.load(source, folder, artifact)
    say(f"{artifact['name']}: loaded; comparing it with the FP32 original")
    check_parity(pipeline, spec, source, prompts, folder, facts)
    check_census(engine.census(pipeline, folder, artifact), artifact, folder, facts)


def note_build(folder: Path, facts: dict, convert) -> None:
    """Convert, and write down files, time and memory. The time counts from the loaded library on."""
    from diffsweep.engines.imports import import_diffusers
    from diffsweep.engines.manifests import describe_files, forget_origin, peak_memory_bytes, versions

    import_diffusers()
    started = time.perf_counter()
    facts["versions"] = versions()
    convert()
    facts["build_s"] = time.perf_counter() - started
    facts["peak_memory_bytes"] = peak_memory_bytes()
    forget_origin(folder)
    facts["files"] = describe_files(folder)
    write_json(folder / FACTS, facts)


def check_parity(pipeline, spec: dict, source: Path, prompts: list[str], folder: Path, facts: dict) -> None:
    from diffsweep.engines.parity import compare, parity_requests
    from diffsweep.engines.sources import load_original

    model = spec["model"]
    requests = parity_requests(prompts, spec["request"], model["width"], model["height"])
    parity = compare(load_original(source), pipeline, requests, spec["parity"])
    facts["parity"] = parity.as_dict()
    write_json(folder / FACTS, facts)
    if not parity.passed:
        raise Failed(f"differs from the FP32 original: {parity.problem}")
    error, psnr = parity.denoiser_relative_error, parity.image_psnr_db
    say(f"{spec['artifact']['name']}: denoiser relative error {error:.2g}, images {psnr:.1f} dB; counting what it runs")


def check_census(census, artifact: dict, folder: Path, facts: dict) -> None:
    facts["census"] = census.as_dict()
    write_json(folder / FACTS, facts)
    if not census.engaged:
        raise Failed(f"the optimisation is not engaged: {census.detail}")
    say(f"{artifact['name']}: {census.detail}")


if __name__ == "__main__":
    run_program(main, supervises=True)
