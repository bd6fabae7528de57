"""Whether a server that batches did: how many images the calls held that requests under load ran in. Pure."""

from statistics import fmean

from diffsweep.analysis.cells import Cell


def sizes(cell: Cell, level: float | None = None) -> list[int]:
    """The batch size of every request inside the steady windows, at one load level or at all."""
    return [
        record.batch_size
        for replicate in cell.replicates
        for record in replicate.capacity
        if record.steady and record.batch_size is not None and level in (None, record.level)
    ]


def mean_size(cell: Cell, level: float) -> float | None:
    found = sizes(cell, level)
    return fmean(found) if found else None


def warnings(cell: Cell) -> list[str]:
    """Batching that never happened must not pass for batching (as the census does for artifacts)."""
    found = sizes(cell)
    idle = cell.variant.get("batching") and found and max(found) == 1
    return ["the server batches, and no two requests ran in one batch at any load level"] if idle else []
