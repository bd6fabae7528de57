"""Images that are no pictures: counted before anything is scored, and they fail the variant (METHOD.md, "Quality")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

BLACK, CONSTANT, NAN, NOISE, UNREADABLE = "black", "constant", "nan", "noise", "unreadable"

# Of 255. A safety filter's or a NaN's black is 0 throughout; a decoder's rounding adds a few.
DARKEST = 8
FLAT_RANGE = 8
# Neighbouring pixels of a picture go together (0.8 and more; one-pixel stripes still do in one direction), those of
# white noise do not (0 +- 0.02 at 64 x 64).
LEAST_CORRELATION = 0.25


def defect_of(image: np.ndarray | None, entry: Mapping) -> str | None:
    """What is wrong with an image (height, width, 3), uint8; None when nothing is.

    `image` is None when it cannot be read. `entry` is its entry in images.json, in which the generator says
    `finite: false` when the numbers behind the image held NaN or infinity; 8-bit pixels no longer show that.
    """
    if entry.get("finite") is False:
        return NAN
    if image is None:
        return UNREADABLE
    if image.max() <= DARKEST:
        return BLACK
    low, high = image.min(axis=(0, 1)).astype(int), image.max(axis=(0, 1)).astype(int)
    if (high - low).max() <= FLAT_RANGE:
        return CONSTANT
    return NOISE if neighbour_correlation(image) < LEAST_CORRELATION else None


def neighbour_correlation(image: np.ndarray) -> float:
    """The correlation between neighbouring pixels, along rows or along columns, whichever is higher."""
    around = image - image.mean(axis=(0, 1))
    variance = (around**2).mean()
    along_rows, along_columns = (around[:, 1:] * around[:, :-1]).mean(), (around[1:] * around[:-1]).mean()
    return float(max(along_rows, along_columns) / variance)


def summarise(defects: Sequence[str | None], entries: Sequence[Mapping]) -> dict:
    """The defects part of quality.json."""
    kinds = Counter(kind for kind in defects if kind is not None)
    files = [entry["file"] for kind, entry in zip(defects, entries, strict=True) if kind is not None]
    return {"count": sum(kinds.values()), "kinds": dict(sorted(kinds.items())), "files": files[:20]}


def reason(summary: Mapping, images: int) -> str:
    """Why the variant fails, in one sentence: "3 of 200 images are defective (2 black, 1 nan; first: 0007-7.png)"."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["kinds"].items())
    return f"{summary['count']} of {images} images are defective ({kinds}; first: {summary['files'][0]})"
