"""Scores against independent computations, known truth and known damage; images that must not be compared."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.linalg
from PIL import Image, ImageFilter

import synthetic
from diffsweep.quality import defects, frechet, manifests
from diffsweep.sweep import sharing
from diffsweep.sweep.outcomes import Failed
from simulation import default_of, each, nominal

PROJECT = Path(__file__).resolve().parents[1]
COUNT = 40


def in_scoring(*command: str | Path) -> subprocess.CompletedProcess:
    """Run a program of the project in the scoring environment."""
    whole = [sys.executable, PROJECT / "scripts" / "in_env", "scoring", "python", *command]
    return subprocess.run(whole, cwd=PROJECT, text=True, capture_output=True)


# --- the Frechet distance ---


def gaussians(rng: np.random.Generator, n: int, features: int, *, shift: float, scale: float, common: float = 0.0):
    """(ours, reference, true squared distance): samples that share `common` of their variance pair by pair."""
    spread = np.exp(-1.5 * np.arange(features) / features)
    prompt = np.sqrt(common) * rng.standard_normal((n, features))
    ours, theirs = (prompt + np.sqrt(1 - common) * rng.standard_normal((n, features)) for _ in range(2))
    ours = ours * spread * scale
    ours[:, 0] += shift
    return ours, theirs * spread, shift**2 + (((scale - 1) * spread) ** 2).sum()


def test_distance_agrees_with_scipys_matrix_square_root():
    ours, theirs, _ = gaussians(np.random.default_rng(1), 100, 12, shift=1.0, scale=1.3)
    a, b = np.cov(ours, rowvar=False), np.cov(theirs, rowvar=False)
    expected = ((ours.mean(0) - theirs.mean(0)) ** 2).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet.squared_distance(frechet.moments(ours), frechet.moments(theirs)) == pytest.approx(expected)


def test_distance_of_known_gaussians():
    """N(0, 1) and N(3, 4) in each of two dimensions: 2 x (3^2 + (2 - 1)^2)."""
    a = frechet.Moments(np.zeros(2), np.eye(2))
    b = frechet.Moments(np.full(2, 3.0), 4 * np.eye(2))
    assert frechet.squared_distance(a, b) == pytest.approx(20.0)
    assert frechet.squared_distance(b, a) == pytest.approx(20.0)
    assert frechet.squared_distance(a, a) == pytest.approx(0.0)


IMAGES = default_of("quality", "images")


@pytest.mark.parametrize(("features", "common", "tries"), [(48, 0.7, 250), (16, 0.0, 600), (16, 0.5, 600)])
def test_fid_intervals_cover(features, common, tries):
    """The plain interval its mean at this n, the corrected one the true distance, biased as the plain one is. (More
    tries, within tighter bounds: tests/long/test_coverage.py.)"""
    rng, found = np.random.default_rng(2), []
    for _ in range(tries):
        ours, theirs, truth = gaussians(rng, IMAGES, features, shift=1.0, scale=1.1, common=common)
        found.append(frechet.distance(ours, theirs, each(IMAGES)))
    mean = np.mean([d.value for d in found])
    least, most = nominal(tries)
    assert least <= np.mean([d.low <= mean <= d.high for d in found]) <= most
    assert least <= np.mean([d.corrected_low <= truth <= d.corrected_high for d in found]) <= most
    assert mean > 1.1 * truth
    assert np.mean([d.corrected for d in found]) == pytest.approx(truth, rel=0.12)


@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_fid_difference_is_covered(noise):
    """FID(variant) - FID(baseline) of images that are the baseline's and some noise: its mean at this n."""
    rng, found, tries = np.random.default_rng(3), [], 350
    for _ in range(tries):
        baseline, reference, _ = gaussians(rng, IMAGES, 12, shift=1.0, scale=1.1, common=0.5)
        variant = baseline + noise * rng.standard_normal(baseline.shape)
        found.append(frechet.difference(variant, baseline, reference, each(IMAGES)))
    mean, (least, most) = np.mean([d.value for d in found]), nominal(tries)
    assert least <= np.mean([d.low <= mean <= d.high for d in found]) <= most


