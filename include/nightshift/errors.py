"""The named errors. Each message says what was seen, what was expected and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.nightshift.rules import Verdict


class NightshiftError(Exception):
    """Base of all errors that Nightshift raises on purpose."""


class ConfigurationError(NightshiftError):
    """A setting, use case or machine that cannot work as it is."""


class NightError(NightshiftError):
    """A partition key that is no night, or a night outside what the use case knows."""


class LandingError(NightshiftError):
    """A landed file that is missing, unreadable, cut short or still growing; nothing of it was written."""


class ContractError(NightshiftError):
    """A whole batch breaks the contract, and nothing of it reached silver; or rows were lost or doubled between two tables."""

    def __init__(self, message: str, verdicts: Sequence[Verdict] = ()) -> None:
        super().__init__(message)
        self.verdicts = tuple(verdicts)
        self.news: tuple[Verdict, ...] = ()
        """Failures among them that were not known before."""


class LakehouseError(NightshiftError):
    """The lakehouse server does not answer, or a table's log cannot be read."""


class StorageError(NightshiftError):
    """S3 does not answer or refuses, or a file is not where it should be."""


class WriteConflictError(NightshiftError):
    """Other writers won every attempt at one table; the table is as they left it."""


class ChainError(NightshiftError):
    """A record that is chained was to be changed or removed, or is not as it was written."""


class NotMaturedError(NightshiftError):
    """Too few nights have all their verdicts. Not a fault: wait and ask again."""


class CheckpointError(NightshiftError):
    """A checkpoint that belongs to another run, or that cannot be trusted."""


class TrainingFailedError(NightshiftError):
    """The training program failed by its own fault (not by preemption); carries its last log lines."""


class TrainingOutOfMemoryError(NightshiftError):
    """The machine, or its GPU, has too little memory for the run; the same on a machine like it ends the same."""


class TrainingStalledError(NightshiftError):
    """A trainer that did no step for so long that it was ended; the same command resumes."""


class NoCapacityError(NightshiftError):
    """No place of a pool has a machine now. Weather: ask again, or elsewhere."""

    def __init__(self, message: str, refused: Mapping[str, str]) -> None:
        super().__init__(message)
        self.refused = dict(refused)
        """The places that were asked, each with what it answered."""


class PoolError(NightshiftError):
    """A pool of machines does not answer, or refuses for a reason that waiting does not mend; nothing was started."""


class SpotTermsError(NightshiftError):
    """A run may not go on: its time or its money is spent. Its checkpoints stand, and with other terms it goes on from there."""


class RegistryError(NightshiftError):
    """The model registry and the champion history do not say what the step needs."""


class PublicationError(NightshiftError):
    """A night's list is held, or may not be published as asked; what is out stays as it is."""


class ReplayError(NightshiftError):
    """A night cannot be rebuilt, or what was rebuilt is not what was published."""


class ErasureError(NightshiftError):
    """A person cannot be erased as asked, or something still tells of them; the request stays, and the same token goes on."""
