"""The NVIDIA GPU that servers use, through NVML (the module `pynvml` of nvidia-ml-py); without one, everything is None.

A server uses one GPU, CUDA's first, and is charged for one: what the others of the machine do is not its own. Units are
in the names; NVML gives milliwatts and millijoules.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffsweep.measure.records import ResourceSample

# NVML's clock event reasons that make a block invalid (METHOD.md, "The host"): hardware slow-down, software and
# hardware thermal slow-down, hardware power brake.
INVALID_REASONS = 0x8 | 0x20 | 0x40 | 0x80

# Servers are started with it, so that CUDA numbers GPUs as NVML does; by itself CUDA begins with the fastest.
CUDA_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(frozen=True)
class Device:
    """The GPU that the servers started from here use. missing: why there is none to ask, else None."""

    nvml: Any = None
    handle: Any = None
    missing: str | None = None


NONE = Device(missing="no NVIDIA GPU")


def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def open_device() -> Device:
    """Start NVML and find the servers' GPU. Nothing is raised: where NVML fails, its figures are missing."""
    if not has_gpu():
        return NONE
    import pynvml

    try:
        pynvml.nvmlInit()
        return find_device(pynvml)
    except pynvml.NVMLError as error:  # a driver that was updated and not loaded yet, a container without NVML
        return Device(missing=f"NVML failed: {error}")


def find_device(nvml: Any) -> Device:
    """The first GPU that CUDA shows a process started from here. Raises NVMLError."""
    count = nvml.nvmlDeviceGetCount()
    handles = [h for i in range(count) if (h := ask(nvml, "nvmlDeviceGetHandleByIndex", i)) is not None]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    handle = next(iter(handles), None) if chosen is None else _first_of(nvml, handles, chosen)
    if handle is not None:
        return Device(nvml, handle)
    shown = "" if chosen is None else f" (CUDA_VISIBLE_DEVICES is {chosen!r})"
    return Device(missing=f"no GPU is visible{shown}")


def _first_of(nvml: Any, handles: Sequence[Any], chosen: str) -> Any:
    """The first GPU of a CUDA_VISIBLE_DEVICES, None where it shows none.

    As CUDA reads it: each entry is a number or the beginning of one UUID, and the list ends at the first that is
    neither (-1, NoDevFiles). So only its first entry decides.
    """
    first = chosen.split(",")[0].strip()
    number = re.match(r"[0-9]+", first)
    if number:
        return next(iter(handles[int(number[0]) :]), None)
    if first.startswith("MIG-"):
        return ask(nvml, "nvmlDeviceGetHandleByUUID", first)
    found = [h for h in handles if str(ask(nvml, "nvmlDeviceGetUUID", h)).startswith(first)]
    return found[0] if first.startswith("GPU-") and len(found) == 1 else None


def ask(nvml: Any, question: str, *arguments: Any) -> Any:
    """The answer of an NVML function, or None where this GPU or driver does not offer it."""
    try:
        return getattr(nvml, question)(*arguments)
    except nvml.NVMLError:
        return None


def describe(device: Device) -> list[dict] | None:
    """What the GPU is, in a list; None without one."""
    if device.missing:
        return None
    nvml, handle = device.nvml, device.handle
    limit_mw = ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    known = {
        "name": ask(nvml, "nvmlDeviceGetName", handle),
        "uuid": ask(nvml, "nvmlDeviceGetUUID", handle),
        "driver": ask(nvml, "nvmlSystemGetDriverVersion"),
        "power_limit_w": None if limit_mw is None else limit_mw / 1000,
        "memory_bytes": None if memory is None else memory.total,
    }
    return [known]


def state(device: Device) -> list[dict] | None:
    """What the GPU does now, in a list; None without one. energy_j counts since the driver was loaded."""
    if device.missing:
        return None
    processes = ask(device.nvml, "nvmlDeviceGetComputeRunningProcesses", device.handle)
    return [{**sample(device), "processes": None if processes is None else sorted(p.pid for p in processes)}]


def sample(device: Device) -> dict[str, float | None]:
    """What the GPU does at this moment, as records.ResourceSample has it."""
    nvml, handle = device.nvml, device.handle
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    energy_mj = ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle)
    power_mw = ask(nvml, "nvmlDeviceGetPowerUsage", handle)
    rates = ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    reasons = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:  # its name before driver 535
        reasons = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return {
        "utilisation": None if rates is None else rates.gpu / 100,
        "memory_used_bytes": None if memory is None else memory.used,
        "clock_mhz": ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        "power_w": None if power_mw is None else power_mw / 1000,
        "temperature_c": ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        "clock_event_reasons": reasons,
        "energy_j": None if energy_mj is None else energy_mj / 1000,
    }


def never_answered(samples: Sequence[ResourceSample]) -> list[str]:
    """The fields of `sample` that the GPU never answered."""
    devices = [device for each in samples for device in each.gpus]
    return [key for key in (devices[0] if devices else ()) if all(device[key] is None for device in devices)]


def disturbances(states: list[dict] | None, ours: set[int], samples: Sequence[ResourceSample] = ()) -> list[str]:
    """Why a measurement is invalid after which the GPU is in this state. `ours`: the measured processes; `samples`:
    what was seen while it lasted."""
    found = []
    for device in states or []:
        reasons = 0
        for seen in [device, *(gpu for each in samples for gpu in each.gpus)]:
            reasons |= (seen["clock_event_reasons"] or 0) & INVALID_REASONS
        if reasons:
            found.append(f"the GPU was slowed down (clock event reasons {reasons:#x})")
        foreign = count_foreign(set(device["processes"] or []), ours)
        if foreign:
            found.append(f"the GPU ran {foreign} foreign processes")
    return found


def count_foreign(processes: set[int], ours: set[int]) -> int:
    """How many of the GPU's processes are foreign; by count where NVML numbers them otherwise (outside a container)."""
    return len(processes - ours) if processes & ours else max(len(processes) - len(ours), 0)