def test_jackknife_of_a_mean_is_the_textbooks():
    """Its variance is s^2 / n, its bias nothing; for the plug-in variance the bias is -s^2 / n."""
    values = np.random.default_rng(3).normal(size=30)
    mean = frechet.jackknife(lambda kept: values[kept].mean(), values.mean(), each(30))
    assert mean.variance == pytest.approx(values.var(ddof=1) / 30)
    assert mean.bias == pytest.approx(0, abs=1e-12)
    plug_in = frechet.jackknife(lambda kept: values[kept].var(), values.var(), each(30))
    assert plug_in.bias == pytest.approx(-values.var(ddof=1) / 30)


def test_paired_difference_is_narrower_than_the_distances():
    ours, reference, _ = gaussians(np.random.default_rng(4), 200, 16, shift=2.0, scale=1.1, common=0.5)
    baseline = ours + 0.05 * np.random.default_rng(5).standard_normal(ours.shape)
    difference = frechet.difference(ours, baseline, reference, each(200))
    alone = frechet.distance(ours, reference, each(200))
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)
    same = frechet.difference(ours, ours, reference, each(200))
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_prompts_are_deleted_whole():
    groups = frechet.deletion_groups([np.array([i, i + 100]) for i in range(100)], most=30)
    assert len(groups) == 30
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))
    assert all((i in group) == (i + 100 in group) for group in groups for i in range(100))


def test_floor_is_far_above_zero_and_falls_with_n():
    features = np.random.default_rng(6).standard_normal((800, 32))
    (small, n_small), (large, n_large) = frechet.floor(features, 100), frechet.floor(features, 400)
    assert (n_small, n_large) == (100, 400)
    assert small > 2 * large > 0
    assert frechet.floor(features, 5000)[1] == 400  # halves, when there are too few


# --- defects ---


def picture(index: int = 0, damage: float = 0.0) -> np.ndarray:
    return np.asarray(synthetic.draw(index, damage, np.random.default_rng(index)))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((64, 64, 3), np.uint8), "black"),
        (np.random.default_rng(1).integers(0, 8, (64, 64, 3), dtype=np.uint8), "black"),
        (np.full((64, 64, 3), (200, 30, 30), np.uint8), "constant"),
        (np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8), "noise"),
        (None, "unreadable"),
        (picture(0), None),
        (picture(1, damage=0.1), None),
    ],
)
def test_defects_are_told_from_pictures(image, expected):
    assert defects.defect_of(image, {}) == expected


def test_one_pixel_stripes_and_equal_greys_are_pictures():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    red_on_green = np.full((64, 64, 3), (0, 200, 0), np.uint8)
    red_on_green[16:48, 16:48] = (200, 0, 0)  # the mean of the channels is the same everywhere
    assert defects.defect_of(stripes, {}) is None
    assert defects.defect_of(red_on_green, {}) is None


def test_nan_is_known_from_the_generator():
    assert defects.defect_of(picture(), {"finite": False}) == "nan"
    assert defects.defect_of(picture(), {"finite": True}) is None


def test_the_reason_names_kinds_and_the_first_file():
    entries = [{"file": f"images/{i}.png"} for i in range(4)]
    summary = defects.summarise([None, "black", "nan", "black"], entries)
    assert summary["count"] == 3
    expected = "3 of 4 images are defective (2 black, 1 nan; first: images/1.png)"
    assert defects.reason(summary, 4) == expected


# --- images that belong together ---


def unchanged(image: np.ndarray, index: int) -> np.ndarray:
    return image


