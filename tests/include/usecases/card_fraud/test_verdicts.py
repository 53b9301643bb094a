"""A terminal's record against its definition, said once more over all verdicts."""

from __future__ import annotations

import itertools
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from include.usecases.card_fraud.habits import DAY
from include.usecases.card_fraud.verdicts import COLUMNS, terminal_verdicts

EPOCH, BEGIN = date(1970, 1, 1), 10_957 * DAY
ASKED = st.tuples(st.integers(0, 100), st.integers(0, 3))
"""Half days since 2000, nights of delay."""
VERDICT = st.tuples(st.integers(0, 100), st.integers(0, 90), st.sampled_from((0, 0, 1, 20)), st.booleans(), st.booleans())
"""When the report came and how long before that the transaction happened, in half days; nights of delay; fraud; ordinary."""
TERMINALS = st.lists(st.tuples(st.lists(ASKED, max_size=5), st.lists(VERDICT, max_size=14)), max_size=3)


def moment(halves: int) -> int:
    return BEGIN + halves * DAY // 2


def rows_of(terminals: list[tuple[list[Any], list[Any]]]) -> tuple[pa.Table, np.ndarray]:
    groups: list[list[dict[str, Any]]] = []
    for asked, verdicts in terminals:
        plain = {"is_fraud": None, "is_ordinary": False}
        group = [plain | {"at": moment(at), "late": late, "happened": moment(at)} for at, late in asked]
        group += [
            {"at": moment(at), "late": late, "happened": moment(at - before), "is_fraud": fraud, "is_ordinary": ordinary}
            for at, before, late, fraud, ordinary in verdicts
        ]
        groups += [sorted(group, key=lambda row: row["at"])] if group else []
    flat = [row for group in groups for row in group]
    days = [EPOCH + timedelta(days=row["at"] // DAY + row["late"]) for row in flat]
    table = pa.table(
        {
            "transaction_id": pa.array(range(len(flat)), pa.int64()),
            "at": pa.array([row["at"] for row in flat], pa.int64()),
            "happened": pa.array([row["happened"] for row in flat], pa.int64()),
            "day": pa.array(days, pa.date32()),
            "is_fraud": pa.array([row["is_fraud"] for row in flat], pa.bool_()),
            "is_ordinary": pa.array([row["is_ordinary"] for row in flat], pa.bool_()),
        }
    )
    return table, np.cumsum([0, *map(len, groups)])


def wanted(rows: list[dict[str, Any]], me: dict[str, Any]) -> dict[str, float | None]:
    known = [
        row for row in rows
        if row["is_fraud"] is not None and row["at"] <= me["at"] and row["day"] <= me["day"] and row["happened"] > me["at"] - 37 * DAY
    ]  # fmt: skip
    genuine = [row["at"] for row in known if not row["is_fraud"]]
    in_row = [row["at"] for row in known if row["is_fraud"] and row["is_ordinary"] and row["at"] > max(genuine, default=-1)]
    figures = (
        (me["at"] - max(genuine)) / DAY if genuine else None,
        float(len(in_row)) if known else None,
        (me["at"] - min(in_row)) / DAY if in_row else None,
    )
    return dict(zip(COLUMNS, figures, strict=True))


@settings(deadline=None, max_examples=150)
@given(TERMINALS)
def test_the_record_is_what_its_definition_says(terminals: list[tuple[list[Any], list[Any]]]) -> None:
    table, starts = rows_of(terminals)
    held = table.to_pylist()
    groups = [held[a:b] for a, b in itertools.pairwise(starts)]
    expected = [{"transaction_id": me["transaction_id"]} | wanted(group, me) for group in groups for me in group if me["is_fraud"] is None]
    assert terminal_verdicts(table, starts).to_pylist() == expected
