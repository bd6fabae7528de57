"""All scores of one variant's images: what CLIP, FID, the classifier and the comparison with the baseline say."""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffsweep.quality import clip, fid, fidelity, resampling
from diffsweep.quality.attributes import attribute_accuracy, load_classifier
from diffsweep.quality.features import load_extractor
from diffsweep.quality.manifests import ImageSet, read_image
from diffsweep.quality.tables import PerImage, write_scores
from diffsweep.sweep.files import digest_folder
from diffsweep.sweep.outcomes import Failed

BATCH = 25  # images in memory at once
LIBRARIES = ("torch", "torchmetrics", "transformers", "numpy", "scipy", "pillow")


@dataclass(frozen=True)
class Scorers:
    """The models that look at images. classifier: None where the model's world has none."""

    extractor: Any
    clip: clip.Clip
    classifier: Any


def load_scorers(spec: Mapping) -> Scorers:
    classifier = load_classifier(spec["classifier"]) if spec.get("classifier") else None
    return Scorers(load_extractor(spec["fid"]["extractor"]), clip.load_clip(spec["clip"]["model"]), classifier)


def batches(images: ImageSet) -> Iterator[tuple[slice, torch.Tensor]]:
    """(which, uint8 (n, 3, height, width)), in order. Raises Failed for sizes that differ or an unreadable file."""
    for start in range(0, len(images), BATCH):
        which = slice(start, start + BATCH)
        arrays = [read_image(images, entry) for entry in images.entries[which]]
        if any(array is None for array in arrays):
            raise Failed(f"{images.name}: an image between {start} and {start + len(arrays)} cannot be read")
        if len({array.shape for array in arrays}) > 1:
            raise Failed(f"{images.name}: its images have different sizes")
        yield which, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def look_at(images: ImageSet, scorers: Scorers) -> PerImage:
    """What the scorers say of every image by itself."""
    scores = PerImage()
    for which, pictures in batches(images):
        prompts = images.prompts[which]
        scores.features.append(fid.features_of(pictures, scorers.extractor))
        scores.clip_score += clip.scores_of(pictures, prompts, scorers.clip)
        if scorers.classifier is not None:
            rows = attribute_accuracy(pictures, list(prompts), scorers.classifier)
            scores.attributes_right += [row["share"] for row in rows]
            scores.all_right += [row["all_right"] for row in rows]
    return scores


def compare(images: ImageSet, baseline: ImageSet, scores: PerImage) -> None:
    """Add to `scores` how much each image is like the baseline's. Raises Failed when they differ in size."""
    for (_, pictures), (_, pairs) in zip(batches(images), batches(baseline), strict=True):
        if pictures.shape != pairs.shape:
            sizes = f"the images are {tuple(pictures.shape[-2:])} pixels, the baseline's {tuple(pairs.shape[-2:])}"
            raise Failed(sizes)
        scores.ssim += fidelity.ssim_of(pictures, pairs)
        scores.psnr_db += fidelity.psnr_db_of(pictures, pairs)
        scores.equal += fidelity.equal_of(pictures, pairs)


# --- what quality.json says -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Everything that the scores are summarised from."""

    spec: Mapping
    images: ImageSet
    baseline: ImageSet | None
    is_baseline: bool
    ours: PerImage
    theirs: PerImage | None


def summarise(judged: Judged, scorers: Scorers) -> dict:
    """The scores of quality.json, each with its interval."""
    ours, theirs = judged.ours, judged.theirs
    compared = fid.Compared(
        np.concatenate(ours.features),
        None if theirs is None or judged.is_baseline else np.concatenate(theirs.features),
        resampling.prompt_groups(judged.images.prompt_ids),
    )
    reference = Path(judged.spec["fid"]["extractor"])
    return {
        **fid.score(compared, reference),
        "clip_score": asdict(mean(judged, ours.clip_score)),
        "clip_difference": clip_difference(judged),
        "clip_truncated_prompts": clip.truncated(judged.images.prompts, scorers.clip),
        **fidelity_summary(judged),
        "attributes": attributes(judged),
    }


