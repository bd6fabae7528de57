"""As much of the module pynvml as measure/gpu.py asks for: one GPU that draws a known power, with faults on demand."""

import time
from types import SimpleNamespace


class FakeNvml:
    """power_w is what its energy counter rises by; `silent`: questions that this GPU or driver does not answer."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, power_w: float = 300.0, reasons: int = 0x4, silent: tuple[str, ...] = ()):
        self.power_w, self.reasons, self.silent, self.began_s = power_w, reasons, silent, time.perf_counter()

    def __getattr__(self, question: str):
        def answer(*arguments):
            answers = {
                "nvmlDeviceGetCount": 1,
                "nvmlDeviceGetHandleByIndex": "handle",
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80_000_000_000, used=3_000_000_000),
                "nvmlDeviceGetClockInfo": 1980 if arguments[-1:] == (self.NVML_CLOCK_SM,) else 2619,
                "nvmlDeviceGetTemperature": 61,
                "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=40),
                "nvmlDeviceGetPowerUsage": 1000 * self.power_w,
                "nvmlDeviceGetTotalEnergyConsumption": 1000 * self.power_w * (time.perf_counter() - self.began_s),
                "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
                "nvmlDeviceGetComputeRunningProcesses": [],
            }
            if question not in answers or question in self.silent:
                raise self.NVMLError(question)
            return answers[question]

        return answer
