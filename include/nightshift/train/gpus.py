"""GPUs: how busy and how full those of this machine are, asked of the library that NVIDIA's driver brings along (NVML).

Directly: the Python package for it would be one more thing that a training machine must have, for five calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Utilization(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in ("gpu", "memory")]


class Gpus:
    """All of a machine, whichever of them this process uses; none where there is no driver, or it sees none."""

    def __init__(self) -> None:
        self._handles: list[ctypes.c_void_p] = []
        try:
            self._driver: Any = ctypes.CDLL(_LIBRARY)
        except OSError:
            return
        count = ctypes.c_uint()
        if self._driver.nvmlInit_v2() or self._driver.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return
        for number in range(count.value):
            handle = ctypes.c_void_p()
            if self._driver.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle)) == 0:
                self._handles.append(handle)

    def figures(self) -> Mapping[str, float]:
        """By MLflow's names for them; without what a GPU does not tell, as one that is shared out (MIG) does not tell how busy it is."""
        return {f"gpu_{number}_{name}": value for number, handle in enumerate(self._handles) for name, value in self._figures_of(handle)}

    def _figures_of(self, handle: ctypes.c_void_p) -> Iterator[tuple[str, float]]:
        memory, utilization = _Memory(), _Utilization()
        if self._driver.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(utilization)) == 0:
            yield "utilization_percentage", float(utilization.gpu)
        if self._driver.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
            yield "memory_usage_megabytes", memory.used / 1e6
            yield "memory_usage_percentage", 100 * memory.used / memory.total
