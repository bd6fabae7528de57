"""NVIDIA GPUs through NVML (the module `pynvml` of nvidia-ml-py); on a machine without one, everything is None.

Units are in the names; NVML gives milliwatts and millijoules.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffsweep.measure.records import ResourceSample

# NVML's clock event reasons that make a block invalid (METHOD.md, "The host"): hardware slow-down, software and
# hardware thermal slow-down, hardware power brake.
INVALID_REASONS = 0x8 | 0x20 | 0x40 | 0x80


def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def open_nvml() -> Any:
    """The initialised module pynvml, or None on a machine without an NVIDIA GPU. Importing it starts nothing else."""
    if not has_gpu():
        return None
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def visible_devices(nvml: Any) -> list[Any]:
    """Handles of the GPUs that a process sees which is started from here (CUDA_VISIBLE_DEVICES)."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    names = [name for name in chosen.split(",") if name]
    by_index, by_uuid = nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetHandleByUUID
    return [by_index(int(name)) if name.isdigit() else by_uuid(name) for name in names]


def ask(nvml: Any, question: str, *arguments: Any) -> Any:
    """The answer of an NVML function, or None where this GPU or driver does not offer it."""
    try:
        return getattr(nvml, question)(*arguments)
    except nvml.NVMLError:
        return None


def describe(nvml: Any) -> list[dict] | None:
    """What the GPUs are; None without NVML."""
    if nvml is None:
        return None
    driver = ask(nvml, "nvmlSystemGetDriverVersion")
    return [_describe_device(nvml, device, driver) for device in visible_devices(nvml)]


def _describe_device(nvml: Any, device: Any, driver: str | None) -> dict:
    limit_mw = ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", device)
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", device)
    return {
        "name": ask(nvml, "nvmlDeviceGetName", device),
        "uuid": ask(nvml, "nvmlDeviceGetUUID", device),
        "driver": driver,
        "power_limit_w": None if limit_mw is None else limit_mw / 1000,
        "memory_bytes": None if memory is None else memory.total,
    }


def state(nvml: Any) -> list[dict] | None:
    """What the GPUs do now; None without NVML. energy_j counts since the driver was loaded."""
    return None if nvml is None else [_device_state(nvml, device) for device in visible_devices(nvml)]


def _device_state(nvml: Any, device: Any) -> dict:
    processes = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", device)
    return {**sample(nvml, device), "processes": None if processes is None else sorted(p.pid for p in processes)}


def sample(nvml: Any, device: Any) -> dict[str, float | None]:
    """What one GPU does at this moment, as records.ResourceSample has it."""
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", device)
    energy_mj = ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", device)
    power_mw = ask(nvml, "nvmlDeviceGetPowerUsage", device)
    rates = ask(nvml, "nvmlDeviceGetUtilizationRates", device)
    reasons = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", device)
    if reasons is None:  # its name before driver 535
        reasons = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", device)
    return {
        "utilisation": None if rates is None else rates.gpu / 100,
        "memory_used_bytes": None if memory is None else memory.used,
        "clock_mhz": ask(nvml, "nvmlDeviceGetClockInfo", device, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": ask(nvml, "nvmlDeviceGetClockInfo", device, nvml.NVML_CLOCK_MEM),
        "power_w": None if power_mw is None else power_mw / 1000,
        "temperature_c": ask(nvml, "nvmlDeviceGetTemperature", device, nvml.NVML_TEMPERATURE_GPU),
        "clock_event_reasons": reasons,
        "energy_j": None if energy_mj is None else energy_mj / 1000,
    }


def never_answered(samples: Sequence[ResourceSample]) -> list[str]:
    """The fields of `sample` that no GPU ever answered."""
    devices = [device for each in samples for device in each.gpus]
    return [key for key in (devices[0] if devices else ()) if all(device[key] is None for device in devices)]


def disturbances(states: list[dict] | None, ours: set[int], samples: Sequence[ResourceSample] = ()) -> list[str]:
    """Why a measurement is invalid after which the GPUs are in these states. `ours`: the measured processes; `samples`:
    what was seen while it lasted."""
    found = []
    for number, device in enumerate(states or []):
        reasons = device["clock_event_reasons"] or 0
        for each in samples:
            reasons |= each.gpus[number]["clock_event_reasons"] or 0
        reasons &= INVALID_REASONS
        if reasons:
            found.append(f"GPU {number} was slowed down (clock event reasons {reasons:#x})")
        foreign = count_foreign(set(device["processes"] or []), ours)
        if foreign:
            found.append(f"GPU {number} ran {foreign} foreign processes")
    return found


def count_foreign(processes: set[int], ours: set[int]) -> int:
    """How many of the GPU's processes are foreign; by count where NVML numbers them otherwise (outside a container)."""
    return len(processes - ours) if processes & ours else max(len(processes) - len(ours), 0)
