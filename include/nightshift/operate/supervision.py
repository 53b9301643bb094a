"""The supervisor of one installation: what it runs, how it is reached, and how everything it started is found again.

Supervisor starts the processes, restarts what dies and rotates the logs. One of them is started as
`python -m include.nightshift.operate.supervision NAME`, which first ends what a killed predecessor left behind and then becomes
the program.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil

from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError
from include.nightshift.operate import registry_server
from include.nightshift.operate.environment import environment
from include.nightshift.settings import Settings

MARK = "NIGHTSHIFT_SUPERVISED"
"""Environment variable that every supervised process, and what it starts, carries: the home it belongs to."""
PROGRAM = "NIGHTSHIFT_PROGRAM"
"""And which program of that home it is."""

_BETWEEN_PROGRAMS = (0.0, 0.01, 0.05)
"""Seconds to wait before each look at processes that show no environment: one that is just being replaced by `exec` has none for a moment.
What never has one (a thread of the kernel) is not ours."""

_LONGEST_SOCKET = 95
"""Unix sockets take 107 bytes, and supervisor first binds to the path with its process id appended."""


@dataclass(frozen=True)
class Program:
    """One supervised process."""

    command: Callable[[Settings], list[str]]
    address: Callable[[Settings], str]
    """What is told to people; empty where nobody talks to it."""
    told: Callable[[Settings], dict[str, str]] = lambda settings: {}
    """What its environment holds beside that of all."""


def _airflow(*arguments: str) -> Callable[[Settings], list[str]]:
    return lambda settings: ["-m", "airflow", *arguments]


PROGRAMS = {
    "lakehouse": Program(
        lambda settings: ["-m", "include.nightshift.lakehouse.server"],
        lambda settings: f"sc://localhost:{settings.ports.spark}  jdbc:hive2://127.0.0.1:{settings.ports.jdbc}",
    ),
    "mlflow": Program(
        registry_server.command, lambda settings: f"http://127.0.0.1:{settings.ports.mlflow}", told=registry_server.environment
    ),
    "airflow-api-server": Program(_airflow("api-server"), lambda settings: settings.airflow_url),
    # Task logs are read from the disk that all processes share; Airflow's log servers would listen on every address of the machine.
    "airflow-scheduler": Program(_airflow("scheduler", "--skip-serve-logs"), lambda settings: ""),
    "airflow-dag-processor": Program(_airflow("dag-processor"), lambda settings: ""),
    "airflow-triggerer": Program(_airflow("triggerer", "--skip-serve-logs"), lambda settings: ""),
}


def programs(settings: Settings) -> dict[str, Program]:
    """What this installation runs itself: all, less the lakehouse or MLflow that it is told to find elsewhere."""
    elsewhere = set()
    if not settings.serves_lakehouse:
        elsewhere.add("lakehouse")
    if not settings.serves_mlflow:
        elsewhere.add("mlflow")
    return {name: program for name, program in PROGRAMS.items() if name not in elsewhere}


def log_file(settings: Settings, name: str) -> Path:
    return settings.home / "logs" / f"{name}.log"


def supervised_environment(settings: Settings) -> dict[str, str]:
    """The environment of the supervisor and all below it, marked as this home's."""
    return environment(settings) | {MARK: str(settings.home)}


def start(settings: Settings) -> Any:
    """Start the supervisor, which starts nothing yet; returns its XML-RPC interface.

    Raises:
        ConfigurationError: it did not come up; says why.
    """
    conf = settings.home / "supervisord.conf"
    conf.write_text(_configuration(settings))
    conf.chmod(0o600)
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)]
    done = subprocess.run(command, env=supervised_environment(settings), cwd=settings.home, capture_output=True, text=True, check=False)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and done.returncode == 0:
        if proxy := connect(settings):
            return proxy
        time.sleep(0.05)
    said = (done.stderr or done.stdout).strip()[-500:]
    raise ConfigurationError(f"supervisor did not start: {said} See {log_file(settings, 'supervisord')}, then `make up` again")


def connect(settings: Settings) -> Any | None:
    """The supervisor's XML-RPC interface, or None when it does not run."""
    from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

    conf = configparser.RawConfigParser()
    if not conf.read(settings.home / "supervisord.conf"):
        return None
    socket = Path(conf["unix_http_server"]["file"])
    # In a shared temporary folder, somebody else's socket is nobody to talk to.
    if not socket.exists() or socket.stat().st_uid != os.getuid():
        return None
    proxy = ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{socket}"))
    try:
        proxy.supervisor.getState()
    except OSError:
        return None
    return proxy.supervisor


