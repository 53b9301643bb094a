"""Once per checkout: a bare Python 3.11 becomes the locked environment, `python3.11 -m include.nightshift.operate.setup`.

Standard library only. What is done already is skipped in well under a second: the environment by a stamp that holds the lock's
SHA-256, the jars by their presence in the home. An interrupted setup has no stamp and simply goes on.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

from include.nightshift.operate import preflight

ROOT = Path(__file__).resolve().parents[3]
UV = "uv==0.13.8"
_started = time.monotonic()


def main() -> int:
    """Check the machine, then make what is missing; 1 with a sentence when that cannot be."""
    if preflight.refuse(preflight.python()):
        return 1
    # Only now: our modules need the right Python to be imported.
    from include.nightshift import settings as settings_module
    from include.nightshift.errors import ConfigurationError

    try:
        settings = settings_module.load()
        fresh = not is_current(ROOT)
        room = preflight.DISK_FOR_SETUP_GB if not (ROOT / ".venv").exists() else preflight.DISK_TO_RUN_GB
        jars_room = preflight.DISK_FOR_S3_JARS_GB if settings.on_s3 and lacks_jars(settings.home, s3=True) else 0
        disks = preflight.disk(ROOT, room), preflight.disk(settings.home, preflight.DISK_TO_RUN_GB + jars_room)
        # Better said now than after a minute of downloads; later it is said by what starts the processes.
        if preflight.refuse(*disks, preflight.memory() if fresh else None):
            return 1
        if fresh:
            make_environment(ROOT)
        fetch_jars(ROOT, settings.home, s3=settings.on_s3)
    except ConfigurationError as error:
        print(f"nightshift: {error}", file=sys.stderr)
        return 1
    return 0


def is_current(root: Path) -> bool:
    """Whether `<root>/.venv` was completed from the lock as it is now."""
    stamp = root / ".venv" / "nightshift.lock.sha256"
    return stamp.exists() and stamp.read_text() == _digest(root)


def make_environment(root: Path) -> None:
    """Make `<root>/.venv` from `requirements.lock`, every file checked against its hash, and stamp it.

    Bytecode is compiled now: each Airflow task is a process, and importing from source takes three times as long. Explicitly,
    because PYTHONDONTWRITEBYTECODE, where it is set, would keep Python from doing it later.

    Raises:
        ConfigurationError: a step failed; names the step, and its output stands above.
    """
    folder = root / ".venv"
    python = folder / "bin" / "python"
    if not python.exists():
        _step("making .venv", [sys.executable, "-m", "venv", str(folder)], "does this Python lack venv (Debian: python3.11-venv)?")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV]
    _step("installing uv", pip, "is the package index reachable, and are SSL_CERT_FILE and PIP_INDEX_URL right?")
    install = [str(python), "-m", "uv", "pip", "install", "--python", str(python), "--require-hashes", "--compile-bytecode"]
    _step(
        "installing 350 packages (7 GB, a minute or more)",
        [*install, "--quiet", "-r", str(root / "requirements.lock")],
        "is the package index reachable (uv reads UV_DEFAULT_INDEX and SSL_CERT_FILE), and is there room on the disk?",
    )
    (folder / "nightshift.lock.sha256").write_text(_digest(root))


def fetch_jars(root: Path, home: Path, *, s3: bool) -> None:
    """Fetch the lakehouse's jars into the home where they are missing.

    Raises:
        ConfigurationError: the download failed; the reason stands above.
    """
    if not lacks_jars(home, s3=s3):
        return
    command = [str(root / ".venv" / "bin" / "python"), "-m", "include.nightshift.lakehouse.jars"]
    _step("fetching the lakehouse's jars" + (", 700 MB for tables on S3" if s3 else ""), command, "see the line above")


def lacks_jars(home: Path, *, s3: bool) -> bool:
    """Whether the home lacks any of the jars that it needs."""
    from include.nightshift.lakehouse import jars

    return not all((home / "jars" / name).exists() for name in (*jars.DELTA, *(jars.S3 if s3 else ())))


def _step(what: str, command: list[str], advice: str) -> None:
    """Run one step with a line before it; its own output shows only when it fails."""
    from include.nightshift.errors import ConfigurationError

    print(f"{time.monotonic() - _started:6.1f} s  {what}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "UV_NO_PROGRESS": "1"}
    # The package index that pip is told about is meant for uv too.
    if "PIP_INDEX_URL" in environment:
        environment.setdefault("UV_DEFAULT_INDEX", environment["PIP_INDEX_URL"])
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        print("\n".join(done.stdout.strip().splitlines()[-15:]), file=sys.stderr)
        raise ConfigurationError(f"{what} failed with exit code {done.returncode}: {advice} Run the command again, it goes on from here")


def _digest(root: Path) -> str:
    return hashlib.sha256((root / "requirements.lock").read_bytes()).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
