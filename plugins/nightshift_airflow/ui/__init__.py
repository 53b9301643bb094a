"""Pages of our own in Airflow's web server, below `/nightshift`."""

from __future__ import annotations

from typing import Any


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application of all pages. Imported with the first request: a plugin is loaded by every process of Airflow."""
    from nightshift_airflow.ui.pages import app

    await app(scope, receive, send)
