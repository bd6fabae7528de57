"""scripts/generate_images.py keeps the images that a full run would make again, and makes the others."""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import generate_images
from diffsweep import engines
from diffsweep.sweep.outcomes import Outcome
from generate_images import Earlier, Part, make_images, origin, read_earlier

PROMPTS = [f"prompt {n}" for n in range(7)]
ORIGIN = "0123456789abcdef"


@pytest.fixture
def batches(monkeypatch) -> list[list[int]]:
    """The batches that a pipeline is asked for; its images depend on the batch, as real ones do."""
    asked: list[list[int]] = []

    def sample(_pipeline, requests):
        asked.append([request.seed for request in requests])
        return [np.full((4, 4, 3), (r.seed * 7 + len(requests)) % 50 / 50) for r in requests], None

    fake = SimpleNamespace(
        sample=sample, ImageRequest=SimpleNamespace, to_uint8=lambda image: (image * 255).astype(np.uint8)
    )
    monkeypatch.setitem(sys.modules, "diffsweep.engines.pipelines", fake)
    return asked


def spec(images: int, **changes) -> dict:
    variant = {"name": "v", "scheduler": "ddim", "steps": 2, "guidance": 3.0}
    model = {"name": "m", "width": 4, "height": 4}
    return {"model": model, "variant": variant, "images": images, "seed": 100, "batch": 4, **changes}


def run(folder, wanted: dict, prompts=PROMPTS, earlier: Earlier | None = None) -> tuple[dict[str, bytes], list[bool]]:
    """The PNGs of a run into `folder`/images by name, and which of them were kept."""
    images = folder / "images"
    images.mkdir(parents=True)
    made = list(make_images(None, wanted, prompts, images, earlier or Earlier(folder, ORIGIN)))
    (folder / "images.made.json").write_text(json.dumps({"origin": ORIGIN, "images": [entry for entry, _ in made]}))
    return {path.name: path.read_bytes() for path in images.glob("*.png")}, [kept for _, kept in made]


@pytest.mark.parametrize(("before", "after", "kept"), [(8, 12, 8), (10, 18, 8), (10, 10, 10), (12, 6, 4), (3, 4, 0)])
def test_a_grown_set_is_what_a_full_run_makes(tmp_path, batches, before, after, kept):
    run(tmp_path / "before", spec(before))
    earlier = read_earlier(tmp_path / "before", ORIGIN)
    batches.clear()
    grown, which = run(tmp_path / "grown", spec(after), earlier=earlier)
    assert sum(which) == kept and which[:kept] == [True] * kept
    assert [seed for batch in batches for seed in batch] == [100 + i for i in range(kept, after)]
    assert grown == run(tmp_path / "full", spec(after))[0]


def test_every_image_names_the_run_that_made_it(tmp_path, batches, monkeypatch):
    def finish(name: str, images: int, folder, earlier: Earlier) -> list[str]:
        """The runs of the images of a job in the run `name`, as images.json tells them."""
        monkeypatch.setenv("DIFFSWEEP_RUN", name)
        wanted = spec(images, suite={"path": "p.yaml"})
        (folder / "images").mkdir(parents=True)
        made = [entry for entry, _ in make_images(None, wanted, PROMPTS, folder / "images", earlier)]
        Part(wanted, folder, earlier, {}).finish(Outcome("ok", None, "images"), {"images": made})
        document = json.loads((folder / "images.json").read_text())
        assert document["run"] == name
        return [entry["run"] for entry in document["images"]]

    assert finish("first", 8, tmp_path / "a", Earlier(tmp_path, ORIGIN)) == ["first"] * 8
    assert finish("second", 12, tmp_path / "b", read_earlier(tmp_path / "a", ORIGIN)) == ["first"] * 8 + ["second"] * 4
    third = finish("third", 14, tmp_path / "c", read_earlier(tmp_path / "b", ORIGIN))
    assert third == ["first"] * 8 + ["second"] * 4 + ["third"] * 2


def test_what_breaks_a_pipeline_costs_no_images_that_were_made_before(tmp_path, batches, monkeypatch):
    """The second of two variants brings the pipeline down that they share."""
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(json.dumps({"name": "seven", "prompts": PROMPTS}))
    wanted = spec(8, suite={"path": str(prompts)}, artifact={"engine": "fake"})
    wanted["model"]["path"] = "resources/reference-model"
    intact, broken = Earlier(tmp_path, None), None
    parts = [Part(wanted, tmp_path / name, found, {}) for name, found in (("a", intact), ("b", broken), ("c", intact))]
    monkeypatch.setattr(engines, "load_engine", lambda _: SimpleNamespace(load=lambda *_: None))
    outcome = generate_images.supervise(parts, tmp_path)
    assert "NoneType" in outcome.reason and [part.finished for part in parts] == [True, False, False]
    assert len(json.loads((tmp_path / "a" / "images.json").read_text())["images"]) == 8
    assert len(list((tmp_path / "a" / "images").glob("*.png"))) == 8
    assert not list(tmp_path.glob("*/.images.*"))


def test_threads_that_wait_leave_their_core_to_others(tmp_path, batches, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)

    def load(*_):
        (tmp_path / "told").write_text(os.environ["GOMP_SPINCOUNT"])

    monkeypatch.setattr(engines, "load_engine", lambda _: SimpleNamespace(load=load))
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(json.dumps({"name": "none", "prompts": PROMPTS}))
    wanted = spec(0, suite={"path": str(prompts)}, artifact={"engine": "fake"})
    wanted["model"]["path"] = "resources/reference-model"
    assert generate_images.supervise([Part(wanted, tmp_path, Earlier(tmp_path, None), {})], tmp_path).ok
    assert (tmp_path / "told").read_text() == "1000"


def test_another_origin_keeps_nothing(tmp_path, batches):
    run(tmp_path / "before", spec(8))
    assert read_earlier(tmp_path / "before", "f" * 16).images == ()
    assert read_earlier(tmp_path / "before", None).images == ()
    assert read_earlier(tmp_path / "nowhere", ORIGIN).images == ()


def test_other_prompts_and_damaged_files_are_made_anew(tmp_path, batches):
    run(tmp_path / "before", spec(12))
    earlier = read_earlier(tmp_path / "before", ORIGIN)
    (tmp_path / "before" / "images" / "p001-101.png").write_bytes(b"cut off")
    prompts = [*PROMPTS[:5], "another", PROMPTS[6]]  # image 5, and 12 if there were one
    grown, which = run(tmp_path / "grown", spec(12), prompts, earlier)
    assert which == [False] * 8 + [True] * 4
    assert grown == run(tmp_path / "full", spec(12), prompts)[0]


def test_everything_that_makes_an_image_is_part_of_its_origin(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    wanted = spec(8, artifact={"engine": "torch", "threads": 2})
    first = origin(wanted, tmp_path, "code")
    assert first == origin({**wanted, "images": 99, "seed": 1, "attempt": 3}, tmp_path, "code")
    assert origin(wanted, tmp_path, None) is None
    assert first != origin(wanted, tmp_path, "other code")
    assert first != origin({**wanted, "batch": 5}, tmp_path, "code")
    (tmp_path / "manifest.json").write_text("{ }")
    assert first != origin(wanted, tmp_path, "code")
