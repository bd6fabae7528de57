"""Engine torch, from outside: scripts/convert.py and scripts/generate_images.py on a tiny model, whole and broken."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffsweep.engines import census, load_engine
from diffsweep.engines.torch_trace import compute_dtype, innermost_compute
from diffsweep.sweep import sharing

PROJECT = Path(__file__).resolve().parents[1]
HELPERS = PROJECT / "tests" / "engines"
# What rounding to a precision does to the tiny model's denoiser, with room: a broken conversion is far above.
LIMITS = {
    "fp32": {"denoiser_relative_error": 1e-4, "image_psnr_db": 60},
    "bf16": {"denoiser_relative_error": 0.03, "image_psnr_db": 30},
    "fp16": {"denoiser_relative_error": 0.01, "image_psnr_db": 40},
    "int8": {"denoiser_relative_error": 0.05, "image_psnr_db": 30},
}


def run_in_torch(*arguments: object, **environ: str) -> subprocess.CompletedProcess:
    command = [sys.executable, PROJECT / "scripts" / "in_env", "torch", "python", *arguments]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=PROJECT, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    run_in_torch(HELPERS / "tiny_model.py", folder)
    return {"name": "tiny", "path": str(folder), "width": 16, "height": 16}


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "letters.yaml"
    path.write_text("name: letters\ndescription: single letters\nprompts: [a b c, d e f, g h, i]\n")
    return path


@pytest.fixture(scope="module")
def spec(model, suite):
    """A function that makes the spec of an artifact."""

    def make(precision: str = "fp32", compile: bool = False, **changes) -> dict:
        artifact = {"name": f"torch-{precision}", "engine": "torch", "precision": precision, "compile": compile}
        return {
            "model": model,
            "artifact": {**artifact, "threads": 1, "device": "cpu"},
            "request": {"scheduler": "ddim", "steps": 3, "guidance": 3.0},
            "calibration": {"path": str(suite)},
            "parity": LIMITS[precision],
            **changes,
        }

    return make


def convert(spec: dict, out: Path, **environ: str) -> dict:
    """Run the program; -> the manifest."""
    run_in_torch(PROJECT / "scripts" / "convert.py", "--spec", json.dumps(spec), "--out", out, **environ)
    return json.loads((out / "manifest.json").read_text())


@pytest.fixture(scope="module")
def bf16(spec, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("artifacts") / "torch-bf16"
    return out, convert(spec("bf16"), out)


# --- a good artifact ------------------------------------------------------------------------------------------------


def test_manifest_names_every_file_and_its_digest(bf16):
    folder, manifest = bf16
    assert manifest["outcome"] == {"status": "ok", "reason": None, "stage": "convert", "attempt": 0}
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert {file["path"] for file in manifest["files"]} == on_disk
    for file in manifest["files"]:
        content = (folder / file["path"]).read_bytes()
        assert file["bytes"] == len(content)
        assert file["sha256"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert manifest["artifact_bytes"] == sum(file["bytes"] for file in manifest["files"])
    assert manifest["build_s"] > 0 and manifest["peak_memory_bytes"] > 1e8
    assert manifest["versions"]["torch"].startswith("2.") and manifest["versions"]["python"].startswith("3.11")


def test_bf16_weights_and_operators_are_bf16(bf16, model):
    folder, manifest = bf16
    parity, counted = manifest["parity"], manifest["census"]
    assert 1e-4 < parity["denoiser_relative_error"] < 0.03 and parity["passed"]
    assert list(counted["weights"]) == list(counted["operators"]) == ["bfloat16"]
    assert counted["engaged"] and counted["graph_breaks"] is None
    stored = (folder / "unet" / "weights.safetensors").stat().st_size
    original = (Path(model["path"]) / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert stored < 0.6 * original


# --- broken conversions ---------------------------------------------------------------------------------------------


BROKEN = {
    "reinitialised unet": ("fp32", "differs from the FP32 original: denoiser relative error"),
    "reinitialised text_encoder": ("fp32", "differs from the FP32 original: image PSNR"),
    "reinitialised vae": ("fp32", "differs from the FP32 original: image PSNR"),
    "overflow": ("fp32", "the output is not finite"),
    "quantised nothing": ("int8", "the optimisation is not engaged: only 0 of"),
    "quantised one layer": ("int8", "the optimisation is not engaged: only 1 of"),
    "kept fp32": ("bf16", "the optimisation is not engaged: only 0 of"),
    "dies": ("fp32", "crashed with signal 11 (SIGSEGV)"),
    "runs out of memory": ("fp32", "MemoryError"),
    "hangs": ("fp32", "did not end within its time limit of 0.5 s"),
}


FP16 = "fp16 on any processor"


@pytest.fixture(scope="module")
def broken(spec, tmp_path_factory) -> Path:
    """A folder with a folder for each conversion that was broken, and for FP16, which is whole."""
    folder = tmp_path_factory.mktemp("broken")
    limits_s = {"hangs": 0.5}
    jobs = [
        (kind, spec(precision, timeout_s=limits_s.get(kind, 60), attempt=2), str(folder / kind))
        for kind, (precision, _) in {**BROKEN, FP16: ("fp16", None)}.items()
    ]
    run_in_torch(HELPERS / "sabotage.py", json.dumps(jobs))
    return folder


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_conversion_is_failed_and_leaves_no_files(kind, broken):
    manifest = json.loads((broken / kind / "manifest.json").read_text())
    assert manifest["outcome"]["status"] == "failed" and manifest["outcome"]["attempt"] == 2
    assert BROKEN[kind][1] in manifest["outcome"]["reason"]
    assert [p.name for p in (broken / kind).iterdir()] == ["manifest.json"]
    assert manifest["files"] == [] and manifest["artifact_bytes"] is None


def test_what_was_found_out_about_a_broken_conversion_is_kept(broken):
    differs = json.loads((broken / "reinitialised unet" / "manifest.json").read_text())
    idle = json.loads((broken / "quantised nothing" / "manifest.json").read_text())
    assert differs["parity"]["denoiser_relative_error"] > 0.1 and differs["build_s"] > 0
    assert idle["parity"]["passed"] and idle["census"]["operators"].keys() == {"float32"}


def test_weights_that_the_library_made_up_are_caught(spec, model, tmp_path):
    """A text encoder whose weights have names that transformers does not know: it initialises new ones and goes on."""
    broken = tmp_path / "broken"
    shutil.copytree(model["path"], broken)
    weights = broken / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b".layers.", b".blocks."))  # names stand in its JSON header
    manifest = convert(spec(model={**model, "path": str(broken)}), tmp_path / "out")
    assert manifest["outcome"]["status"] == "failed"
    assert "text_encoder:" in manifest["outcome"]["reason"] and "were made up" in manifest["outcome"]["reason"]


def test_fp16_weights_and_operators_are_fp16_where_the_processor_has_kernels(broken):
    """Where it has none, as here perhaps, PyTorch computes the tiny model in scalar code."""
    manifest = json.loads((broken / FP16 / "manifest.json").read_text())
    assert manifest["outcome"]["status"] == "ok", manifest["outcome"]["reason"]
    parity, counted = manifest["parity"], manifest["census"]
    assert parity["passed"] and 1e-5 < parity["denoiser_relative_error"] < LIMITS["fp16"]["denoiser_relative_error"]
    assert list(counted["weights"]) == list(counted["operators"]) == ["float16"] and counted["engaged"]


def test_fp16_without_kernels_for_it_is_unsupported(spec, tmp_path):
    """Emulated, it took forty times fp32's time; oneDNN is told to take the processor for an older one."""
    manifest = convert(spec("fp16"), tmp_path / "out", ONEDNN_MAX_CPU_ISA="AVX2")
    assert manifest["outcome"]["status"] == "unsupported"
    assert "no fp16 convolution for this processor" in manifest["outcome"]["reason"]


