"""Airflow's database: whether its schema is the one that this Airflow wants. `python -m include.nightshift.operate.database` migrates it.

Asking Airflow itself costs seconds at every `up`. So a stamp in the home says what was migrated to what, and the database is asked
whether it is still that: it may have been emptied, or restored from a backup, since.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError
from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Settings


def is_current(settings: Settings) -> bool:
    """Whether nothing needs to be migrated.

    Raises:
        ConfigurationError: the database does not answer, or is none that Airflow can be kept in.
    """
    stamp = _stamp(settings)
    return stamp.exists() and stamp.read_text() == _state(settings)


def migrate(settings: Settings) -> None:
    """Bring the schema to this Airflow's; harmless when it is there.

    Raises:
        subprocess.CalledProcessError: Airflow could not; it has printed why.
    """
    _stamp(settings).unlink(missing_ok=True)
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    subprocess.run([sys.executable, "-m", "nightshift_airflow.migrate"], env=environment(settings) | path, check=True)
    # Last, so that a killed `up` does not leave a lie.
    _stamp(settings).write_text(_state(settings))


def _stamp(settings: Settings) -> Path:
    return settings.home / "airflow" / "migrated"


def _state(settings: Settings) -> str:
    """Which Airflow, which database (hashed: its address holds a password), and at which revision it is."""
    connection = environment(settings)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    database = hashlib.sha256(connection.encode()).hexdigest()
    return f"{importlib.metadata.version('apache-airflow')} {database} {_revision(connection)}"


def _revision(connection: str) -> str | None:
    """The revision of the schema; None where there is no schema yet."""
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    try:
        url = sa.make_url(connection)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            return None
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        with engine.connect() as session:
            if not sa.inspect(session).has_table("alembic_version"):
                return None
            return session.execute(sa.text("select version_num from alembic_version")).scalar()
    except (SQLAlchemyError, ImportError) as error:
        said = " ".join(str(getattr(error, "orig", None) or error).split()).rstrip(".?")
        raise ConfigurationError(
            f"Airflow's database does not answer: {said}. Start it, or mend AIRFLOW__DATABASE__SQL_ALCHEMY_CONN "
            "(postgresql+psycopg2://user:password@host/database)"
        ) from error


if __name__ == "__main__":
    migrate(settings_module.load())
