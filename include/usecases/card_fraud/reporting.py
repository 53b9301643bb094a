"""Who says what was fraud, and when: the second half of the simulated world, apart from what happened in it.

`world.py` knows the truth of every transaction; a `Reporting` decides which of it the bank hears on a night, and so
what `landing/fraud_labels` holds. It is asked night by night, never for the future, because a report may depend on what
investigators were given to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Protocol

from include.nightshift.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from include.usecases.card_fraud.world import Day

Listed = Callable[[date], Collection[int]]
"""The customers on the list that was made of a night; empty for a night without a list."""


@dataclass(frozen=True)
class Verdicts:
    """What was reported on one night; arrays of one length. A transaction may be judged again on a later night."""

    transaction_id: npt.NDArray[np.int64]
    tx_fraud: npt.NDArray[np.bool_]
    reported_at: npt.NDArray[np.datetime64]
    """UTC, whole seconds (`datetime64[s]`)."""


class Reporting(Protocol):
    """A way in which verdicts come in. Deterministic: the same night, truth and lists give the same verdicts."""

    @property
    def first_after_days(self) -> int:
        """Days from the first transactions to the first drop of verdicts; no file is owed before."""
        ...

    def reported_on(self, night: date, truth: Callable[[date], Day], listed: Listed) -> Verdicts:
        """All verdicts whose `reported_at` falls on `night`.

        `truth` gives the transactions of any day up to `night`, empty before the first drop; `listed` may be asked
        for the nights before `night`. Whatever else is needed (chance, say) is drawn from seeds named by the day.
        """
        ...


@dataclass(frozen=True)
class AllAfter:
    """Every transaction gets its verdict, fraud or genuine, exactly so many days later, and it is right."""

    days: int = 7

    def __post_init__(self) -> None:
        if self.days < 1:
            raise ConfigurationError(f"verdicts after {self.days} days: a verdict takes at least one")

    @property
    def first_after_days(self) -> int:
        return self.days

    def reported_on(self, night: date, truth: Callable[[date], Day], listed: Listed) -> Verdicts:
        import numpy as np

        judged = truth(night - timedelta(days=self.days))
        return Verdicts(judged.transaction_id, judged.fraud > 0, judged.tx_datetime + np.timedelta64(self.days, "D"))


def nobody(night: date) -> Collection[int]:
    """A bank without lists."""
    return ()
