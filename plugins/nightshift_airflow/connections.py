"""Airflow connections as the addresses that the library takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

if TYPE_CHECKING:
    from airflow.sdk import Connection


def postgresql(name: str) -> str:
    """The `postgresql://` address of a connection, its extras as parameters of libpq (`sslmode`, `sslrootcert`, …).

    Not the connection's own `get_uri`: with one extra that is no text, that hides all of them in a parameter nobody reads, sslmode too.

    Raises:
        AirflowFailException: there is no such connection, it is to something else, or its extras are no parameters.
    """
    from airflow.sdk import Connection

    try:
        connection = Connection.get(name)
    except AirflowNotFoundException as error:
        raise AirflowFailException(
            f"there is no connection {name!r}: set AIRFLOW_CONN_{name.upper()} where tasks run, or add it in the UI (Admin, Connections)"
        ) from error
    if connection.conn_type not in ("postgres", "postgresql"):
        raise AirflowFailException(f"connection {name!r} is of type {connection.conn_type!r}: a feed is pulled over one of type postgres")
    user = quote(connection.login or "", safe="") + (":" + quote(connection.password, safe="") if connection.password else "")
    host = connection.host or ""
    place = (f"[{host}]" if ":" in host else quote(host, safe=",")) + (f":{connection.port}" if connection.port else "")
    # Percent signs for spaces: libpq knows no plus signs.
    extras = urlencode(_extras(connection), quote_via=quote)
    return f"postgresql://{user}{'@' if user else ''}{place}/{quote(connection.schema or '', safe='')}{'?' if extras else ''}{extras}"


def _extras(connection: Connection) -> dict[str, str]:
    """The extras as libpq's parameters. None is dropped: one that does not count might be the one that asks for TLS."""
    advice = 'write parameters of libpq, such as {"sslmode": "verify-full", "sslrootcert": "/etc/ssl/source.pem"}'
    try:
        extras = json.loads(connection.extra or "{}")
    except json.JSONDecodeError as error:
        raise AirflowFailException(f"connection {connection.conn_id!r}: its extras are no JSON ({error.msg}): {advice}") from None
    if not isinstance(extras, dict) or any(isinstance(value, dict | list) or value is None for value in extras.values()):
        raise AirflowFailException(f"connection {connection.conn_id!r}: its extras are no plain values by name: {advice}")
    return {extra: str(int(value)) if isinstance(value, bool) else str(value) for extra, value in extras.items()}
