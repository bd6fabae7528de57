"""Convert a model to all precisions of an engine that starts from ONNX, in one process; what came out, as JSON.

scripts/in_env onnxruntime python tests/engines/onnx_artifacts.py onnxruntime MODEL_FOLDER ONNX_FOLDER OUT_FOLDER
"""

import gzip
import json
import shutil
import sys
from pathlib import Path
from unittest import mock

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts"))

import numpy as np  # noqa: E402
import sabotage  # noqa: E402
import torch  # noqa: E402

from diffsweep.engines import load_engine  # noqa: E402
from diffsweep.engines.parity import compare, parity_requests  # noqa: E402
from diffsweep.engines.pipelines import SCHEDULERS, ImageRequest, generate, recorded_calls  # noqa: E402
from diffsweep.engines.sources import load_original  # noqa: E402
from diffsweep.sweep.outcomes import Unsupported  # noqa: E402
from diffsweep.traces import load_tracer  # noqa: E402

PRECISIONS = {"onnxruntime": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}
PROMPTS = ["a b c", "d e f", "g h", "i", "j k", "l m n"]
SUITE = PROJECT / "config" / "prompts" / "calibration.yaml"
NO_LIMITS = {"denoiser_relative_error": 1e9, "image_psnr_db": -1e9}


def artifact_of(engine: str, precision: str, device: str = "cpu") -> dict:
    name = f"{engine}-{precision}"
    # 2 threads, so that the two halves of guidance run side by side
    return {"name": name, "engine": engine, "precision": precision, "compile": False, "threads": 2, "device": device}


def request(seed: int, **changes) -> ImageRequest:
    settings = {"scheduler": "ddim", "steps": 3, "guidance": 3.0, "width": 16, "height": 16}
    return ImageRequest(prompt=PROMPTS[seed], negative_prompt="", seed=seed, **{**settings, **changes})


