"""Untrusted input: model folders, configs, images. Refused in one line, or harmless."""

import copy
import io
import json
import os
import string
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import mutations
from conftest import PROJECT
from diffsweep.engines import sources
from diffsweep.quality.manifests import image_set, read_image
from diffsweep.sweep.documents import ConfigError, read_yaml
from diffsweep.sweep.files import digest_file
from diffsweep.sweep.outcomes import Failed
from diffsweep.sweep.plan import make_plan

# --- models ---------------------------------------------------------------------------------------------------------

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
}


@pytest.fixture
def model(tmp_path) -> Path:
    """A folder that has the looks of a model that is safe to load."""
    folder = tmp_path / "model"
    for component in ("text_encoder", "unet", "vae"):
        (folder / component).mkdir(parents=True)
        (folder / component / "model.safetensors").touch()
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    return folder


def plan_with(folder: Path) -> dict:
    config = copy.deepcopy(mutations.SMOKE)
    config["models"] = {"mine": {"path": str(folder), "width": 64, "height": 64}}
    return make_plan(config)


def test_a_model_of_safetensors_is_taken(model):
    (model / "unet" / "pytorch_model.bin").touch()  # beside safetensors it is never read
    assert plan_with(model)["models"]["mine"]["path"] == str(model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused(model, name):
    (model / "unet" / "model.safetensors").rename(model / "unet" / name)
    with pytest.raises(ConfigError, match=f"models.mine.path.*unet are pickled .{name}.*safe_serialization"):
        plan_with(model)


@pytest.mark.parametrize(
    "changed",
    [{"unet": ["my_unet", "MyUNet"]}, {"_class_name": ["my_pipeline", "MyPipeline"]}, {"tokenizer": ["../x", "Y"]}],
)
def test_code_that_comes_with_a_model_is_refused(model, changed):
    (model / "model_index.json").write_text(json.dumps(INDEX | changed))
    with pytest.raises(ConfigError, match="comes with code of its own.*never run"):
        plan_with(model)


@pytest.mark.parametrize("inside", ["unet/secret.safetensors", "linked"])
def test_a_symbolic_link_out_of_a_model_is_refused(model, tmp_path, inside):
    (tmp_path / "elsewhere").mkdir()
    (model / inside).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"{inside} is a symbolic link out of the folder"):
        plan_with(model)


def test_a_symbolic_link_inside_a_model_is_taken(model):
    (model / "unet" / "copy.safetensors").symlink_to(model / "vae" / "model.safetensors")
    plan_with(model)


@pytest.mark.parametrize("index", ["", "[]", "{", "\x00"])
def test_a_broken_model_index_is_one_line(model, index):
    (model / "model_index.json").write_text(index)
    with pytest.raises(ConfigError, match="model_index.json"):
        plan_with(model)


@pytest.mark.parametrize("names, words", [(["pytorch_model.bin"], "are pickled"), (["config.json"], "are not there")])
def test_a_hub_model_without_safetensors_is_refused(model, monkeypatch, names, words):
    """Only safetensors are fetched, so pickled weights would not even be there."""
    assert all(name.endswith((".json", "/*", ".safetensors")) for name in (*sources.HUB_FILES, *sources.HUB_WEIGHTS))
    (model / "unet" / "model.safetensors").unlink()
    for name in names:
        (model / "unet" / name).touch()
    monkeypatch.setattr(sources, "_fetch", lambda hub, revision: model)
    with pytest.raises(Failed, match=f"the weights of unet {words}"):
        sources.source_of({"name": "theirs", "hub": "some/model", "revision": "0" * 40})


def test_a_hub_models_code_is_not_run(model, monkeypatch):
    (model / "model_index.json").write_text(json.dumps(INDEX | {"unet": ["my_unet", "MyUNet"]}))
    monkeypatch.setattr(sources, "_fetch", lambda hub, revision: model)
    with pytest.raises(Failed, match="never run"):
        sources.source_of({"name": "theirs", "hub": "some/model", "revision": "0" * 40})