def started_with_other(settings: Settings, supervisor: Any) -> list[str]:
    """The settings (ours, Airflow's, AWS's) that the running supervisor was started with other values of: names only, some are secret."""
    running, wanted = psutil.Process(supervisor.getPID()).environ(), supervised_environment(settings)
    names = sorted(name for name in running.keys() | wanted.keys() if name.startswith(("NIGHTSHIFT_", "AIRFLOW__", "AWS_")))
    return [name for name in names if running.get(name) != wanted.get(name)]


def states(supervisor: Any) -> dict[str, dict[str, Any]]:
    """What the supervisor knows of each program: `statename`, `pid`, `start` and `now` (epoch seconds), `spawnerr`."""
    return {info["name"]: info for info in supervisor.getAllProcessInfo()}


def started(known: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The programs that run, or are about to: name -> epoch seconds of their start."""
    return {name: float(info["start"]) for name, info in known.items() if info["statename"] in ("STARTING", "RUNNING")}


def start_program(supervisor: Any, name: str) -> None:
    """Start one program; harmless when it runs."""
    try:
        supervisor.startProcess(name, False)
    except Fault as fault:
        if "ALREADY_STARTED" not in fault.faultString:
            raise


def shut_down(supervisor: Any, *, patience: float) -> None:
    """Let the supervisor stop its programs (each has 15 s before it is killed), and wait until it is gone itself."""
    process = psutil.Process(supervisor.getPID())
    supervisor.shutdown()
    psutil.wait_procs([process], timeout=patience)


def socket_path(home: Path) -> Path:
    """Where the supervisor listens: in the home, or under the temporary folder when that path is too long for a socket."""
    inside = home / "supervisor.sock"
    if len(os.fsencode(inside)) <= _LONGEST_SOCKET:
        return inside
    return Path(tempfile.gettempdir()) / f"nightshift-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}.sock"


def marked(settings: Settings, program: str | None = None) -> list[psutil.Process]:
    """All processes that carry this home's mark, without the one that asks and its ancestors; of one program, if named."""
    asking = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    unread = [process for process in psutil.process_iter() if process.pid not in asking]
    found = []
    for pause in _BETWEEN_PROGRAMS:
        time.sleep(pause)
        asked, unread = unread, []
        for process in asked:
            try:
                environ = process.environ()
            except (psutil.Error, OSError):
                # Somebody else's process, or gone meanwhile: not ours.
                continue
            if not environ:
                unread.append(process)
            elif environ.get(MARK) == str(settings.home) and program in (None, environ.get(PROGRAM)):
                found.append(process)
        if not unread:
            break
    return found


def sweep(processes: list[psutil.Process], *, patience: float) -> None:
    """Ask processes to end, and end them after `patience` seconds."""
    for kill, wait in ((psutil.Process.terminate, patience), (psutil.Process.kill, 5.0)):
        for process in processes:
            try:
                kill(process)
            except psutil.NoSuchProcess:
                continue
        processes = psutil.wait_procs(processes, timeout=wait)[1]


def become(name: str) -> None:
    """End what a killed predecessor of this program left behind, then take its place.

    MLflow's server and Airflow's executors have children that outlive them and hold their ports. What moved to a session of its own
    (a training program that a new attempt will find again) stays.
    """
    settings = settings_module.load()
    session = os.getsid(0)
    left = []
    for process in marked(settings, name):
        try:
            if os.getsid(process.pid) == session:
                left.append(process)
        except ProcessLookupError:
            continue
    sweep(left, patience=3.0)
    program = PROGRAMS[name]
    line = [sys.executable, *program.command(settings)]
    os.execve(line[0], line, {**os.environ, **program.told(settings), PROGRAM: name})  # noqa: S606 - the program takes this process's place


def _configuration(settings: Settings) -> str:
    home = settings.home
    sections: dict[str, dict[str, object]] = {
        "unix_http_server": {"file": socket_path(home), "chmod": "0700"},
        "supervisord": {
            "logfile": log_file(settings, "supervisord"),
            "pidfile": home / "supervisord.pid",
            "childlogdir": home / "logs",
            "logfile_maxbytes": "5MB",
            "logfile_backups": 1,
        },
        "rpcinterface:supervisor": {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
    }
    for name in programs(settings):
        sections[f"program:{name}"] = {
            "command": shlex.join([sys.executable, "-m", "include.nightshift.operate.supervision", name]),
            "directory": home,
            "autostart": "false",
            "autorestart": "true",
            "startsecs": 3,
            "startretries": 10,
            "stopasgroup": "true",
            "killasgroup": "true",
            "stopwaitsecs": 15,
            "redirect_stderr": "true",
            "stdout_logfile": log_file(settings, name),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": 2,
        }
    # A percent sign starts an expansion in supervisor's files.
    blocks = [[f"[{section}]", *(f"{key} = {value}" for key, value in keys.items())] for section, keys in sections.items()]
    return "\n\n".join("\n".join(block) for block in blocks).replace("%", "%%") + "\n"


if __name__ == "__main__":
    become(sys.argv[1])