def test_compile_without_a_compiler_is_unsupported(spec, tmp_path):
    manifest = convert(spec(compile=True), tmp_path / "out", CXX="/nowhere/g++")
    assert manifest["outcome"]["status"] == "unsupported"
    assert "/nowhere/g++ was not found" in manifest["outcome"]["reason"]


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images_spec(spec, suite):
    def make(**changes) -> dict:
        base = spec("bf16")
        variant = {"name": "bf16", "scheduler": "dpm++", "steps": 2, "guidance": 3.0}
        wanted = {"suite": {"path": str(suite), "digest": "abc"}, "images": 6, "seed": 40, "batch": 4}
        return {"model": base["model"], "artifact": base["artifact"], "variant": variant, **wanted, **changes}

    return make


def make_images(spec: dict, artifact: Path, out: Path, *options) -> dict:
    program = PROJECT / "scripts" / "generate_images.py"
    run_in_torch(program, "--spec", json.dumps(spec), "--artifact", artifact, "--out", out / "images.json", *options)
    return json.loads((out / "images.json").read_text())


def test_images_have_prompts_seeds_and_digests_whatever_the_batch(images_spec, bf16, tmp_path):
    fours = make_images(images_spec(), bf16[0], tmp_path / "fours")
    ones = make_images(images_spec(batch=1), bf16[0], tmp_path / "ones")
    assert fours["outcome"]["status"] == "ok" and fours["suite"] == {
        "name": "letters",
        "digest": "abc",
        **fours["suite"],
    }
    assert [i["seed"] for i in fours["images"]] == fours["seeds"] == [40, 41, 42, 43, 44, 45]
    assert [i["prompt_id"] for i in fours["images"]] == ["p000", "p001", "p002", "p003", "p000", "p001"]
    assert [i["prompt"] for i in fours["images"]][:2] == ["a b c", "d e f"]
    assert fours["images"][4]["file"] == "images/p000-44.png"
    assert fours["seconds"] > 0
    for four, one in zip(fours["images"], ones["images"], strict=True):
        path = tmp_path / "fours" / four["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == four["sha256"] and four["finite"]
        difference = np.asarray(Image.open(path), int) - np.asarray(Image.open(tmp_path / "ones" / one["file"]), int)
        assert np.abs(difference).max() <= 2  # bf16 rounds differently in another batch


def test_variants_of_one_artifact_have_their_images_from_one_pipeline(images_spec, bf16, tmp_path):
    shared, specs = tmp_path / "shared", {}
    for steps, name in ((2, "two"), (1, "one")):
        variant = {"name": name, "scheduler": "ddim", "steps": steps, "guidance": 3.0}
        specs[name] = images_spec(variant=variant, attempt=steps)
    jobs = [sharing.job_of("images", spec, str(tmp_path / name), ["code"]) for name, spec in specs.items()]
    sharing.note_jobs("images", jobs, shared)
    (tmp_path / "one" / "images").mkdir(parents=True)  # of an earlier run
    (tmp_path / "one" / "images" / "p009-9.png").write_bytes(b"")

    two = make_images(specs["two"], bf16[0], tmp_path / "two", "--shared", shared)
    assert not (tmp_path / "one" / "images.json").exists()  # Snakemake has not started it
    one = make_images(specs["one"], bf16[0], tmp_path / "one", "--shared", shared)
    assert one["load_s"] == two["load_s"]  # one pipeline
    assert [document["outcome"]["attempt"] for document in (two, one)] == [2, 1]
    assert not list((shared / "images" / "done").iterdir())

    alone = make_images(specs["one"], bf16[0], tmp_path / "alone")
    digests = [[image["sha256"] for image in document["images"]] for document in (alone, one, two)]
    assert alone["load_s"] != one["load_s"] and digests[0] == digests[1] != digests[2]
    found = {path.name for path in (tmp_path / "one" / "images").iterdir()}
    assert found == {Path(image["file"]).name for image in one["images"]}


def test_images_of_a_failed_artifact_hand_its_reason_on(images_spec, tmp_path):
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    outcome = {"status": "unsupported", "reason": "no such kernel", "stage": "convert", "attempt": 0}
    (artifact / "manifest.json").write_text(json.dumps({"outcome": outcome}))
    document = make_images(images_spec(attempt=1), artifact, tmp_path / "out")
    assert document["outcome"] == {
        "status": "unsupported",
        "reason": "convert: no such kernel",
        "stage": "images",
        "attempt": 1,
    }
    assert document["images"] == []


def test_export_that_failed_fails_the_artifact(spec, tmp_path):
    onnx = tmp_path / "onnx"
    onnx.mkdir()
    outcome = {"status": "failed", "reason": "out of memory", "stage": "export", "attempt": 0}
    (onnx / "manifest.json").write_text(json.dumps({"outcome": outcome}))
    program = PROJECT / "scripts" / "convert.py"
    run_in_torch(program, "--spec", json.dumps(spec()), "--onnx", onnx, "--out", tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["outcome"]["status"] == "failed"
    assert manifest["outcome"]["reason"] == "export: out of memory"


# --- traces ---------------------------------------------------------------------------------------------------------


def test_a_trace_says_which_operators_run_and_that_nsys_is_absent(spec, suite, bf16, tmp_path):
    variant = {"name": "bf16", "scheduler": "ddim", "steps": 2, "guidance": 3.0}
    variant["batching"] = {"max_batch": 3, "max_wait_ms": 5}
    wanted = {**spec("bf16"), "target": {"name": "local"}, "variant": variant, "prompts": {"path": str(suite)}}
    program, out = PROJECT / "scripts" / "trace.py", tmp_path / "trace.json"
    search = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "nsys").exists())
    run_in_torch(program, "--spec", json.dumps(wanted), "--artifact", bf16[0], "--out", out, PATH=search)
    document = json.loads(out.read_text())
    torch, nsys = document["profilers"]["torch"], document["profilers"]["nsys"]
    assert document["outcome"]["status"] == "ok" and document["images"] == 3
    names = {row["operator"] for row in torch["operators"]}
    assert {"aten::mkldnn_convolution", "aten::addmm"} <= names
    assert torch["traced_s"] > 0 and torch["plain_s"] > 0
    assert nsys["outcome"]["status"] == "unsupported" and "not on the PATH" in nsys["outcome"]["reason"]
    assert nsys["operators"] == [] and nsys["traced_s"] is None
    folder = tmp_path / "trace"
    assert sorted(p.name for p in folder.iterdir()) == ["operators.csv", "operators.json", "torch.json.gz"]
    assert (folder / "operators.csv").read_text().splitlines()[0] == "operator,calls,total_s,share"
    assert json.loads((folder / "operators.json").read_text())["operators"] == torch["operators"]


