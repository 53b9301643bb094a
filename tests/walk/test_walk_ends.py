"""How an installation ends: the last that happens to the one that the walk went through."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from include.nightshift.errors import ConfigurationError
from include.nightshift.operate import processes, supervision
from include.nightshift.settings import Ports, Settings

if TYPE_CHECKING:
    from tests.conftest import Running

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1800)]


def test_down_leaves_nothing_not_even_what_left_its_session(running: Running) -> None:
    settings = running.settings
    # As a training program does that is to outlive its task: a session of its own, started from within this home.
    runaway = subprocess.Popen(["sleep", "300"], env=supervision.supervised_environment(settings), start_new_session=True)
    try:
        ran = supervision.marked(settings)
        assert runaway.pid in {process.pid for process in ran}
        done = running.down()
        assert done.returncode == 0
        assert runaway.wait(5) == -signal.SIGTERM
        assert not [process for process in ran if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert "nothing runs" in running.run("down").stdout
    finally:
        runaway.kill()


def test_clean_deletes_a_home_and_nothing_else(running: Running, tmp_path: Path) -> None:
    settings = running.settings
    precious = tmp_path / "precious"
    precious.mkdir()
    with pytest.raises(ConfigurationError, match="was not made by `make up`"):
        processes.clean(Settings(home=precious, ports=Ports.free()))
    assert precious.exists()
    processes.clean(settings)
    assert not settings.home.exists()
