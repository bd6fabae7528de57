"""Before anything is scored: are the images pictures, are they the ones that were made, do they belong together?

Light to import, so that a variant which fails here costs a second and not the start of the scoring libraries.
"""

from __future__ import annotations

from pathlib import Path

from diffsweep.quality import defects
from diffsweep.quality.manifests import ImageSet, check_comparable, read_image
from diffsweep.quality.tables import PerImage, write_scores
from diffsweep.sweep.outcomes import Failed


def count_defects(images: ImageSet, folder: Path) -> dict:
    """Look at every image; write the per-image table with its defects, and return what quality.json says of them.

    Raises Failed when a file is missing or is not the one that was made.
    """
    found = [defects.defect_of(read_image(images, entry), entry) for entry in images.entries]
    write_scores(folder, images, found, PerImage())
    summary = defects.summarise(found, images.entries)
    return {"images": len(images), "suite": dict(images.suite), "defects": summary}


def refuse(known: dict, images: ImageSet, baseline: ImageSet | None) -> None:
    """Raise Failed for defective images, and for images that must not be compared with the baseline's."""
    if known["defects"]["count"]:
        raise Failed(defects.reason(known["defects"], len(images)))
    if baseline is not None:
        check_comparable(images, baseline)