def write_set(folder: Path, damage=unchanged, count: int = COUNT, suite: str = "aa") -> Path:
    """Pictures and their images.json; `damage` may change each. Returns images.json."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for index in range(count):
        path = folder / "images" / f"{index:04d}-{index}.png"
        Image.fromarray(damage(picture(index, 0.02), index)).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        named = {"file": f"images/{path.name}", "prompt_id": f"{index:04d}", "prompt": synthetic.prompt_of(index)}
        entries.append({**named, "seed": index, "sha256": digest})
    names = {"model": "tiny", "target": "local", "variant": folder.name}
    outcome = {"status": "ok", "reason": None, "stage": "images", "attempt": 0}
    document = {**names, "outcome": outcome, "suite": {"name": "s", "digest": suite}, "images": entries}
    synthetic.write_json(folder / "images.json", document)
    return folder / "images.json"


def load_set(path: Path) -> manifests.ImageSet:
    return manifests.image_set(json.loads(path.read_text()), path)


def test_only_the_same_prompts_and_seeds_are_compared(tmp_path):
    ours, other = load_set(write_set(tmp_path / "a", count=3)), load_set(write_set(tmp_path / "b", count=3))
    manifests.check_comparable(ours, other)
    other.entries[1]["seed"] = 77
    with pytest.raises(Failed, match="0001-1.png has the seed 1, the baseline's .* 77"):
        manifests.check_comparable(ours, other)
    with pytest.raises(Failed, match="prompt suites differ"):
        manifests.check_comparable(ours, load_set(write_set(tmp_path / "c", count=3, suite="bb")))
    with pytest.raises(Failed, match="a has 3 images, the baseline d 2"):
        manifests.check_comparable(ours, load_set(write_set(tmp_path / "d", count=2)))


def test_an_image_that_was_exchanged_is_noticed(tmp_path):
    images = load_set(write_set(tmp_path / "a", count=2))
    shutil.copy(tmp_path / "a/images/0001-1.png", tmp_path / "a/images/0000-0.png")
    with pytest.raises(Failed, match="0000-0.png is not the image that was made"):
        manifests.read_image(images, images.entries[0])
    (tmp_path / "a/images/0001-1.png").unlink()
    with pytest.raises(Failed, match="0001-1.png is missing"):
        manifests.read_image(images, images.entries[1])


# --- in the scoring environment ---


@pytest.fixture(scope="module")
def scorers(tmp_path_factory) -> dict:
    """Small scorers with random weights in `folder`, and what several libraries say about the same pictures."""
    folder = tmp_path_factory.mktemp("scorers")
    write_set(folder / "baseline")
    done = in_scoring("tests/scoring_checks.py", folder)
    assert done.returncode == 0, done.stderr
    return {"folder": folder, **json.loads(done.stdout)}


def test_fid_agrees_by_four_roads(scorers):
    """torchmetrics on images (single precision) and on stored features, ours, and the formula with scipy's sqrtm."""
    found = scorers["fid"]
    assert found["torchmetrics, stored features"] == pytest.approx(found["scipy"], rel=1e-9)
    assert found["ours"] == pytest.approx(found["scipy"], rel=1e-9)
    assert found["torchmetrics, images"] == pytest.approx(found["scipy"], rel=1e-5)


def test_clip_score_per_image_agrees_with_torchmetrics_mean(scorers):
    found = scorers["clip"]
    assert found["per image"] == pytest.approx(found["from embeddings"], rel=1e-5)
    assert np.mean(found["per image"]) == pytest.approx(found["torchmetrics"], rel=1e-5)
    assert found["torchmetrics"] > 0
    assert found["truncated"] == 1


def test_ssim_and_psnr_agree_with_torchmetrics(scorers):
    found = scorers["fidelity"]
    assert np.mean(found["ssim"]) == pytest.approx(found["torchmetrics ssim"], rel=1e-5)
    assert found["psnr_db"][1:] == pytest.approx(found["torchmetrics psnr_db"], rel=1e-5)
    assert (found["ssim"][0], found["psnr_db"][0]) == (1.0, 100.0)
    assert found["equal"] == [True, False, False, False, False]


def score_spec(scorers: dict, name: str = "a", **changes) -> dict:
    return {
        "model": "reference",
        "target": "local",
        "variant": {"name": name},
        "fid": {"extractor": str(scorers["folder"] / "fid")},
        "clip": {"model": str(scorers["folder"] / "clip")},
        "classifier": None,
        "bootstrap": 500,
        "seed": 0,
        "margins": {"clip_score": 1.0},
        "attempt": 0,
        **changes,
    }


