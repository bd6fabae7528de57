"""Sample images: the same prompts and seeds from every variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffsweep.show.cells import Cell
from diffsweep.show.findings import is_ok
from diffsweep.sweep.files import digest_file, read_json


@dataclass(frozen=True)
class Samples:
    """prompts and seeds (P,), and per variant P images (H, W, 3) uint8, None where there is none to show."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    images: Mapping[str, Sequence[np.ndarray | None]]


def sample_images(cell: Cell, columns: int) -> Samples:
    """The first `columns` prompts of the first variant that has images (the baseline, if it has), from all variants."""
    folders = {row["variant"]: cell.folder / cell.model / cell.target / row["variant"] for row in cell.rows}
    ended_well = {row["variant"] for row in cell.rows if is_ok(row)}
    listed = {name: _listed(folder / "images.json") if name in ended_well else {} for name, folder in folders.items()}
    first = next((entries for entries in listed.values() if entries), {})
    chosen = list(first)[:columns]
    images = {
        name: [_read(folders[name], entries[key]) if key in entries else None for key in chosen]
        for name, entries in listed.items()
    }
    return Samples([first[key]["prompt"] for key in chosen], [first[key]["seed"] for key in chosen], images)


def _listed(path: Path) -> dict[tuple[str, int], Mapping]:
    """The images of a manifest by prompt and seed; none when it is missing."""
    if not path.exists():
        return {}
    return {(entry["prompt_id"], entry["seed"]): entry for entry in read_json(path).get("images", [])}


def _read(folder: Path, entry: Mapping) -> np.ndarray | None:
    """None when it is missing, or not the image that was made and scored."""
    path = folder / entry["file"]
    if not path.exists() or digest_file(path) != f"sha256:{entry['sha256']}":
        return None
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def fit(image: np.ndarray, tile: int) -> np.ndarray:
    """`image` (H, W, 3) enlarged by a whole factor without smoothing, or thinned out by averaging
    whole blocks, to at most `tile` pixels."""
    longest = max(image.shape[:2])
    if longest <= tile:
        times = tile // longest
        return image.repeat(times, axis=0).repeat(times, axis=1)
    block = -(-longest // tile)
    height, width = (n // block * block for n in image.shape[:2])
    blocks = image[:height, :width].reshape(height // block, block, width // block, block, -1)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)
