"""As much of the module pynvml as measure/gpu.py asks for: GPUs that draw a known power, with faults on demand."""

import time
from types import SimpleNamespace


class FakeNvml:
    """A GPU's handle is its UUID. power_w is what each energy counter rises by; `silent`: questions that these GPUs or
    this driver do not answer; broken: what nvmlInit says of a driver that does not work."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(
        self,
        power_w: float = 300.0,
        reasons: int = 0x4,
        silent: tuple[str, ...] = (),
        uuids: tuple[str, ...] = ("GPU-1",),
        processes: tuple[int, ...] = (),
        broken: str | None = None,
    ):
        self.power_w, self.reasons, self.silent, self.began_s = power_w, reasons, silent, time.perf_counter()
        self.uuids, self.processes, self.broken = uuids, processes, broken

    def nvmlInit(self) -> None:  # noqa: N802  NVML's name
        if self.broken:
            raise self.NVMLError(self.broken)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return self.uuids[index]

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return handle

    def __getattr__(self, question: str):
        def answer(*arguments):
            answers = {
                "nvmlSystemGetDriverVersion": "600.1",
                "nvmlDeviceGetCount": len(self.uuids),
                "nvmlDeviceGetName": "H100",
                "nvmlDeviceGetEnforcedPowerLimit": 700_000,
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80_000_000_000, used=3_000_000_000),
                "nvmlDeviceGetClockInfo": 1980 if arguments[-1:] == (self.NVML_CLOCK_SM,) else 2619,
                "nvmlDeviceGetTemperature": 61,
                "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=40),
                "nvmlDeviceGetPowerUsage": 1000 * self.power_w,
                "nvmlDeviceGetTotalEnergyConsumption": 1000 * self.power_w * (time.perf_counter() - self.began_s),
                "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
                "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=pid) for pid in self.processes],
            }
            if question not in answers or question in self.silent:
                raise self.NVMLError(question)
            return answers[question]

        return answer