def run_score(scorers: dict, images: Path, baseline: Path, out: Path, *options, **changes) -> dict:
    """quality.json of scripts/score.py."""
    spec = {**score_spec(scorers, **changes), "timeout_s": 300}
    paths = ("--images", images, "--baseline", baseline, "--out", out)
    done = in_scoring("scripts/score.py", "--spec", json.dumps(spec), *paths, *options)
    assert done.returncode == 0, done.stderr
    assert (out / "features.npy").exists()
    assert (out / "scores.parquet").exists()
    return json.loads((out / "quality.json").read_text()) | {"stdout": done.stdout}


def blurred(image: np.ndarray, index: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(3))) if index else image


def test_a_blurred_variant_is_scored(scorers, tmp_path):
    baseline, ours = write_set(tmp_path / "fp32"), write_set(tmp_path / "blurred", blurred)
    quality = run_score(scorers, ours, baseline, tmp_path / "blurred")
    assert quality["outcome"]["status"] == "ok"
    assert quality["fid"]["low"] < quality["fid"]["value"] < quality["fid"]["high"]
    assert quality["fid"]["n"] == quality["images"] == COUNT
    assert quality["fid_floor"]["n"] == COUNT
    assert quality["fid_to_baseline"]["value"] > 0
    assert quality["clip_difference"]["margin"] == 1.0
    assert quality["identical"] == 1
    assert 0 < quality["ssim"]["p95_worst"] <= quality["ssim"]["median"] < 1
    table, features = pq.read_table(tmp_path / "blurred/scores.parquet"), np.load(tmp_path / "blurred/features.npy")
    assert table.num_rows == COUNT
    assert features.shape == (COUNT, 8)
    assert features.dtype == np.float32
    worst = quality["worst_pairs"][0]
    row = table.to_pylist()[int(np.argmin(table.column("ssim").to_pylist()))]
    assert (worst["file"], worst["ssim"]) == (row["file"], row["ssim"])
    assert np.mean(table.column("clip_score").to_pylist()) == pytest.approx(quality["clip_score"]["mean"])
    provenance = quality["provenance"]
    assert provenance["versions"]["torchmetrics"] == "1.9.0"
    assert provenance["weights"]["fid"].startswith("sha256:")
    assert (provenance["seeds"], provenance["suite"]["digest"]) == ([0, COUNT - 1], "aa")


def test_the_baseline_itself_has_no_difference(scorers):
    quality = scorers["baseline"]
    assert quality["clip_difference"] is None
    assert quality["fid_difference"] is None
    assert quality["fid_to_baseline"] is None
    assert quality["identical"] == COUNT
    assert quality["psnr_db"] == {"median": 100.0, "p95_worst": 100.0}


def test_defective_images_fail_the_variant_before_they_are_scored(scorers, tmp_path):
    def black(image, index):
        return image * 0 if index in (3, 9) else image

    ours = write_set(tmp_path / "int8", black)
    quality = run_score(scorers, ours, write_set(tmp_path / "fp32"), tmp_path / "int8")
    expected = f"2 of {COUNT} images are defective (2 black; first: images/0003-3.png)"
    assert quality["outcome"] == {"status": "failed", "reason": expected, "stage": "score", "attempt": 0}
    assert quality["defects"]["kinds"] == {"black": 2}
    assert "fid" not in quality
    kinds = pq.read_table(tmp_path / "int8/scores.parquet").column("defect").to_pylist()
    assert [i for i, kind in enumerate(kinds) if kind] == [3, 9]


def test_images_of_other_seeds_are_refused_in_one_line(scorers, tmp_path):
    ours, baseline = write_set(tmp_path / "a"), write_set(tmp_path / "fp32")
    ours.write_text(ours.read_text().replace('"seed": 5,', '"seed": 6,'))
    quality = run_score(scorers, ours, baseline, tmp_path / "a")
    assert quality["outcome"]["status"] == "failed"
    assert "only images of the same prompt and seed are compared" in quality["outcome"]["reason"]


