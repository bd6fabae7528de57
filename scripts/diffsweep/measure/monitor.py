"""What processes and the machine used, read from the kernel's counters before and after a measurement, never during.

The kernel counts CPU time in ticks of 10 ms; memory is in bytes, everything else in seconds. What has no counter is
sampled (sampler.py).
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffsweep.measure.counters import heat_events

TICK_S = 1 / os.sysconf("SC_CLK_TCK")

# A block is disturbed when others used more than this share of one core. The constant part covers the kernel's ticks:
# the machine's busy time is sampled per core, the processes' time is exact.
FOREIGN_CORES_LIMIT = 0.10
FOREIGN_TICKS_S = 0.03
STEAL_CORES_LIMIT = 0.02

# ONNX Runtime's threads spin for 20 to 35 ms after a request, on the core that the other server's next request needs.
# A running thread's time is brought up to date by the kernel's tick, at the latest after 10 ms.
IDLE_LOOK_S = 0.01
IDLE_CPU_S = 0.0005
IDLE_WAIT_S = 0.5


def group_members(group: int) -> list[int]:
    """The processes of a process group; a server and whatever it started."""
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _group_of(p) == group]


def _group_of(process: Path) -> int | None:
    try:
        return int(_after_name(process / "stat")[2])
    except (FileNotFoundError, ProcessLookupError):
        return None  # it ended meanwhile


def _after_name(stat: Path) -> list[str]:
    """Fields of /proc/<pid>/stat from the third on (proc(5)); the second, the name, may hold anything."""
    return stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def cpu_s(processes: Sequence[int]) -> float:
    """CPU time of all threads of `processes`, in user and kernel mode. One that has ended counts as zero."""
    return sum(_cpu_of(pid) for pid in processes)


def _cpu_of(pid: int) -> float:
    try:
        fields = _after_name(Path(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK_S


def exact_cpu_s(processes: Sequence[int]) -> float:
    """Like `cpu_s`, in nanoseconds instead of ticks, but of the threads that live now only (schedstats of proc(5))."""
    files = (path for pid in processes for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(_running_ns(path) for path in files) * 1e-9


def _running_ns(schedstat: Path) -> int:
    try:
        return int(schedstat.read_text(encoding="ascii").split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0  # the thread ended meanwhile


def wait_until_idle(processes: Sequence[int], most_s: float = IDLE_WAIT_S) -> float:
    """Wait until `processes` use no CPU any more, `most_s` at most; the seconds waited."""
    started_s, used_s = time.perf_counter(), exact_cpu_s(processes)
    while time.perf_counter() - started_s < most_s:
        time.sleep(IDLE_LOOK_S)
        before_s, used_s = used_s, exact_cpu_s(processes)
        if used_s - before_s < IDLE_CPU_S:
            break
    return time.perf_counter() - started_s


def memory_bytes(processes: Sequence[int]) -> dict[str, int | None]:
    """Resident memory now and at its peak, summed over `processes` (shared pages count once per process)."""
    found = [status for pid in processes if (status := _memory_of(pid))]
    if not found:
        return {"memory_bytes": None, "peak_memory_bytes": None}
    return {"memory_bytes": sum(m for m, _ in found), "peak_memory_bytes": sum(p for _, p in found)}


def _memory_of(pid: int) -> tuple[int, int] | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
    return (kib["VmRSS"] * 1024, kib["VmHWM"] * 1024) if len(kib) == 2 else None  # a zombie has none


def available_bytes() -> int:
    """Memory that can be taken without swapping, by the kernel's estimate (MemAvailable of proc(5))."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def machine_cpu_s() -> tuple[float, float]:
    """(busy, stolen by the hypervisor): CPU time of the whole machine since it started."""
    with open("/proc/stat", encoding="ascii") as handle:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, handle.readline().split()[1:9])
    return (user + nice + system + irq + softirq) * TICK_S, steal * TICK_S


def throttled_s() -> float | None:
    """Time for which this process's control group was kept from the CPU by its quota; None where there is none."""
    for path, key, unit_s in _throttle_files():
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        counters = dict(line.split() for line in lines)
        if key in counters:
            return int(counters[key]) * unit_s
    return None


def _throttle_files() -> list[tuple[Path, str, float]]:
    """(cpu.stat, its counter, the counter's unit) where the control groups of version 2 and 1 have it."""
    root = Path("/sys/fs/cgroup")
    files = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files.append((root / path.lstrip("/") / "cpu.stat", "throttled_usec", 1e-6))
        elif "cpu" in controllers.split(","):
            files.append((root / "cpu" / path.lstrip("/") / "cpu.stat", "throttled_time", 1e-9))
    return files


@dataclass(frozen=True)
class Usage:
    """Counters at one moment. servers_cpu_s: by server name; own_cpu_s: the measuring process; heat_events: how often
    the processor was slowed down by heat."""

    clock_s: float
    busy_s: float
    steal_s: float
    throttled_s: float | None
    servers_cpu_s: dict[str, float]
    own_cpu_s: float
    heat_events: int | None


def usage(servers: dict[str, Sequence[int]]) -> Usage:
    """The counters now; `servers`: processes by server name."""
    busy_s, steal_s = machine_cpu_s()
    cpu = {name: cpu_s(processes) for name, processes in servers.items()}
    return Usage(time.perf_counter(), busy_s, steal_s, throttled_s(), cpu, time.process_time(), heat_events())


def between(before: Usage, after: Usage) -> dict:
    """What was used from `before` to `after`, and why that span is disturbed (an empty list when it is not)."""
    elapsed_s = after.clock_s - before.clock_s
    servers = {name: round(after.servers_cpu_s[name] - was, 2) for name, was in before.servers_cpu_s.items()}
    ours_s = sum(servers.values()) + after.own_cpu_s - before.own_cpu_s
    used = {
        "elapsed_s": round(elapsed_s, 4),
        "servers_cpu_s": servers,
        "foreign_cpu_s": round(max(after.busy_s - before.busy_s - ours_s, 0.0), 2),
        "steal_s": round(after.steal_s - before.steal_s, 2),
        "throttled_s": None if after.throttled_s is None else round(after.throttled_s - (before.throttled_s or 0), 4),
        "heat_events": None if after.heat_events is None else after.heat_events - (before.heat_events or 0),
    }
    return {**used, "disturbed": disturbances(used)}


def disturbances(used: dict) -> list[str]:
    """Why a span of time is no fair measurement, one phrase each."""
    elapsed_s = used["elapsed_s"]
    found = []
    if used["foreign_cpu_s"] > FOREIGN_CORES_LIMIT * elapsed_s + FOREIGN_TICKS_S:
        found.append(f"other processes used {used['foreign_cpu_s'] / elapsed_s:.2f} cores")
    if used["steal_s"] > STEAL_CORES_LIMIT * elapsed_s + TICK_S:
        found.append(f"the hypervisor took {used['steal_s'] / elapsed_s:.2f} cores")
    if used["throttled_s"]:
        found.append(f"the control group was throttled for {used['throttled_s']:g} s")
    if used.get("heat_events"):
        found.append(f"the processor was slowed down by heat {used['heat_events']} times")
    return found
