"""images.json and the images it names, read with suspicion: what does not belong together is never compared.

A manifest has "outcome", "suite" (name, digest) and "images", each {file, prompt_id, prompt, seed, sha256}; files are
relative to its folder.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffsweep.sweep.outcomes import Failed

# The largest image that a config can ask for is 8192 x 8192; what claims to be larger would only fill the memory.
MOST_PIXELS = 8192 * 8192
# What Pillow raises for a file that is no image, a truncated or a malicious one.
NO_IMAGE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageSet:
    """The images of one variant: their entries in images.json, in its order, and the folder they lie in."""

    name: str
    folder: Path
    suite: Mapping
    entries: list[Mapping]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def prompts(self) -> list[str]:
        return [entry["prompt"] for entry in self.entries]

    @property
    def prompt_ids(self) -> list[str]:
        return [entry["prompt_id"] for entry in self.entries]


def image_set(document: Mapping, path: Path) -> ImageSet:
    """The images of a manifest that is ok. Raises Failed when there are none."""
    entries = document["images"]
    if not entries:
        raise Failed(f"{path}: it names no images")
    return ImageSet(document.get("variant", path.parent.name), path.parent, document["suite"], entries)


def check_comparable(ours: ImageSet, baseline: ImageSet) -> None:
    """Raise Failed unless both hold the same prompts and seeds in the same order."""
    if ours.suite.get("digest") != baseline.suite.get("digest"):
        raise Failed(
            f"the prompt suites differ: {ours.name} has {ours.suite.get('digest')}, the baseline "
            f"{baseline.name} {baseline.suite.get('digest')}; make the images of both again"
        )
    if len(ours) != len(baseline):
        raise Failed(f"{ours.name} has {len(ours)} images, the baseline {baseline.name} {len(baseline)}")
    for mine, theirs in zip(ours.entries, baseline.entries, strict=True):
        for key in ("prompt_id", "seed", "prompt"):
            if mine[key] != theirs[key]:
                raise Failed(
                    f"{mine['file']} has the {key} {mine[key]!r}, the baseline's {theirs['file']} {theirs[key]!r}; "
                    "only images of the same prompt and seed are compared"
                )


def read_image(images: ImageSet, entry: Mapping) -> np.ndarray | None:
    """(height, width, 3) uint8; None when the file is no image. Raises Failed when it is not the file that was made."""
    path = images.folder / entry["file"]
    if not path.resolve().is_relative_to(images.folder.resolve()):
        raise Failed(f"{images.folder}/images.json names {entry['file']!r}, which lies outside of its folder")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Failed(f"{path} is missing, though images.json names it") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"].removeprefix("sha256:"):
        raise Failed(f"{path} is not the image that was made: its digest differs from the one in images.json")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its size is judged here
            with Image.open(io.BytesIO(content)) as picture:
                return None if picture.width * picture.height > MOST_PIXELS else np.asarray(picture.convert("RGB"))
    except NO_IMAGE:
        return None