def test_images_that_were_not_made_hand_their_reason_on(scorers, tmp_path):
    ours, baseline = write_set(tmp_path / "a"), write_set(tmp_path / "fp32")
    document = json.loads(ours.read_text())
    document |= {"images": [], "outcome": document["outcome"] | {"status": "unsupported", "reason": "no GPU"}}
    ours.write_text(json.dumps(document))
    quality = run_score(scorers, ours, baseline, tmp_path / "a")
    assert quality["outcome"] == {"status": "unsupported", "reason": "images: no GPU", "stage": "score", "attempt": 0}
    assert quality["stdout"] == "a: unsupported: images: no GPU\n"
    assert np.load(tmp_path / "a/features.npy").shape == (0, 0)


# --- several variants together ---


def noted_together(scorers: dict, folder: Path, **changes) -> dict[str, Path]:
    """The images.json of variants whose jobs are noted as the workflow does it: one blurred, one with black images, one
    that was not made, and the baseline itself."""
    damages = {"blurred": blurred, "dark": lambda image, index: image * (index != 3)}
    names = ("fp32", "blurred", "dark", "unmade")
    images = {name: write_set(folder / name, damages.get(name, unchanged)) for name in names}
    unmade = json.loads(images["unmade"].read_text())
    unmade |= {"images": [], "outcome": unmade["outcome"] | {"status": "failed", "reason": "no memory"}}
    images["unmade"].write_text(json.dumps(unmade))
    jobs = [
        sharing.job_of("score", score_spec(scorers, name, **changes), str(folder / name), ["code"]) for name in images
    ]
    sharing.note_jobs("score", jobs, folder / "shared")
    return images


def together(scorers: dict, images: dict[str, Path], name: str, **changes) -> dict:
    options = ("--processes", "2", "--shared", images[name].parents[1] / "shared")
    return run_score(scorers, images[name], images["fp32"], images[name].parent, *options, name=name, **changes)


def test_the_first_job_scores_all_that_have_its_baseline(scorers, tmp_path):
    images = noted_together(scorers, tmp_path)
    found = {name: together(scorers, images, name) for name in ("blurred", "fp32", "dark", "unmade")}
    assert [quality["outcome"]["status"] for quality in found.values()] == ["ok", "ok", "failed", "failed"]
    assert found["blurred"]["stdout"].count("\n") == 4  # one line for each of them
    for name in ("fp32", "dark", "unmade"):
        assert found[name]["stdout"] == f"{name}: scored before, together with others\n"
    assert not list((tmp_path / "shared" / "score" / "done").iterdir())
    for name, quality in found.items():
        alone = run_score(scorers, images[name], images["fp32"], tmp_path / "alone" / name, name=name)
        differing = {key for key in quality if quality[key] != alone[key]}
        assert differing <= {"run", "seconds", "stdout", "files"}, name
        for table in ("scores.parquet", "features.npy"):
            assert (tmp_path / name / table).read_bytes() == (tmp_path / "alone" / name / table).read_bytes()


def test_what_cannot_be_scored_together_is_scored_alone(scorers, tmp_path):
    """The scorers cannot be loaded, which every job then finds out and says for itself."""
    broken = {"classifier": str(tmp_path / "missing")}
    images = noted_together(scorers, tmp_path, **broken)
    found = {name: together(scorers, images, name, **broken) for name in ("blurred", "fp32", "dark")}
    assert "goes alone" in found["blurred"]["stdout"] and "goes alone" not in found["fp32"]["stdout"]
    for name in ("blurred", "fp32"):
        assert found[name]["outcome"]["status"] == "failed" and "missing" in found[name]["outcome"]["reason"]
    assert "scored before" in found["dark"]["stdout"]  # which needed no scorer


def test_a_wrong_spec_is_one_line(tmp_path):
    done = in_scoring("scripts/score.py", "--spec", "{", "--images", "x", "--baseline", "y", "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("score: ")
    assert done.stderr.count("\n") == 1
