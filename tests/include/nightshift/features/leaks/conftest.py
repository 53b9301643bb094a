from __future__ import annotations

import pytest

from include.nightshift.rules import RowRule
from include.nightshift.usecase import Column, Feature, Feed, UseCase
from include.usecases.card_fraud.usecase import USE_CASE


@pytest.fixture(scope="module")
def other() -> UseCase:
    """A use case of other columns and types: optional ones, a category that its contract lists, verdicts with keys of their own."""
    listed = RowRule(name="listed", severity="reject", reason="r", kind="range", breach="channel not in ('web', 'phone')")
    bounded = RowRule(name="bounded", severity="reject", reason="r", kind="range", breach="share < 0 or share > 1")
    columns = (("claim", "bigint"), ("filed_at", "timestamp"), ("policy_id", "bigint"), ("channel", "string"), ("share", "double"))
    claims = Feed(
        name="claims",
        description="Claims.",
        columns=(
            *(Column(*column, "c") for column in columns),
            Column("lost_on", "date", "c", required=False),
            Column("parts", "int", "c"),
        ),
        key="claim",
        event_time="filed_at",
        rules=(listed, bounded),
    )
    columns = (("finding", "bigint"), ("claim", "bigint"), ("found_at", "timestamp"), ("is_false", "int"), ("policy_id", "bigint"))
    findings = Feed(
        name="findings", description="Findings.", columns=tuple(Column(*c, "c") for c in columns), key="finding", event_time="found_at"
    )
    return UseCase(
        name="claims",
        title="Claims",
        owner="o",
        events=claims,
        labels=findings,
        entity="policy_id",
        target="is_false",
        label_delay_days=3,
        features=(Feature("f", "F."),),
        recipes=USE_CASE.trained,
    )
