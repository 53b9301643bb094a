"""The MLflow server: how it is started, and whom it lets in. The platform shows its token; MLflow's own users may be added beside it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from include.nightshift import doors
from include.nightshift import settings as settings_module
from include.nightshift.settings import Settings

if TYPE_CHECKING:
    from flask import Response
    from werkzeug.datastructures import Authorization


def command(settings: Settings) -> list[str]:
    """What Python is started with."""
    folder = settings.home / "mlflow"
    line = ["-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    line += ["--host", settings.binds.mlflow, "--port", str(settings.ports.mlflow)]
    line += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    return [*line, "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]


def environment(settings: Settings) -> dict[str, str]:
    """What this server alone is told. Makes the token, if there is none, and the file that it is told of.

    Raises:
        ConfigurationError: others can read the token.
    """
    doors.make(settings)
    folder = settings.home / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        # Whom an administrator adds may look.
        "default_permission": "READ",
        "database_uri": f"sqlite:///{folder / 'users.db'}",
        "admin_username": doors.USER,
        "authorization_function": f"{__name__}:admit",
        # Passwords are hashed slowly, on purpose, and asked for several times a request.
        "auth_cache_ttl_seconds": "60",
    }
    conf = folder / "users.ini"
    # A percent sign starts an expansion in such files.
    conf.write_text("[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in told.items()).replace("%", "%%"))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(conf),
        # By default, a route that MLflow forgot to guard is open.
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        # The platform's user needs a password to exist; nobody knows it, because its token is what is asked for.
        "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_urlsafe(32),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
    }


def admit() -> Authorization | Response:
    """Who asks, as MLflow wants to know it before each request: the platform by its token, others as users of MLflow's own."""
    from flask import request
    from mlflow.server import auth
    from werkzeug.datastructures import Authorization

    given = request.authorization
    if given is None:
        return auth.make_basic_auth_response()
    shown = given.token if given.type == "bearer" else given.password if given.username == doors.USER else None
    if shown is None:
        return auth.authenticate_request_basic_auth() if given.type == "basic" else auth.make_basic_auth_response()
    expected = doors.token(settings_module.load(), "mlflow")
    if expected is None or not secrets.compare_digest(shown.encode(), expected.encode()):
        return auth.make_basic_auth_response()
    return Authorization("basic", {"username": doors.USER, "password": ""})
