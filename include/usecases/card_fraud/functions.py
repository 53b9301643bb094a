"""The Arrow functions that card fraud's models call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def register(session: SparkSession) -> None:
    """Make them known to the session, under their own names."""
    from include.nightshift.features.groups import over_groups
    from include.usecases.card_fraud import habits, verdicts, windows

    session.udtf.register("customer_windows", over_groups(windows.customer_windows, "customer_id", windows.CUSTOMER_RETURNS))
    session.udtf.register("terminal_windows", over_groups(windows.terminal_windows, "terminal_id", windows.TERMINAL_RETURNS))
    session.udtf.register("customer_habits", over_groups(habits.customer_habits, "customer_id", habits.RETURNS))
    session.udtf.register("terminal_verdicts", over_groups(verdicts.terminal_verdicts, "terminal_id", verdicts.RETURNS))