# --- pipelines ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probes(model) -> dict:
    return json.loads(run_in_torch(HELPERS / "probes.py", model["path"]).stdout)


def test_images_equal_those_of_diffusers_own_call(probes):
    assert len(probes["stock"]) == 8 and set(probes["stock"].values()) == {0}


def test_images_do_not_depend_on_the_batch(probes):
    assert probes["batch"] <= 1


def test_clocks_add_up(probes):
    clocks = probes["clocks"]
    assert clocks["steps"] == 5 and all(part > 0 for part in clocks["parts_s"])
    assert 0.5 * clocks["total_s"] < sum(clocks["parts_s"]) <= clocks["total_s"]


def test_work_on_a_gpu_is_timed_there_with_one_synchronisation(probes):
    """By a stand-in for its events; no test here has seen a GPU."""
    assert probes["gpu"] == {"between_s": [0.25, 0.5], "synchronised": 1}


def test_both_halves_of_guidance_run_in_one_call(probes):
    assert probes["calls"] == [[2, 4, 8, 8]] * 3


def test_requests_that_cannot_be_made_together_are_refused(probes):
    assert probes["mixed"] == "the requests of one batch differ in steps"
    assert probes["empty"] == "a batch needs at least one request"
    assert "known schedulers: ddim, dpm++, unipc, euler" in probes["scheduler"]