def mean(judged: Judged, values: Sequence[float]) -> resampling.Mean:
    spec = judged.spec
    return resampling.bootstrap_mean(values, judged.images.prompt_ids, spec["bootstrap"], spec["seed"])


def clip_difference(judged: Judged) -> dict | None:
    """Variant - baseline, paired by prompt and seed, with the verdict against the declared margin."""
    if judged.theirs is None or judged.is_baseline:
        return None
    margin = judged.spec["margins"]["clip_score"]
    pairs = zip(judged.ours.clip_score, judged.theirs.clip_score, strict=True)
    difference = mean(judged, [a - b for a, b in pairs])
    return {**asdict(difference), "margin": margin, "verdict": resampling.equivalence(difference, margin)}


def fidelity_summary(judged: Judged) -> dict:
    ours = judged.ours
    if not ours.ssim:
        return {"ssim": None, "psnr_db": None, "worst_pairs": [], "identical": None}
    return {
        "ssim": fidelity.summarise(ours.ssim),
        "psnr_db": fidelity.summarise(ours.psnr_db),
        "worst_pairs": fidelity.worst_pairs(judged.images.entries, ours.ssim, ours.psnr_db),
        "identical": sum(ours.equal),
    }


def attributes(judged: Judged) -> dict | None:
    """Shares of attributes, and of images with all of them right; images whose prompt names none are left out."""
    named = [i for i, share in enumerate(judged.ours.attributes_right) if share is not None]
    if not named:
        return None
    ids = [judged.images.prompt_ids[i] for i in named]
    share = resampling.share_mean([judged.ours.attributes_right[i] for i in named], ids)
    all_right = resampling.share_mean([float(judged.ours.all_right[i]) for i in named], ids)
    return {"share": asdict(share), "all_right": asdict(all_right), "images": len(named)}


def provenance(spec: Mapping, images: ImageSet, scorers: Scorers) -> dict:
    """What a score must carry to be comparable (METHOD.md, "Quality")."""
    known = spec.get("scorers", {})
    folders = {"fid": spec["fid"]["extractor"], "clip": spec["clip"]["model"], "classifier": spec.get("classifier")}
    resize = {
        "fid": f"bilinear with antialias to {scorers.extractor.side} px",
        "clip": clip.resize_method(scorers.clip),
    }
    return {
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "weights": {name: known.get(path) or digest_folder(path) for name, path in folders.items() if path},
        "resize": resize,
        "images": len(images),
        "suite": dict(images.suite),
        "seeds": [min(e["seed"] for e in images.entries), max(e["seed"] for e in images.entries)],
        "format": "PNG, 8 bits, RGB",
    }


class Judge:
    """Scores the images of variants that have one baseline. Loads the scorers once, and looks at the baseline once."""

    def __init__(self, spec: Mapping, baseline: ImageSet | None) -> None:
        self._spec, self._baseline, self._scorers = spec, baseline, load_scorers(spec)

    @cached_property
    def _baseline_scores(self) -> PerImage:
        return look_at(self._baseline, self._scorers)

    def score(self, images: ImageSet, folder: Path) -> dict:
        """Score images that `screening` let pass: writes scores.parquet and features.npy into `folder`, returns
        quality.json's scores. Raises Failed."""
        spec, baseline, theirs = self._spec, self._baseline, None
        is_baseline = baseline is not None and baseline.folder.resolve() == images.folder.resolve()
        # A copy: the comparison of the baseline with itself is the baseline's own.
        ours = copy.deepcopy(self._baseline_scores) if is_baseline else look_at(images, self._scorers)
        if baseline is not None:
            compare(images, baseline, ours)
            theirs = self._baseline_scores
        write_scores(folder, images, [], ours)
        return {
            **summarise(Judged(spec, images, baseline, is_baseline, ours, theirs), self._scorers),
            "bootstrap": {"resamples": spec["bootstrap"], "seed": spec["seed"], "unit": "prompt"},
            "provenance": provenance(spec, images, self._scorers),
        }
