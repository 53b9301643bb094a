"""Doors: Spark Connect and MLflow let in whoever shows their token, a secret of this home. JDBC cannot ask, so it never leaves loopback.

`<home>/doors/<door>.token`, made at the first start, which only this user reads. A token is on no command line and in no log, and in the
environment of those alone who ask or answer by it. To change one: `make down`, delete the file, `make up`.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from include.nightshift import durable
from include.nightshift.errors import ConfigurationError

if TYPE_CHECKING:
    from include.nightshift.settings import Settings

Door = Literal["spark", "mlflow"]

USER = "nightshift"
"""The name that goes with MLflow's token where a name is asked for: in a browser."""

_SHORTEST = 32
"""Characters; those that are made here have 43."""


def make(settings: Settings) -> None:
    """Make the tokens of the doors that this installation opens itself; those that are there stay.

    Raises:
        ConfigurationError: one that is there holds no token, or others can read it: the door would let in whoever did.
    """
    doors: tuple[Door, ...] = ("spark", "mlflow")
    for door in doors:
        if _ours(settings, door):
            durable.write_private_once(_made(settings, door), secrets.token_urlsafe(32).encode())
            token(settings, door)


def token(settings: Settings, door: Door) -> str | None:
    """What to show at a door; None where it is somebody else's, and no setting names a token for it.

    Raises:
        ConfigurationError: there is no such file, it holds no token, or others can read it.
    """
    path = _file(settings, door)
    if path is None:
        return None
    try:
        mode, held = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except FileNotFoundError as error:
        advice = "it is made when the server starts, so `make down`, then `make up`"
        if not _ours(settings, door):
            advice = f"write the token of {getattr(settings, 'spark_url' if door == 'spark' else 'mlflow_url')} there, with mode 0600"
        raise ConfigurationError(f"{path} is missing, the token of {door}: {advice}") from error
    if mode & 0o077 or len(held) < _SHORTEST or not held.isascii() or len(held.split()) != 1:
        raise ConfigurationError(
            f"{path} has mode {mode:04o} and {len(held)} characters, expected 0600 and one word of {_SHORTEST} at least: others may know "
            "it, or anybody guess it. `make down`, delete it, `make up` makes another"
        )
    return held


def introduce(settings: Settings) -> None:
    """Have MLflow's client show this installation's token from now on, in this process and what it starts."""
    if shown := token(settings, "mlflow"):
        os.environ["MLFLOW_TRACKING_TOKEN"] = shown
        for other in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            # MLflow's client would prefer them.
            os.environ.pop(other, None)


def _ours(settings: Settings, door: Door) -> bool:
    return settings.serves_lakehouse if door == "spark" else settings.serves_mlflow


def _file(settings: Settings, door: Door) -> Path | None:
    if _ours(settings, door):
        return _made(settings, door)
    return settings.spark_token_file if door == "spark" else settings.mlflow_token_file


def _made(settings: Settings, door: Door) -> Path:
    return settings.home / "doors" / f"{door}.token"
