"""Ranks: the processes that train one model together on one machine, one for each GPU.

`torchrun --nproc-per-node N -m -- include.nightshift.train --run <folder>` starts them. Rank 0 is the program as it always is: it alone
looks for notices, decides when to save, and writes. The others do what it tells them, one order after the other, so that no decision that
hangs on a clock or a file can come out differently in two processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Order(IntEnum):
    """What rank 0 tells the others to do next."""

    ADVANCE = 1
    STATE = 2
    RESTORE = 3
    END = 4


@dataclass(frozen=True)
class Ranks:
    """This process among its like."""

    rank: int = 0
    size: int = 1
    local: int = 0
    """The GPU that is this process's."""

    @classmethod
    def here(cls) -> Ranks:
        """As `torchrun` says; alone where nobody does."""
        if "LOCAL_RANK" not in os.environ:
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))

    @property
    def follows(self) -> bool:
        """Whether another process leads."""
        return self.rank > 0

    def join(self, kind: str) -> None:
        """Wait until all of them are there; `kind` of device is cpu or cuda."""
        import torch.distributed as dist

        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if kind == "cuda" else "gloo")

    def leave(self) -> None:
        """Let go of the others, when all is done."""
        import torch.distributed as dist

        if self.size > 1:
            dist.destroy_process_group()

    def agree(self, said: Any) -> Any:
        """What rank 0 says; what the others pass is not looked at. All of them must call this."""
        import torch.distributed as dist

        if self.size == 1:
            return said
        box = [said]
        dist.broadcast_object_list(box)
        return box[0]

    def gather(self, own: Any) -> list[Any]:
        """What each rank has, in their order, on all of them."""
        import torch.distributed as dist

        if self.size == 1:
            return [own]
        all_: list[Any] = [None] * self.size
        dist.all_gather_object(all_, own)
        return all_


@contextmanager
def alone() -> Iterator[None]:
    """Work by oneself for a while, on the first GPU, as if nobody had been started beside."""
    held = os.environ.pop("LOCAL_RANK", None)
    try:
        yield
    finally:
        if held is not None:
            os.environ["LOCAL_RANK"] = held
