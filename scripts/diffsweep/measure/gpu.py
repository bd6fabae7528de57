"""NVIDIA GPUs through NVML (the module `pynvml` of nvidia-ml-py); on a machine without one, everything is None.

NVML is asked before and after a measurement, never during. Units are in the names; NVML gives milliwatts and
millijoules.
"""

import os
from pathlib import Path
from typing import Any

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
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", device)
    energy_mj = ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", device)
    processes = ask(nvml, "nvmlDeviceGetComputeRunningProcesses", device)
    return {
        "clock_mhz": ask(nvml, "nvmlDeviceGetClockInfo", device, nvml.NVML_CLOCK_SM),
        "temperature_c": ask(nvml, "nvmlDeviceGetTemperature", device, nvml.NVML_TEMPERATURE_GPU),
        "clock_event_reasons": ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", device),
        "memory_used_bytes": None if memory is None else memory.used,
        "energy_j": None if energy_mj is None else energy_mj / 1000,
        "processes": None if processes is None else sorted(p.pid for p in processes),
    }


def disturbances(states: list[dict] | None, ours: set[int]) -> list[str]:
    """Why a measurement on GPUs in these states is invalid. `ours`: the measured processes."""
    found = []
    for number, device in enumerate(states or []):
        reasons = (device["clock_event_reasons"] or 0) & INVALID_REASONS
        if reasons:
            found.append(f"GPU {number} was slowed down (clock event reasons {reasons:#x})")
        foreign = count_foreign(set(device["processes"] or []), ours)
        if foreign:
            found.append(f"GPU {number} ran {foreign} foreign processes")
    return found


def count_foreign(processes: set[int], ours: set[int]) -> int:
    """How many of the GPU's processes are foreign; by count where NVML numbers them otherwise (outside a container)."""
    return len(processes - ours) if processes & ours else max(len(processes) - len(ours), 0)
