"""What a variant used, as columns of the summary: from samples (resources.jsonl) and counters, energy included.

All of it is told of the sustained load level, the operating point of throughput and cost, where the variant's server is
busy and nothing else at work; the resident memory of all the time that the server was watched. Pure.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffsweep.analysis import stats
from diffsweep.analysis.cells import Cell, Replicate
from diffsweep.analysis.columns import Row, put
from diffsweep.analysis.stats import Estimate
from diffsweep.measure.records import ResourceSample

# METHOD.md, "The host": a difference of counters over at least so much, or there is no figure.
LEAST_ENERGY_S = 30.0
LEAST_ENERGY_IMAGES = 20
SPARE = 1.1  # over the requests that would be just enough: rates differ, and a window ends before its last burst

# NVML's clock event reasons, by bit (nvml.h, nvmlClocksEventReasons).
CLOCK_EVENTS = {
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slow-down",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
    0x100: "display clocks",
}


@dataclass(frozen=True)
class Span:
    """Some time of one replicate in which only the variant's server was at work, and the images it made in it."""

    replicate: Replicate
    begin_unix_s: float
    end_unix_s: float
    images: int

    @property
    def seconds(self) -> float:
        return self.end_unix_s - self.begin_unix_s

    @property
    def samples(self) -> list[ResourceSample]:
        return [s for s in self.replicate.resources if self.begin_unix_s <= s.unix_s <= self.end_unix_s]


def steady_spans(cell: Cell, clients: float | None) -> list[Span]:
    """The steady windows of the load by so many clients, one per replicate that noted when they were."""
    return [] if clients is None else [span for r in cell.replicates for span in _windows(r, clients)]


def _windows(replicate: Replicate, clients: float) -> Iterator[Span]:
    for note in replicate.notes.get("levels", ()):
        if note["level"] != clients or note["scenario"] != "steps" or not note.get("window_s"):
            continue
        begin_unix_s = note["started_unix_s"] + note["window_start_s"]
        records = (r for r in replicate.capacity if r.scenario == "steps" and r.level == clients and r.steady)
        images = sum(r.images for r in records if r.status == "ok")
        yield Span(replicate, begin_unix_s, begin_unix_s + note["window_s"], images)


def resource_fields(cell: Cell, clients: float | None, request_error: float | None) -> Row:
    """The columns; `clients`, `request_error`: those of the sustained level. An empty one was not measured:
    `not_offered` and `energy_reason` say why."""
    spans = steady_spans(cell, clients)
    samples = [sample for span in spans for sample in span.samples]
    row: Row = {
        "server_cpu_cores": _mean(cpu_cores(cell, clients)),
        "memory_bytes": max(resident_bytes(cell), default=None),
        "cpu_mhz": _mean([s.cpu_mhz for s in samples]),
        "cpu_temperature_c": _highest([s.cpu_temperature_c for s in samples]),
        "gpu_utilisation": _mean(of_gpu(samples, "utilisation")),
        "device_memory_bytes": _highest(of_gpu(samples, "memory_used_bytes")),
        "gpu_clock_mhz": _mean(of_gpu(samples, "clock_mhz")),
        "gpu_memory_clock_mhz": _mean(of_gpu(samples, "memory_clock_mhz")),
        "gpu_power_w": _mean(of_gpu(samples, "power_w")),
        "gpu_temperature_c": _highest(of_gpu(samples, "temperature_c")),
        "gpu_clock_events": clock_events(samples),
        "not_offered": not_offered(cell),
    }
    for device, counter in COUNTERS.items():
        put(row, f"{device}_energy_j_per_image", energy_per_image(spans, counter, request_error or 0.0))
    row["energy_reason"] = why_no_energy(cell, spans)
    return row


def cpu_cores(cell: Cell, clients: float | None) -> list[float]:
    """Cores that the server kept busy under that load, by the kernel's counters; one value per replicate."""
    noted = [note for r in cell.replicates for note in r.notes.get("levels", ()) if note["scenario"] == "steps"]
    return [note["server_cpu_cores"] for note in noted if note["level"] == clients]


def resident_bytes(cell: Cell) -> Iterator[int]:
    for replicate in cell.replicates:
        yield from (s.memory_bytes["variant"] for s in replicate.resources if "variant" in s.memory_bytes)


