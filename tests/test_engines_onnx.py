"""Export and the engines that start from it, from outside: on a tiny model, whole and broken."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
HELPERS = PROJECT / "tests" / "engines"
# What rounding does to the tiny model's denoiser (random weights suffer more than trained ones), with room; the other
# figure is the PSNR of its images in dB.
LIMITS = {"fp32": (1e-4, 60), "bf16": (0.1, 30), "int8": (0.3, 28)}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
ARTIFACTS = [
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
]


def run_in(environment: str, *arguments: object) -> str:
    """The standard output of a Python program in an environment."""
    command = [sys.executable, PROJECT / "scripts" / "in_env", environment, "python", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def export(model: Path, out: Path) -> dict:
    spec = {"model": {"name": "tiny", "path": str(model)}, "timeout_s": 300, "attempt": 1}
    run_in("export", PROJECT / "scripts" / "export_onnx.py", "--spec", json.dumps(spec), "--out", out)
    return json.loads((out / "manifest.json").read_text())


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Written by the exporter's transformers: the older form, which newer versions read too."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    run_in("export", HELPERS / "tiny_model.py", folder)
    return folder


@pytest.fixture(scope="module")
def onnx(model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "onnx"
    export(model, out)
    return out


@pytest.fixture(scope="module")
def converted(model, onnx, tmp_path_factory) -> dict:
    """What both engines made of the model, by engine."""
    folder = tmp_path_factory.mktemp("artifacts")
    program = HELPERS / "onnx_artifacts.py"
    return {
        engine: json.loads(run_in(engine, program, engine, model, onnx, folder / engine).splitlines()[-1])
        for engine in ("onnxruntime", "openvino")
    }


@pytest.fixture(params=ARTIFACTS, ids="-".join)
def artifact(request, converted) -> tuple[str, dict]:
    """(precision, facts) of each artifact."""
    engine, precision = request.param
    return precision, converted[engine]["artifacts"][precision]


# --- export ---------------------------------------------------------------------------------------------------------


def test_export_has_three_components_that_equal_torch(onnx):
    manifest = json.loads((onnx / "manifest.json").read_text())
    assert manifest["outcome"] == {"status": "ok", "reason": None, "stage": "export", "attempt": 1}
    assert set(manifest["parity"]) == {"text_encoder", "unet", "vae_decoder"}
    assert all(found["relative_error"] < 1e-5 for found in manifest["parity"].values())
    on_disk = {p.relative_to(onnx).as_posix() for p in onnx.rglob("*") if p.is_file()} - {"manifest.json"}
    assert {file["path"] for file in manifest["files"]} == on_disk
    assert {f"{name}/model.onnx" for name in manifest["parity"]} < on_disk
    assert manifest["artifact_bytes"] == sum(file["bytes"] for file in manifest["files"])
    assert manifest["build_s"] > 0 and manifest["peak_memory_bytes"] > 1e8
    assert manifest["versions"]["optimum-onnx"] and manifest["versions"]["transformers"].startswith("4.")


def test_weights_that_the_exporter_made_up_are_caught(model, tmp_path):
    """A text encoder whose weights have names that transformers does not know: it initialises new ones and goes on."""
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = broken / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b".layers.", b".blocks."))  # names stand in its JSON header
    out = tmp_path / "onnx"
    manifest = export(broken, out)
    assert manifest["outcome"]["status"] == "failed" and manifest["outcome"]["stage"] == "export"
    assert "text_encoder:" in manifest["outcome"]["reason"] and "were made up" in manifest["outcome"]["reason"]
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    assert manifest["artifact_bytes"] is None and manifest["files"] == []


# --- artifacts ------------------------------------------------------------------------------------------------------


def test_images_are_those_of_torch(artifact):
    precision, facts = artifact
    error, psnr_db = LIMITS[precision]
    assert facts["parity"]["denoiser_relative_error"] <= error
    assert facts["parity"]["image_psnr_db"] >= psnr_db
    if precision != "fp32":  # it would be, if nothing had been rounded
        assert facts["parity"]["denoiser_relative_error"] > 1e-4


def test_operators_compute_in_the_precision(artifact):
    precision, facts = artifact
    census = facts["census"]
    assert census["engaged"], census["detail"]
    assert list(census["operators"])[0] == DTYPES[precision]
    assert census["operators"][DTYPES[precision]] > 0.6 * sum(census["operators"].values())
    assert census["weights"].get("int8", 0) > 0 or precision != "int8"


def test_images_do_not_depend_on_the_batch(artifact):
    _, facts = artifact
    assert facts["batch"] <= 1


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_size_up_to_the_batch_is_prepared_once(converted, engine):
    assert converted[engine]["prepared_again"] == []


def test_every_scheduler_runs_with_and_without_guidance(artifact):
    precision, facts = artifact
    assert len(facts["schedulers"]) == 8
    assert facts["outputs_are_kept"]
    if precision == "fp32":
        assert max(facts["schedulers"].values()) <= 1


@pytest.mark.parametrize("engine, convolution", [("onnxruntime", "Conv"), ("openvino", "Convolution")])
def test_a_trace_counts_the_operators_of_all_components(converted, engine, convolution):
    trace = converted[engine]["trace"]
    operators = {row["operator"]: row for row in trace["operators"]}
    assert sum(row["share"] for row in trace["operators"]) == pytest.approx(1)
    assert [row["total_s"] for row in trace["operators"]] == sorted(o["total_s"] for o in operators.values())[::-1]
    found = sum(row["calls"] for name, row in operators.items() if convolution in name)
    assert found % 2 == 0 and found > 3 * 2 * 4  # three steps in two lanes, and the decoder
    assert trace["components"] == ["text_encoder", "unet", "vae_decoder"]
    assert trace["files"] == trace["left_over"] == [f"{engine}.json.gz"]
    # The events lie within the traced time: the same unit, whatever a busy machine does to either clock.
    assert 0.01 < trace["last_s"] / trace["traced_s"] < 10


def test_no_network_of_torch_is_loaded(artifact):
    _, facts = artifact
    assert facts["torch_modules"] == []


def test_quantised_denoiser_is_smaller(converted):
    for name, engine in (("unet/model.onnx", "onnxruntime"), ("unet/model.bin", "openvino")):
        sizes = {precision: facts["bytes"][name] for precision, facts in converted[engine]["artifacts"].items()}
        assert sizes["int8"] < 0.7 * sizes["fp32"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_int8_artifact_without_int8_operators_is_not_engaged(converted, engine):
    census = converted[engine]["fp32_that_claims_int8"]
    assert not census["engaged"] and census["detail"].startswith("only 0 of ")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_what_an_engine_does_not_offer_is_unsupported(converted, engine):
    assert "fp16" in converted[engine]["fp16"]
    assert "cuda" in converted[engine]["cuda"]


def test_bfloat16_needs_a_cpu_that_has_it(converted):
    assert converted["openvino"]["no_bfloat16"] == ("OpenVINO has no bfloat16 kernels for this CPU (it has FP32, INT8)")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_export_with_other_weights_fails_the_parity_gate(converted, engine):
    manifest, files = converted[engine]["swapped_weights"]
    assert manifest["outcome"]["status"] == "failed"
    assert "differs from the FP32 original: denoiser relative error" in manifest["outcome"]["reason"]
    assert files == ["manifest.json"]
