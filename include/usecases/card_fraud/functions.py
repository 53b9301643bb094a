"""The Arrow functions that card fraud's models call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def register(session: SparkSession) -> None:
    """Make them known to the session, under their own names."""
    from include.nightshift.features.groups import over_groups
    from include.usecases.card_fraud import habits, verdicts, windows

    def over(compute: Any, key: str, returns: str, then: str = "") -> None:
        session.udtf.register(compute.__name__, over_groups(compute, key, "at", returns, then))

    over(windows.customer_windows, "customer_id", windows.CUSTOMER_RETURNS, then="terminal_id")
    over(windows.terminal_windows, "terminal_id", windows.TERMINAL_RETURNS)
    over(habits.customer_habits, "customer_id", habits.RETURNS)
    over(verdicts.terminal_verdicts, "terminal_id", verdicts.RETURNS)
