"""GPUs: what the driver says, as far as it says anything."""

import ctypes
from types import SimpleNamespace

import pytest

from include.nightshift.train import gpus
from include.nightshift.train.gpus import Gpus

_COUNT = ctypes.POINTER(ctypes.c_uint)
_HANDLE = ctypes.POINTER(ctypes.c_void_p)
_FIRST = 0x7F00DEADBEEF0000
"""An address that does not fit in 32 bits, as the driver's do not."""


def _driver(*, shared_out: bool = False, sees: int = 2) -> SimpleNamespace:
    """A driver with two GPUs behind C's calls; the second one is twice as full."""

    def count(found: ctypes.Array) -> int:
        found[0] = sees
        return 0

    def handle(number: int, found: ctypes.Array) -> int:
        found[0] = _FIRST + number
        return 0

    def utilization(handle: int, found: ctypes.Array) -> int:
        if shared_out:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        found[0], found[1] = 90 + (handle - _FIRST), 12
        return 0

    def memory(handle: int, found: ctypes.Array) -> int:
        used = 20_000_000_000 * (1 + handle - _FIRST)
        found[0], found[1], found[2] = 80_000_000_000, 80_000_000_000 - used, used
        return 0

    return SimpleNamespace(
        nvmlInit_v2=ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0),
        nvmlDeviceGetCount_v2=ctypes.CFUNCTYPE(ctypes.c_int, _COUNT)(count),
        nvmlDeviceGetHandleByIndex_v2=ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, _HANDLE)(handle),
        nvmlDeviceGetUtilizationRates=ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(
            lambda handle, found: utilization(handle, ctypes.cast(found, _COUNT))
        ),
        nvmlDeviceGetMemoryInfo=ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(
            lambda handle, found: memory(handle, ctypes.cast(found, ctypes.POINTER(ctypes.c_ulonglong)))
        ),
    )


def test_each_gpu_tells_how_busy_and_how_full_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: _driver())
    assert Gpus().figures() == {
        "gpu_0_utilization_percentage": 90.0,
        "gpu_0_memory_usage_megabytes": 20_000.0,
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_1_utilization_percentage": 91.0,
        "gpu_1_memory_usage_megabytes": 40_000.0,
        "gpu_1_memory_usage_percentage": 50.0,
    }


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: _driver(shared_out=True, sees=1))
    assert Gpus().figures() == {"gpu_0_memory_usage_megabytes": 20_000.0, "gpu_0_memory_usage_percentage": 25.0}


def _cuda(*, sees: int = 2, begins: int = 0) -> SimpleNamespace:
    """CUDA's driver with two GPUs, of which the second is given first."""

    def text(called: ctypes.Array, length: int, device: ctypes.c_int) -> int:
        called.value = [b"NVIDIA L4", b"Tesla T4"][device.value]
        return 0

    def put(found: object, value: int) -> int:
        ctypes.cast(found, ctypes.POINTER(ctypes.c_int))[0] = value  # type: ignore[arg-type]
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: begins,
        cuDeviceGetCount=lambda found: put(found, sees),
        cuDeviceGet=lambda found, number: put(found, 1 - number),
        cuDeviceGetName=text,
    )


def test_the_gpu_that_a_process_is_given_first_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: {"libcuda.so.1": _cuda()}[name])
    assert gpus.name() == "Tesla T4"


@pytest.mark.parametrize("driver", [_cuda(sees=0), _cuda(begins=100)], ids=["none is visible", "no device"])
def test_where_none_is_given_there_is_no_name(driver: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: driver)
    assert gpus.name() == ""


def test_a_machine_without_a_driver_or_whose_driver_sees_no_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(gpus.ctypes, "CDLL", missing)
    assert Gpus().figures() == {}
    assert gpus.name() == ""
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: _driver(sees=0))
    assert Gpus().figures() == {}
