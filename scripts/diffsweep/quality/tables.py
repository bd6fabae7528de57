"""The per-image tables: scores.parquet, one row per image, and features.npy in the same order. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from diffsweep.quality.manifests import ImageSet
from diffsweep.sweep.files import atomic


@dataclass
class PerImage:
    """Scores of one set of images, in the order of images.json; a list is empty where nothing was computed."""

    features: list[np.ndarray] = field(default_factory=list)
    clip_score: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    psnr_db: list[float] = field(default_factory=list)
    equal: list[bool] = field(default_factory=list)
    attributes_right: list[float | None] = field(default_factory=list)
    all_right: list[bool | None] = field(default_factory=list)


SCORES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("seed", pa.int64()),
        ("clip_score", pa.float64()),
        ("ssim", pa.float64()),
        ("psnr_db", pa.float64()),
        ("defect", pa.string()),
        ("attributes_right", pa.float64()),
        ("all_right", pa.bool_()),
        ("equal", pa.bool_()),
        ("file", pa.string()),
    ]
)


def write_scores(folder: Path, images: ImageSet | None, found: Sequence[str | None], scores: PerImage) -> None:
    """scores.parquet and features.npy, one row per image; what was not computed is null, and no features are (0, 0)."""
    entries = images.entries if images is not None else []
    columns = {key: [entry[key] for entry in entries] for key in ("prompt_id", "seed", "file")}
    columns["defect"] = list(found) or [None] * len(entries)
    for name in ("clip_score", "ssim", "psnr_db", "attributes_right", "all_right", "equal"):
        columns[name] = getattr(scores, name) or [None] * len(entries)
    with atomic(folder / "scores.parquet") as temporary:
        pa.parquet.write_table(pa.table({name: columns[name] for name in SCORES.names}, SCORES), temporary)
    features = np.concatenate(scores.features) if scores.features else np.zeros((0, 0))
    with atomic(folder / "features.npy") as temporary, open(temporary, "wb") as handle:
        np.save(handle, features.astype(np.float32))
