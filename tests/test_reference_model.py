"""The model that ships: what its card and evaluation promise, and what its files hold. Read without torch."""

import json
from pathlib import Path

import pytest

from conftest import PROJECT
from reference import write_card

RESOURCES = PROJECT / "resources"
MODEL = RESOURCES / "reference-model"
MOST_BYTES = 30e6


def tensors_of(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """name -> (dtype, shape, content) of a safetensors file: the header's length in 8 bytes, the header, the data."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], content[slice(*(start + offset for offset in entry["data_offsets"]))])
        for name, entry in header.items()
    }


@pytest.fixture(scope="module")
def evaluation() -> dict:
    return json.loads((MODEL / "evaluation.json").read_text())


def test_all_weights_together_are_small_and_in_fp32(evaluation):
    paths = sorted(RESOURCES.rglob("*.safetensors"))
    sizes = {str(path.relative_to(RESOURCES)): path.stat().st_size for path in paths}
    assert sum(sizes.values()) <= MOST_BYTES
    assert {**sizes, "total": sum(sizes.values())} == evaluation["safetensors_bytes"]
    dtypes = {dtype for path in paths for dtype, _, _ in tensors_of(path).values()}
    assert dtypes <= {"F32", "F64", "I64"}  # statistics for FID are wider, and nothing is narrower


def test_the_text_encoder_is_the_text_tower_of_clip():
    clip = tensors_of(RESOURCES / "clip" / "model.safetensors")
    encoder = tensors_of(MODEL / "text_encoder" / "model.safetensors")
    assert encoder == {name: tensor for name, tensor in clip.items() if name.startswith("text_model.")}


def test_the_baselines_images_follow_their_prompts(evaluation):
    found = evaluation["default"]["baseline"]
    assert found["attributes_right"]["value"] >= 0.95
    assert found["all_right"]["value"] >= 0.90


def test_the_model_card_says_what_was_measured(evaluation):
    assert (MODEL / "README.md").read_text(encoding="utf-8") == write_card.render(evaluation)