def largest_difference(found: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


def batch_difference(pipeline) -> int:
    """Batches of 3, 1 and 2 images, so that shapes come and go, against the same images made one by one."""
    requests = [request(seed) for seed in range(6)]
    alone = np.concatenate([generate(pipeline, [one])[0] for one in requests])
    batches = [generate(pipeline, part)[0] for part in (requests[:3], requests[3:4], requests[4:])]
    return largest_difference(np.concatenate(batches), alone)


def prepared_again(pipeline, largest: int) -> list[str]:
    """Which networks prepare anew for a size up to `largest` that they have run before."""
    networks = {name: getattr(pipeline, name).network for name in ("text_encoder", "unet", "vae")}
    batches = [[request(seed) for seed in range(size)] for size in range(1, largest + 1)]
    for batch in batches:
        generate(pipeline, batch)
    for network in networks.values():
        network._bound._prepare = mock.Mock(side_effect=network._bound._prepare)
    for batch in batches:
        generate(pipeline, batch)
    return [name for name, network in networks.items() if network._bound._prepare.called]


def traced(engine: str, source: Path, out: Path) -> dict:
    """The trace of a batch of two images, and the components that the raw trace names."""
    (out / "trace").mkdir()
    requests = [request(seed) for seed in range(2)]
    trace = load_tracer(engine).trace(source, out / "fp32", artifact_of(engine, "fp32"), requests, out / "trace")
    with gzip.open(out / "trace" / trace.files[0], "rt") as handle:
        events = json.load(handle)["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"} | {event["name"] for event in spans}
    return {
        **trace.as_dict(),
        "components": sorted(names & {"text_encoder", "unet", "vae_decoder"}),
        "last_s": max(event["ts"] + event["dur"] for event in spans) / 1e6,
        "left_over": sorted(path.name for path in (out / "trace").iterdir()),
    }


def other_schedulers(pipeline, original) -> dict[str, int]:
    """Largest difference of any pixel to torch; the multistep ones keep what the denoiser returned earlier."""
    wanted = [request(1, scheduler=name, guidance=g) for name in SCHEDULERS for g in (3.0, 1.0)]
    return {
        f"{w.scheduler} {w.guidance}": largest_difference(generate(pipeline, [w])[0], generate(original, [w])[0])
        for w in wanted
    }


def outputs_are_kept(pipeline) -> bool:
    """Whether the output of a denoiser call is left alone by the next call."""
    with recorded_calls(pipeline) as calls:
        generate(pipeline, [request(0)])
    return not torch.equal(calls[0].output, calls[-1].output)


def reason_of_refusal(engine: str, precision: str, device: str, folder: Path, onnx: Path) -> str | None:
    try:
        load_engine(engine).convert(folder, onnx, folder / "refused", artifact_of(engine, precision, device), PROMPTS)
    except Unsupported as reason:
        return str(reason)
    return None


def without_bfloat16(folder: Path, onnx: Path) -> str | None:
    """What OpenVINO's engine says on a CPU that has no bfloat16."""
    from diffsweep.engines import ov

    with mock.patch.object(ov, "openvino") as library:
        library.Core().get_property.return_value = ["FP32", "INT8"]
        return reason_of_refusal("openvino", "bf16", "cpu", folder, onnx)


def facts_of(engine: str, precision: str, source: Path, onnx: Path, out: Path, original) -> dict:
    module, artifact = load_engine(engine), artifact_of(engine, precision)
    out.mkdir(parents=True)
    module.convert(source, onnx, out, artifact, PROMPTS)
    pipeline = module.load(source, out, artifact)
    settings = {"scheduler": "ddim", "steps": 3, "guidance": 3.0}
    return {
        "parity": compare(original, pipeline, parity_requests(PROMPTS, settings, 16, 16), NO_LIMITS).as_dict(),
        "census": module.census(pipeline, out, artifact).as_dict(),
        "batch": batch_difference(pipeline),
        "schedulers": other_schedulers(pipeline, original),
        "outputs_are_kept": outputs_are_kept(pipeline),
        "torch_modules": [n for n, part in pipeline.components.items() if isinstance(part, torch.nn.Module)],
        "bytes": {p.relative_to(out).as_posix(): p.stat().st_size for p in out.rglob("*") if p.is_file()},
    }


def swapped_weights(engine: str, source: Path, onnx: Path, out: Path) -> tuple[dict, list[str]]:
    """The manifest of a conversion that starts from an export with weights in wrong places, and the files it left."""
    broken, folder = out / "swapped-onnx", out / "swapped"
    shutil.copytree(onnx, broken)
    swap_largest_weights(broken / "unet" / "model.onnx")
    spec = {
        "model": {"name": "tiny", "path": str(source), "width": 16, "height": 16},
        "artifact": artifact_of(engine, "fp32"),
        "request": {"scheduler": "ddim", "steps": 2, "guidance": 3.0},
        "calibration": {"path": str(SUITE)},
        "parity": {"denoiser_relative_error": 1e-3, "image_psnr_db": 40},
    }
    sabotage.convert(spec, str(folder), "--onnx", str(broken))
    return json.loads((folder / "manifest.json").read_text()), sorted(path.name for path in folder.iterdir())


def swap_largest_weights(file: Path) -> None:
    """Turn the first half of a block of bytes in the middle of the file, all weights, against the second half."""
    content = bytearray(file.read_bytes())
    middle, size = len(content) // 2 // 4 * 4, 8192
    block = content[middle : middle + 2 * size]
    content[middle : middle + 2 * size] = block[size:] + block[:size]
    file.write_bytes(content)


def main(engine: str, source: Path, onnx: Path, out: Path) -> dict:
    swapped = swapped_weights(engine, source, onnx, out)  # first: it forks this process, which has no threads yet
    torch.set_num_threads(1)
    original = load_original(source)
    facts = {p: facts_of(engine, p, source, onnx, out / p, original) for p in PRECISIONS[engine]}
    claims_int8 = artifact_of(engine, "int8")
    module = load_engine(engine)
    fp32 = module.load(source, out / "fp32", claims_int8)
    return {
        "artifacts": facts,
        "swapped_weights": swapped,
        "fp32_that_claims_int8": module.census(fp32, out / "fp32", claims_int8).as_dict(),
        "prepared_again": prepared_again(module.load(source, out / "fp32", artifact_of(engine, "fp32"), 5), 5),
        "trace": traced(engine, source, out),
        "fp16": reason_of_refusal(engine, "fp16", "cpu", source, onnx),
        "cuda": reason_of_refusal(engine, "fp32", "cuda", source, onnx),
        "no_bfloat16": without_bfloat16(source, onnx) if engine == "openvino" else None,
    }


if __name__ == "__main__":
    facts = main(sys.argv[1], *map(Path, sys.argv[2:]))
    print(json.dumps(facts))
