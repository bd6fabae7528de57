"""What a Linux machine counts about its own processor: energy (RAPL), temperature, clock, slow-downs by heat.

Read from /sys, so that nothing has to be installed. A virtual machine usually shows none of it; every reader then gives
None, and `missing` the reason.
"""

import re
from collections.abc import Sequence
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
CPUS = Path("/sys/devices/system/cpu")
HWMON = Path("/sys/class/hwmon")
PACKAGE = re.compile(r"intel-rapl:\d+")  # AMD's packages too; intel-rapl-mmio:0 would count the first one twice
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
CLOCK_FILES = 4  # one clock domain each; more would say the same and cost time


class PackageEnergy:
    """Joules of all processor packages since this object was made (Linux powercap, RAPL).

    A package's counter starts again at 0 beyond its range, in some minutes at the soonest: read it more often.
    """

    def __init__(self, root: Path = POWERCAP):
        packages = [folder for folder in sorted(root.glob("intel-rapl:*")) if PACKAGE.fullmatch(folder.name)]
        self.missing = None if packages else f"no RAPL counter ({root} has no processor package)"
        self._counters: list[_Counter] = []
        try:
            self._counters = [_Counter(folder) for folder in packages]
        except (OSError, ValueError) as error:
            self.missing = f"RAPL is not readable ({type(error).__name__}: {packages[0].name}/energy_uj); run as root"

    def read_j(self) -> float | None:
        return sum(counter.read_j() for counter in self._counters) if self._counters else None


class _Counter:
    def __init__(self, folder: Path):
        self._file = folder / "energy_uj"
        self._range_uj = _read_number(folder / "max_energy_range_uj")
        self._last_uj = _read_number(self._file)
        self._sum_uj = 0

    def read_j(self) -> float:
        now_uj = _read_number(self._file)
        rise_uj = now_uj - self._last_uj
        self._sum_uj += rise_uj if rise_uj >= 0 else rise_uj + self._range_uj
        self._last_uj = now_uj
        return self._sum_uj * 1e-6


class CpuSensors:
    """The processor's temperature and clock."""

    def __init__(self, hwmon: Path = HWMON, cpus: Path = CPUS):
        chips = [folder for folder in sorted(hwmon.glob("hwmon*")) if _name_of(folder) in CPU_SENSORS]
        self._temperatures = [path for folder in chips for path in sorted(folder.glob("temp*_input"))][:CLOCK_FILES]
        self._clocks = sorted(cpus.glob("cpufreq/policy*/scaling_cur_freq"))[:CLOCK_FILES]

    @property
    def missing(self) -> dict[str, str]:
        told = {}
        if not self._temperatures:
            told["cpu_temperature_c"] = "no sensor of the processor (a virtual machine?)"
        if not self._clocks:
            told["cpu_mhz"] = "no cpufreq (a virtual machine?)"
        return told

    def temperature_c(self) -> float | None:
        """The hottest sensor."""
        return max((_read_number(path) / 1000 for path in self._temperatures), default=None)

    def clock_mhz(self) -> float | None:
        clocks = [_read_number(path) / 1000 for path in self._clocks]
        return sum(clocks) / len(clocks) if clocks else None


def heat_events(cpus: Path = CPUS) -> int | None:
    """How often the processor was slowed down by heat since it started; None where the kernel does not count it."""
    return _sum_of(sorted(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")))


def _sum_of(paths: Sequence[Path]) -> int | None:
    return sum(map(_read_number, paths)) if paths else None


def _name_of(folder: Path) -> str:
    try:
        return (folder / "name").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _read_number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
