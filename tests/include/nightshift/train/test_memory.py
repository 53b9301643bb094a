"""Too little memory has one name and one status, whichever library noticed; other errors stay what they are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from include.nightshift.errors import TrainingOutOfMemoryError
from include.nightshift.train import __main__ as trainer
from include.nightshift.train import memory, trees
from include.nightshift.train.recipes import Attention, Trees


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        ValueError("std::bad_alloc"),
    ],
)
def test_what_means_too_little_memory_becomes_the_named_error(error: Exception) -> None:
    says = r"with recipe big .*take a larger machine, or lower batch, window or width"
    with pytest.raises(TrainingOutOfMemoryError, match=says), memory.told(Attention(name="big"), "a million rows"):
        raise error


def test_torchs_own_error_is_one_of_them() -> None:
    import torch

    with pytest.raises(TrainingOutOfMemoryError, match="lower max_bin"), memory.told(Trees(name="t"), "rows"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_any_other_error_stays_what_it_is() -> None:
    with pytest.raises(ValueError, match="another"), memory.told(Trees(name="t"), "rows"):
        raise ValueError("another")


def test_the_program_ends_with_76_and_says_so_last(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(trees, "boost", full)
    assert trainer.main(["--run", str(make_run())]) == 76
    assert caplog.records[-1].getMessage().startswith("TrainingOutOfMemoryError: the memory does not hold the rows of run")
