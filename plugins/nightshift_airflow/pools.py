"""The installation's pool of training machines, as the settings name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.nightshift.settings import Settings
    from include.nightshift.spot.pools import Pool


def pool(settings: Settings, rehearsed: int = 0) -> Pool:
    """Where training runs get their machines.

    `rehearsed`: machines to take away on purpose after their first checkpoint; only the local pool can.
    """
    from include.nightshift.spot.local import LocalPool

    return LocalPool(interruptions=[1] * rehearsed)