# --- images ---------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """The head of a PNG of that size with no pixels in it: what a bomb looks like before it is unpacked."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    text = b"Comment\0\0" + zlib.compress(bytes(8_000_000), 9)
    blocks = chunk(b"IHDR", head), chunk(b"zTXt", text), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(blocks)


def small_png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    return content.getvalue()


def read(folder: Path, content: bytes, name: str = "images/x.png"):
    path = folder / "images" / "x.png"
    path.parent.mkdir()
    path.write_bytes(content)
    entry = {"file": name, "sha256": digest_file(path), "prompt_id": "p000", "prompt": "", "seed": 0}
    return read_image(image_set({"images": [entry], "suite": {}}, folder / "images.json"), entry)


BOMBS = {
    "13 gigabytes": png(60_000, 60_000),
    "larger than a config allows": png(12_000, 12_000),
    "a comment of 8 megabytes": png(8, 8),
    "another kind": b"GIF89a",
    "truncated": small_png()[:36],
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_bomb_in_an_images_place_is_a_defect(tmp_path, content):
    assert read(tmp_path, content) is None


def test_an_image_is_read(tmp_path):
    assert read(tmp_path, small_png()).shape == (8, 8, 3)


def test_an_image_outside_of_the_results_is_refused(tmp_path):
    cell = tmp_path / "cell"
    cell.mkdir()
    (tmp_path / "secret.png").write_bytes(small_png())
    with pytest.raises(Failed, match="outside of its folder"):
        read(cell, small_png(), "../secret.png")


# --- configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["..", "../x", "/etc", "a/b", "a\\b", ".hidden", "", "a" * 65, "a\nb", "~", "-rf", "é"]
)
@pytest.mark.parametrize("place", ["sweep", "models", "variants"])
def test_a_name_that_would_leave_the_results_is_refused(place, name):
    config = copy.deepcopy(mutations.SMOKE)
    if place == "sweep":
        config["sweep"] = name
    elif place == "models":
        config["models"] = {name: config["models"]["reference"]}
    else:
        config["variants"][name] = {"parent": "fp32", "steps": 3}
    with pytest.raises(ConfigError, match="plain word"):
        make_plan(config)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip(string.ascii_lowercase, string.ascii_lowercase[1:12], strict=False)
)


@pytest.mark.parametrize(
    "text", [LAUGHS, "&x [*x]", "", "a", "[" * 20_000, "? [a]\n: b", "a: !!python/name:os.system", "!!binary aGk=: 1"]
)
def test_yaml_that_is_not_plain_data_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        make_plan(read_yaml(path))
    assert "\n" not in str(caught.value)


def test_a_thousand_generations_are_refused_in_one_line():
    config = copy.deepcopy(mutations.SMOKE)
    for number in range(2, 1000):
        config["variants"][f"v{number}"] = {"parent": f"v{number - 1}" if number > 2 else "fp32", "steps": number}
    config["variants"] = dict(reversed(config["variants"].items()))
    with pytest.raises(ConfigError, match="generations"):
        make_plan(config)


EXAMPLES = int(os.environ.get("DIFFSWEEP_FUZZ", "1000"))  # tests/long asks for more
ALL_HEALTH_CHECKS = list(HealthCheck)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=ALL_HEALTH_CHECKS)
@given(data=st.data())
def test_no_broken_config_shows_a_traceback(data):
    mutations.check_config(data.draw)


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=ALL_HEALTH_CHECKS)
@given(data=st.data())
def test_no_broken_file_shows_a_traceback(tmp_path_factory, data):
    mutations.check_files(data.draw, tmp_path_factory.getbasetemp())


def test_the_reports_page_forbids_everything_from_outside():
    page = (PROJECT / "scripts/diffsweep/show/report.html.j2").read_text()
    assert "default-src 'none'" in page and "safe }}" not in page