def test_quantisation_library_is_not_loaded_without_need(probes):
    assert probes["torchao"] is False


def test_changed_weights_are_in_none_of_the_files(probes):
    assert probes["made_up"] == [[], ["decoder.conv_in.bias"]]


# --- census ---------------------------------------------------------------------------------------------------------


def artifact_of(precision: str, compile: bool = False) -> dict:
    return {"engine": "torch", "precision": precision, "compile": compile}


@pytest.mark.parametrize(
    "precision, operators, engaged",
    [
        ("fp32", {"float32": 9}, True),
        ("fp32", {"float32": 8, "bfloat16": 1}, False),
        ("bf16", {"bfloat16": 8, "float32": 1}, True),
        ("bf16", {"bfloat16": 4, "float32": 4}, False),
        ("fp16", {"float32": 9}, False),
        ("int8", {"float32": 41, "int8": 50}, True),
        ("int8", {"float32": 8, "int8": 1}, False),
        ("int8", {"float32": 9}, False),
        ("int8", {}, False),
    ],
)
def test_engagement_is_judged_by_the_executed_operators(precision, operators, engaged):
    judged = census.judge(
        artifact_of(precision), weights={}, operators=operators, providers=["cpu"], expected_provider="cpu"
    )
    assert judged.engaged is engaged


def test_another_provider_or_code_that_was_not_compiled_is_not_engaged():
    facts = {"weights": {}, "operators": {"float32": 3}}
    elsewhere = census.judge(artifact_of("fp32"), **facts, providers=["cpu"], expected_provider="cuda")
    eager = census.judge(
        artifact_of("fp32", compile=True), **facts, providers=["cpu"], expected_provider="cpu", compiled_calls=0
    )
    assert not elsewhere.engaged and elsewhere.detail == "cuda is not among the providers that ran (cpu)"
    assert not eager.engaged and eager.detail == "no compiled code ran"


def test_names_of_dtypes_are_one():
    assert census.count_dtypes(["f32", "torch.float32", "u8", "i8", "BF16"]) == {"float32": 2, "int8": 2, "bfloat16": 1}


def event(name: str, start: float, duration: float, *types: str, thread: int = 1) -> dict:
    return {"ph": "X", "name": name, "ts": start, "dur": duration, "tid": thread, "args": {"Input type": types}}


def test_only_innermost_operators_are_counted():
    events = [
        event("aten::linear", 0, 10, "float"),
        event("aten::addmm", 2, 5, "float"),
        event("aten::silu", 11, 1, "float"),
        event("aten::linear", 20, 10, "float"),
        event("aten::_int_mm", 22, 2, "signed char", "signed char"),
        event("aten::conv2d", 0, 40, "c10::BFloat16", thread=2),
    ]
    found = innermost_compute(events)
    assert [e["name"] for e in found] == ["aten::addmm", "aten::_int_mm", "aten::conv2d"]
    assert [compute_dtype(e) for e in found] == ["float32", "int8", "bfloat16"]


def test_unknown_engine_is_named():
    with pytest.raises(ValueError, match="unknown engine 'tvm'; known engines: torch, onnxruntime, openvino"):
        load_engine("tvm")
