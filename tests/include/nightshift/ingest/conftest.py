"""A schema of the test's own in the run's PostgreSQL, and a way to say SQL there, each statement committed at once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest


@dataclass(frozen=True)
class Schema:
    """Where a test keeps its tables."""

    uri: str
    name: str
    connection: Any

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def schema(postgresql: str) -> Iterator[Schema]:
    connection = psycopg2.connect(postgresql)
    connection.autocommit = True
    made = Schema(postgresql, f"s{uuid.uuid4().hex}", connection)
    made.sql(f"create schema {made.name}")
    made.sql(f"set search_path to {made.name}")
    yield made
    made.sql(f"drop schema {made.name} cascade")
    connection.close()