def of_gpu(samples: Sequence[ResourceSample], key: str) -> list[float]:
    """What the server's GPU says, where it does: CUDA's first. Earlier versions sampled all that were visible, and the
    others were idle, or not the server's."""
    return [value for s in samples if s.gpus and (value := s.gpus[0].get(key)) is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _highest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def clock_events(samples: Sequence[ResourceSample]) -> str | None:
    """Why the GPU's clocks were held back at any time, in words; "none" when they were not, None where nobody knows."""
    bits = [int(value) for value in of_gpu(samples, "clock_event_reasons")]
    if not bits:
        return None
    seen = int(np.bitwise_or.reduce(bits))
    return ", ".join(name for bit, name in CLOCK_EVENTS.items() if seen & bit) or "none"


def not_offered(cell: Cell) -> str | None:
    """What this machine does not offer, with the reasons."""
    if not cell.replicates:
        return None
    notes = [r.notes["sampling"] for r in cell.replicates if "sampling" in r.notes]
    if not notes:
        return "nothing was sampled (records of an earlier version)"
    told = {f"{key}: {why}" for note in notes for key, why in note["missing"].items()}
    told |= {note["problem"] for note in notes if note["problem"]}
    return "; ".join(sorted(told)) or None


# --- energy ---------------------------------------------------------------------------------------------------------


def _gpu_joules(sample: ResourceSample) -> float | None:
    return next(iter(of_gpu([sample], "energy_j")), None)


def _package_joules(sample: ResourceSample) -> float | None:
    return sample.package_energy_j


COUNTERS = {"gpu": _gpu_joules, "package": _package_joules}


def energy_per_image(
    spans: Sequence[Span], counter: Callable[[ResourceSample], float | None], request_error: float = 0.0
) -> Estimate | None:
    """Joules per image, with the interval between replicates; None without a counter, or from too little of it.

    A busy server draws the more the longer it takes: the interval is no narrower than the noise of its times lets it
    be. request_error: what this noise makes of the throughput (`load.Level`).
    """
    known = [(span, joules) for span in spans if (joules := energy_of(span, counter)) is not None and span.images]
    if not is_enough([span for span, _ in known]):
        return None
    between = stats.replicate_interval([joules / span.images for span, joules in known])
    return stats.with_request_noise(between, request_error)


def is_enough(spans: Sequence[Span]) -> bool:
    seconds, images = sum(span.seconds for span in spans), sum(span.images for span in spans)
    return seconds >= LEAST_ENERGY_S and images >= LEAST_ENERGY_IMAGES


def energy_of(span: Span, counter: Callable[[ResourceSample], float | None]) -> float | None:
    """The rise of a counter over a span, in joules; None where the samples do not enclose it.

    The counter was read a few times a second; between two readings it is taken to rise evenly, which it does while the
    server is kept busy.
    """
    read = [(s.unix_s, joules) for s in span.replicate.resources if (joules := counter(s)) is not None]
    if not read or read[0][0] > span.begin_unix_s or read[-1][0] < span.end_unix_s:
        return None
    times, joules = np.transpose(read)
    begin_j, end_j = np.interp([span.begin_unix_s, span.end_unix_s], times, joules)
    return float(end_j - begin_j)


def why_no_energy(cell: Cell, spans: Sequence[Span]) -> str | None:
    """Why there is no energy figure at all; None where there is one, or nothing was measured."""
    if not cell.replicates or any(energy_per_image(spans, counter) for counter in COUNTERS.values()):
        return None
    counted = [span for span in spans if any(energy_of(span, counter) is not None for counter in COUNTERS.values())]
    if not counted:
        return _why_no_counter([r.notes.get("sampling", {}) for r in cell.replicates], spans)
    seconds, images = sum(span.seconds for span in counted), sum(span.images for span in counted)
    enough = max(LEAST_ENERGY_S * images / seconds, LEAST_ENERGY_IMAGES)
    return (
        f"{seconds:.0f} s and {images} images at the sustained load; an energy figure takes {LEAST_ENERGY_S:.0f} s and "
        f"{LEAST_ENERGY_IMAGES} images: set protocol.requests_per_level to {math.ceil(SPARE * enough / len(counted))}"
    )


def _why_no_counter(notes: Sequence[Mapping], spans: Sequence[Span]) -> str:
    missing = next((note["missing"] for note in notes if note.get("missing")), {})
    told = [missing[key] for key in ("gpus", "energy_j", "package_energy_j") if key in missing]
    if told:
        return "; ".join(told)
    return "the counters were not read during the sustained load" if spans else "no valid load level"
