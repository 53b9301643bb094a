"""GPUs: what this machine has, and how busy and how full it is, asked of the libraries that NVIDIA's driver brings along.

Directly: the Python packages for them would be more that a training machine must have, for nine calls.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

_LIBRARY, _CUDA = "libnvidia-ml.so.1", "libcuda.so.1"


def name() -> str:
    """What CUDA calls the GPU that this process is given first; empty where it is given none."""
    try:
        driver: Any = ctypes.CDLL(_CUDA)
    except OSError:
        return ""
    count, device, called = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return ""
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(called, len(called), device):
        return ""
    return called.value.decode()


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
