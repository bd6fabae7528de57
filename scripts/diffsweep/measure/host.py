"""The machine a measurement was made on, without names of people or hosts; and the lock that keeps it to one job."""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffsweep.measure import gpu, monitor
from diffsweep.sweep import workflow
from diffsweep.sweep.runs import git_revision

# One file for the whole machine, so that two checkouts, or two users, do not measure at once. Not tempfile's folder,
# which differs between them.
LOCK = Path("/tmp/diffsweep-measurement.lock")

# CPU features that decide which kernels run.
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8")


@contextmanager
def measuring_alone(path: Path = LOCK) -> Iterator[float]:
    """Hold the machine-wide lock; yields the seconds waited for it. The kernel frees it with the last process."""
    started_s = time.perf_counter()
    descriptor = _open_lock(path)
    try:
        if not _try_lock(descriptor):
            print("waiting for another measurement on this machine to end", flush=True)
            workflow.lock(descriptor)
        yield time.perf_counter() - started_s
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    # Read-only is enough for flock, and lets every user share a file that belongs to one of them; O_CREAT would be
    # refused for another's file in /tmp (fs.protected_regular).
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_CREAT, 0o644)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def describe(device: gpu.Device = gpu.NONE) -> dict:
    """What does not change during a measurement."""
    cpu = cpu_info(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu["model"],
        "cpu_features": cpu["features"],
        "virtual_machine": cpu["virtual_machine"],
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "cores_quota": cpu_quota(),
        "memory_bytes": pages * page_bytes,
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gpus": gpu.describe(device),
        **git_revision(),
    }


def cpu_info(text: str) -> dict:
    """Model and features from /proc/cpuinfo (x86 and ARM name them differently)."""
    pairs = [line.split(":", 1) for line in text.splitlines() if ":" in line]
    first: dict[str, str] = {}
    for key, value in pairs:
        first.setdefault(key.strip(), value.strip())
    flags = first.get("flags", first.get("Features", "")).split()
    return {
        "model": first.get("model name") or first.get("Model") or platform.processor() or None,
        "features": [name for name in FEATURES if name in flags],
        "virtual_machine": "hypervisor" in flags,
    }


def frequency_mhz() -> float | None:
    """Mean clock of the cores now: from cpufreq, or else what /proc/cpuinfo says (in a virtual machine, nominal)."""
    files = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    values = [int(path.read_text(encoding="ascii")) / 1000 for path in files]
    if not values:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        values = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return round(sum(values) / len(values), 1) if values else None


def cpu_quota() -> float | None:
    """Cores that the control group may use per period; None without a limit."""
    for path in (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")):
        try:
            words = path.read_text(encoding="ascii").split()
        except OSError:
            continue
        period = words[1] if len(words) > 1 else _read_word(path.with_name("cpu.cfs_period_us"))
        return int(words[0]) / int(period) if words[0] not in ("max", "-1") else None
    return None


def _read_word(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def state(device: gpu.Device = gpu.NONE) -> dict:
    """What may change: read before and after the measurement."""
    busy_s, steal_s = monitor.machine_cpu_s()
    return {
        "unix_s": round(time.time(), 3),
        "load_1m": os.getloadavg()[0],
        "busy_s": round(busy_s, 2),
        "steal_s": round(steal_s, 2),
        "throttled_s": monitor.throttled_s(),
        "frequency_mhz": frequency_mhz(),
        "gpus": gpu.state(device),
    }
