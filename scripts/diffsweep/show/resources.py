"""The report's section on resources and energy: the table, and why something is not in it."""

from collections.abc import Sequence

from diffsweep.show import table, words
from diffsweep.show.cells import Cell
from diffsweep.show.findings import Row, is_ok
from diffsweep.show.table import Column


def watts(value: float) -> str:
    return f"{words.number(value)} W"


def degrees(value: float) -> str:
    return f"{value:.0f} °C"


def megahertz(value: float) -> str:
    return f"{value:,.0f} MHz"


def joules(value: float) -> str:
    return f"{words.number(value)} J"


def no_energy(row: Row) -> str:
    return row.get("energy_reason") or "not counted here"


COLUMNS = (
    table.NAME,
    Column("CPU", "cores that the server kept busy, by the kernel's counters", "server_cpu_cores", words.number),
    Column("resident", "largest resident memory of the server among the samples", "memory_bytes", words.size),
    Column("peak", "largest resident memory of the server by the kernel's own mark", "peak_memory_bytes", words.size),
    Column("CPU clock", "mean of the samples", "cpu_mhz", megahertz),
    Column("CPU temperature", "hottest sample", "cpu_temperature_c", degrees),
    Column("GPU utilisation", "share of time in which any kernel ran (NVML)", "gpu_utilisation", words.percent),
    Column("GPU memory", "largest use of the device's memory, by all its processes", "device_memory_bytes", words.size),
    Column("GPU clock", "mean of the samples", "gpu_clock_mhz", megahertz),
    Column("GPU power", "mean of the samples; energy is not computed from it", "gpu_power_w", watts),
    Column("GPU temperature", "hottest sample", "gpu_temperature_c", degrees),
    Column("GPU clocks held back by", "NVML's clock event reasons", "gpu_clock_events", str, is_text=True),
    Column("GPU energy an image", "NVML's total-energy counter", "gpu_energy_j_per_image", joules, True, why=no_energy),
    Column("CPU energy an image", "RAPL's package counters", "package_energy_j_per_image", joules, True, why=no_energy),
    Column("repeated", "pairs of blocks that were disturbed and measured again", "repeated_pairs", words.fixed(0)),
    Column("disturbed", "blocks that stayed disturbed, and are used", "disturbed_blocks", words.fixed(0)),
)


def section(cell: Cell) -> dict:
    """What the template needs. A column that no variant has is a line of reasons, not a column of n/a."""
    known = [c for c in COLUMNS if c is table.NAME or any(not words.missing(row.get(c.key)) for row in cell.rows)]
    absent = [c.head for c in COLUMNS if c not in known]
    return {
        "table": table.table(cell.rows, known, f"Resources and energy of {cell.name}"),
        "notes": [
            "At the sustained load, with the variant's server busy and nothing else at work (idle servers may be in "
            "memory beside it); memory: of all the time that it was watched. Sampled from outside of the server.",
            *([f"n/a: {', '.join(absent)}. {reasons(cell.rows)}"] if absent else []),
            *energy_notes(cell.rows),
        ],
    }


def reasons(rows: Sequence[Row]) -> str:
    """What the machine does not offer, as it was noted."""
    told = dict.fromkeys(part for row in rows for part in (row.get("not_offered") or "").split("; ") if part)
    return f"{'; '.join(told)}." if told else "Nobody noted why."


def energy_notes(rows: Sequence[Row]) -> list[str]:
    """Why variants have no energy figure, unless it is what the machine does not offer."""
    offered = reasons(rows)
    told: dict[str, list[str]] = {}
    for row in rows:
        why = row.get("energy_reason")
        if is_ok(row) and why and not all(part in offered for part in why.split("; ")):
            told.setdefault(why, []).append(row["variant"])
    return [f"No energy figure for {words.listing(names)}: {why}." for why, names in told.items()]
