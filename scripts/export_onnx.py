"""Export a model's text encoder, denoiser and VAE decoder to ONNX, where all engines but torch start from.

    scripts/in_env export python scripts/export_onnx.py --out results/artifacts/reference/onnx \\
        --spec '{"model": {"name": "reference", "path": "resources/reference-model"}}'

The exporter is optimum's. Every exported file is run once beside the torch module it comes from. An export that
computes something else, or a model whose weights were not all found, leaves a manifest.json that says so and nothing
else; the exit code is 0, since the sweep goes on without it.
"""

import argparse
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

from diffsweep.engines.manifests import describe_files, forget_origin, peak_memory_bytes, versions
from diffsweep.engines.sources import refuse_invented, source_of
from diffsweep.sweep.files import atomic_folder, read_json, write_json
from diffsweep.sweep.options import add_spec_option, read_spec
from diffsweep.sweep.outcomes import Failed, Outcome, run_program, run_supervised
from diffsweep.sweep.runs import current_run

STAGE = "export"
FACTS = ".facts.json"  # what the child has found out; the parent makes the manifest of it
COMPONENTS = ("text_encoder", "unet", "vae_decoder")
# Both sides compute in fp32 and differ by rounding: 4e-7 to 3e-6 on the reference model. A wrong graph is far above.
RELATIVE_ERROR_LIMIT = 1e-3
BATCH = 3  # another batch size than the one that is traced, so that a constant in its place is noticed


def main() -> None:
    options = parse_options()
    spec = options.spec
    with atomic_folder(options.out) as folder:
        outcome = run_supervised(
            lambda: export(spec, folder),
            stage=STAGE,
            timeout_s=spec.get("timeout_s", 1800),
            attempt=spec.get("attempt", 0),
        )
        finish(spec, outcome, folder)
    say(outcome.status + (f": {outcome.reason}" if outcome.reason else ""))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spec_option(parser, "what to export")
    parser.add_argument("--out", required=True, type=Path, help="the folder of the export, made or replaced")
    options = parser.parse_args()
    options.spec = read_spec("export_onnx", options.spec)
    return options


def say(text: str) -> None:
    print(f"export: {text}", flush=True)


def finish(spec: dict, outcome: Outcome, folder: Path) -> None:
    """Write the manifest: what was made, or why there is nothing."""
    facts = {}
    if outcome.ok:
        facts = read_json(folder / FACTS)
        (folder / FACTS).unlink()
    else:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    files = describe_files(folder)
    known = {"run": current_run(), "inputs": {"source": spec.get("source")}}
    manifest = {"schema": 1, **known, "model": spec["model"], "outcome": outcome.as_dict(), "files": files}
    total_bytes = sum(file["bytes"] for file in files)
    write_json(folder / "manifest.json", {**manifest, "artifact_bytes": total_bytes if outcome.ok else None, **facts})


# --- in the child, where the heavy imports are -----------------------------------------------------------------------


def export(spec: dict, folder: Path) -> None:
    """Fill `folder`. Raises Failed or Unsupported with the reason; crashes are the parent's to notice."""
    warnings.simplefilter("ignore")  # the tracer's: which branches of Python code became constants
    started = time.perf_counter()
    source = source_of(spec["model"])
    pipeline = load_original(source)
    modules = export_components(pipeline, folder)
    save_rest(pipeline, modules, folder)
    forget_origin(folder)
    shapes = input_shapes(pipeline, batch_size=BATCH)
    parity = {name: compare(name, *pair, shapes, folder / name / "model.onnx") for name, pair in modules.items()}
    facts = {"build_s": time.perf_counter() - started, "peak_memory_bytes": peak_memory_bytes()}
    write_json(folder / FACTS, {**facts, "versions": versions(), "parity": parity})


def load_original(source: Path) -> Any:
    """The model in torch, fp32, as the exporter's older diffusers loads it (engines/sources.py is for the newer one).

    Raises Failed when a component has weights that are in none of the model's files.
    """
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    pipeline = StableDiffusionPipeline.from_pretrained(
        source, torch_dtype=torch.float32, use_safetensors=True, safety_checker=None, requires_safety_checker=False
    )
    refuse_invented(pipeline, source)
    return pipeline


def export_components(pipeline: Any, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Write <component>/model.onnx for each component. Returns the torch module and optimum's config of each."""
    from optimum.exporters.onnx import export_models
    from optimum.exporters.utils import get_diffusion_models_for_export

    found = get_diffusion_models_for_export(pipeline, exporter="onnx")
    modules = {name: found[name] for name in COMPONENTS}
    for name, pair in modules.items():
        say(name)
        export_models({name: pair}, folder, output_names=[f"{name}/model.onnx"], input_shapes=input_shapes(pipeline))
    return modules


def input_shapes(pipeline: Any, **others: int) -> dict[str, int]:
    """Sizes of the inputs that optimum makes up; its default of 16 tokens is too long for some text encoders."""
    return {"sequence_length": pipeline.text_encoder.config.max_position_embeddings, **others}


def save_rest(pipeline: Any, modules: dict[str, tuple[Any, Any]], folder: Path) -> None:
    """Write what makes the folder a model that optimum's own pipeline loads too: configs, tokenizer, scheduler."""
    for name, (module, _) in modules.items():
        # A module of diffusers writes its config, a config of transformers writes itself.
        save = module.save_config if hasattr(module, "save_config") else module.config.save_pretrained
        save(folder / name)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    pipeline.save_config(folder)


def compare(name: str, module: Any, config: Any, shapes: dict[str, int], file: Path) -> dict[str, float]:
    """Relative error of an exported file against its torch module. Raises Failed above the limit."""
    import numpy
    import torch

    torch.manual_seed(0)
    inputs = config.generate_dummy_inputs(framework="pt", **shapes)
    with torch.no_grad():
        expected = module(**inputs)
    expected = (expected[0] if isinstance(expected, tuple) else next(iter(expected.values()))).numpy()
    error = float(numpy.linalg.norm(run_onnx(file, inputs) - expected) / numpy.linalg.norm(expected))
    say(f"{name}: relative error {error:.1e} against torch")
    if not error <= RELATIVE_ERROR_LIMIT:  # a NaN fails too
        raise Failed(
            f"{name}: the ONNX file's output differs from torch's by {error:.2g}, limit {RELATIVE_ERROR_LIMIT}"
        )
    return {"relative_error": error, "limit": RELATIVE_ERROR_LIMIT}


def run_onnx(file: Path, inputs: dict[str, Any]) -> Any:
    """The first output of an ONNX file, as an array."""
    import numpy
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}
    feeds = {i.name: inputs[i.name].numpy().astype(types[i.type]) for i in session.get_inputs()}
    return session.run(None, feeds)[0]


if __name__ == "__main__":
    run_program(main, supervises=True)
