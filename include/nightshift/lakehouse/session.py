"""The one way into the lakehouse: a Spark Connect session, and rows out of it as plain dictionaries."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from include.nightshift import doors
from include.nightshift.errors import LakehouseError
from include.nightshift.settings import LOOPBACK

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client import DefaultChannelBuilder

    from include.nightshift.settings import Settings

_sessions: dict[str, SparkSession] = {}
"""This process's session on each endpoint."""

_PARAMETER = re.compile(r"(?<!:):([a-z_]+)\b")


def connect(settings: Settings, *, wait_seconds: float = 60.0) -> SparkSession:
    """A session on the installation's lakehouse server; cheap when this process has one already.

    A server that is being restarted is waited for. Without this check Spark's client would try for ten silent minutes.

    Raises:
        LakehouseError: nobody answers within `wait_seconds`, or whoever answers refuses this installation's token.
        ConfigurationError: the token cannot be read.
    """
    address = urlsplit(settings.spark_url)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            socket.create_connection((address.hostname or "127.0.0.1", address.port or 15002), timeout=5).close()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise LakehouseError(
                    f"no lakehouse server answers at {settings.spark_url} after {wait_seconds:g} s ({error}): "
                    "look at `make status` and the log lakehouse.log, or start it with `make up`"
                ) from error
            time.sleep(0.5)
    held = _sessions.get(settings.spark_url)
    if held is None or not _lives(held):
        held = _sessions[settings.spark_url] = opened(settings)
    return held


def opened(settings: Settings) -> SparkSession:
    """A session of the caller's own, beside the one that this process shares.

    Raises:
        LakehouseError: whoever answers refuses this installation's token.
        ConfigurationError: the token cannot be read.
    """
    from pyspark.errors.exceptions.connect import SparkConnectException
    from pyspark.sql.connect.session import SparkSession

    # As `SparkSession.builder.remote` does, which takes a token in the address only: by this, pyspark's functions know whom they serve.
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"
    # Not getOrCreate: it hands out whatever session the process has, also one on another installation's server.
    session = SparkSession.builder.channelBuilder(_channel(settings)).create()
    try:
        session.conf.get("spark.sql.session.timeZone")
    except SparkConnectException as error:
        session.stop()
        raise LakehouseError(
            f"the lakehouse server at {settings.spark_url} lets this process in no further: {error}. Is it another home's server, or was "
            "the token made anew while it ran (`make down`, then `make up`)? One elsewhere needs NIGHTSHIFT_SPARK_TOKEN_FILE"
        ) from error
    return session


def _channel(settings: Settings) -> DefaultChannelBuilder:
    """The way to the endpoint, with its token if it has one."""
    from pyspark.sql.connect.client import DefaultChannelBuilder

    class Own(DefaultChannelBuilder):
        # Spark's client shows a token without TLS to `localhost` only. That may be ::1 too, where our server does not listen, and anybody
        # on this machine could.
        @property
        def endpoint(self) -> str:
            return f"{LOOPBACK}:{settings.ports.spark}"

    way = Own(f"sc://localhost:{settings.ports.spark}") if settings.serves_lakehouse else DefaultChannelBuilder(settings.spark_url)
    if shown := doors.token(settings, "spark"):
        way.set(way.PARAM_TOKEN, shown)
    return way


def _lives(session: SparkSession) -> bool:
    """Whether the server still knows the session: one that was started again meanwhile does not."""
    from pyspark.errors.exceptions.connect import SparkConnectException

    try:
        return not session.is_stopped and bool(session.conf.get("spark.sql.session.timeZone"))
    except SparkConnectException:
        return False


def rows(session: SparkSession, query: str, **parameters: Any) -> list[dict[str, Any]]:
    """Run a query and fetch all its rows. `:name` in the query stands for a parameter, never for text pasted in.

    Through Arrow, so that timestamps come back as the UTC they are, whatever the machine's own time zone.

    Raises:
        KeyError: the query names a parameter that is not given.
    """
    return session.sql(bind(query, parameters)).toArrow().to_pylist()


def bind(query: str, parameters: Mapping[str, Any]) -> str:
    """The query with each `:name` replaced by the parameter's literal.

    Spark's own `args` do not reach the server's parser: Delta's stands in front of it and drops them (Delta 4.4.0, Spark 4.2.0).
    """
    return _PARAMETER.sub(lambda match: literal(parameters[match[1]]), query)


def literal(value: date | datetime | str | int | bool | Decimal) -> str:
    """A value as a SQL literal, for the places that take no parameters (`replaceWhere`, dbt variables)."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
        case datetime():
            return f"timestamp'{value.isoformat(sep=' ')}'"
        case date():
            return f"date'{value.isoformat()}'"
        case str():
            # Spark reads backslashes in literals; a doubled quote is not enough.
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    raise TypeError(f"no SQL literal for {type(value).__name__}")


def where(columns: Mapping[str, Iterable[Any]]) -> str:
    """`column in (…) and …` from checked column names and any values."""
    clauses = [f"{name} in ({', '.join(literal(value) for value in values)})" for name, values in columns.items()]
    return " and ".join(clauses)
