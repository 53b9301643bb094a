"""Programs in a process of their own: Airflow takes over the logging, and the connections, of whoever imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from include.nightshift.operate.environment import environment
from include.nightshift.settings import ROOT, Settings

ANSWER = "ANSWER"
"""What a program prints before its answer, as JSON, in its last line."""


@dataclass(frozen=True)
class Told:
    """What a program said."""

    answer: Any
    output: str
    """All of it, both streams."""


def run(settings: Settings, *line: str, **environ: str) -> Told:
    """Python, in the environment of an installation, with Airflow's plugins: `run(settings, "-c", PROGRAM, argument)`.

    Raises:
        AssertionError: the program failed; with the end of what it said.
        JSONDecodeError: it gave no answer.
    """
    variables = environment(settings) | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"} | environ
    done = subprocess.run([sys.executable, *line], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Told(json.loads(done.stdout.rpartition(ANSWER)[2]), done.stdout + done.stderr)
