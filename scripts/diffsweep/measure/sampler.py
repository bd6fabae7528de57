"""Samples of what servers and devices do, a few times a second, from a thread of the measuring process.

The measured process is not touched: its memory is read from /proc, the GPU's state from NVML, the processor's from
/sys. One sample costs some 0.4 ms of CPU time, a little more where variants share it (`cost_s` says how much it was),
so that four a second take less than 0.2 % of one core; `hz` of 0 switches sampling off, and everything else stays as
it is. What was used for how long comes from counters, before and after (monitor.py); samples are for what has no
counter, and tell which part of a counter's rise belongs to which request.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffsweep.measure import gpu, monitor
from diffsweep.measure.counters import CpuSensors, PackageEnergy
from diffsweep.measure.records import SCHEMA, RecordWriter, ResourceSample

HZ = 4.0  # NVML's utilisation is itself an average over 1/6 to 1 s
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Sampler:
    """Samples `servers` (processes by server name) while its `with` block lasts, and writes each sample down, by all
    writers.

    samples: what was seen until now. cost_s: the CPU time that this took.
    """

    def __init__(
        self,
        servers: Mapping[str, Sequence[int]],
        device: gpu.Device,
        writers: Sequence[RecordWriter],
        hz: float = HZ,
        energy: PackageEnergy | None = None,
        sensors: CpuSensors | None = None,
    ):
        self.samples: list[ResourceSample] = []
        self.cost_s = 0.0
        self._hz, self._writers, self._device = hz, writers, device
        self._files = {name: [Path(f"/proc/{pid}/statm") for pid in pids] for name, pids in servers.items()}
        self._energy = energy or PackageEnergy()
        self._sensors = sensors or CpuSensors()
        self._ended = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> "Sampler":
        if self._hz > 0:
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        if self._hz > 0:
            self._thread.join()

    def since(self, unix_s: float) -> list[ResourceSample]:
        return [sample for sample in self.samples if sample.unix_s >= unix_s]

    def used(self, watched: Mapping[str, Sequence[int]], before: monitor.Usage, since_unix_s: float) -> dict:
        """What was used since then, and why that time is disturbed: by the counters, and by what was seen of the GPU.
        `watched`: the measured processes by server name, as `before` was read of them."""
        found = monitor.between(before, monitor.usage(watched))
        ours = {pid for pids in watched.values() for pid in pids}
        found["disturbed"] += gpu.disturbances(gpu.state(self._device), ours, self.since(since_unix_s))
        return found

    def note(self) -> dict:
        """What replicate.json says of the sampling: how often, its cost, and what this machine does not offer."""
        return {
            "hz": self._hz,
            "samples": len(self.samples),
            "cost_cpu_s": round(self.cost_s, 4),
            "problem": self._problem,
            "missing": self.missing(),
        }

    def missing(self) -> dict[str, str]:
        """Field -> why no sample has it."""
        told = dict(self._sensors.missing)
        if self._energy.missing:
            told["package_energy_j"] = self._energy.missing
        if self._device.missing:
            told["gpus"] = self._device.missing
        elif self.samples:
            told |= {key: "not offered by this GPU or driver" for key in gpu.never_answered(self.samples)}
        return told

    def _run(self) -> None:
        began_s, period_s = time.perf_counter(), 1 / self._hz
        try:
            while not self._ended.is_set():
                self._take()
                # On a grid of times: a late sample does not make the next one late.
                self._ended.wait(period_s - (time.perf_counter() - began_s) % period_s)
            self._take()  # so that samples enclose everything that was measured
        except (OSError, ValueError) as error:  # a full disk, a counter that went away: it was only a sample
            self._problem = f"sampling ended after {len(self.samples)} samples: {type(error).__name__}: {error}"

    def _take(self) -> None:
        sample = self._sample()
        for writer in self._writers:
            writer.append(sample)
        self.samples.append(sample)
        self.cost_s = time.thread_time()

    def _sample(self) -> ResourceSample:
        resident = {name: sum(map(_resident_bytes, files)) for name, files in self._files.items()}
        return ResourceSample(
            schema=SCHEMA,
            unix_s=round(time.time(), 4),
            memory_bytes={name: size for name, size in resident.items() if size},
            cpu_mhz=_rounded(self._sensors.clock_mhz(), 1),
            cpu_temperature_c=self._sensors.temperature_c(),
            package_energy_j=_rounded(self._energy.read_j(), 4),
            gpus=[] if self._device.missing else [gpu.sample(self._device)],
        )


def added(earlier: Mapping | None, note: Mapping) -> Mapping:
    """What two samplers say of themselves, one after the other, as the notes of one."""
    if earlier is None:
        return note
    sums = {key: round(earlier[key] + note[key], 4) for key in ("samples", "cost_cpu_s")}
    missing = {**earlier["missing"], **note["missing"]}
    return {**note, **sums, "problem": earlier["problem"] or note["problem"], "missing": missing}


def _resident_bytes(statm: Path) -> int:
    try:
        return int(statm.read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
