"""Docs: what every model is, what it builds on and how it is tested, as one page: `<home>/reports/dbt.html`.

`python -m include.nightshift.features.docs` writes it, from the dbt project alone: nothing needs to run.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift import durable
from include.nightshift import settings as settings_module
from include.nightshift.errors import ConfigurationError, NightshiftError
from include.nightshift.features import project

if TYPE_CHECKING:
    from include.nightshift.settings import Settings

# The columns' types would be asked of the server, which lists each once already, and those of a unit test's input too.
_UNASKED = ["--empty-catalog", "--no-populate-cache", "--exclude", "resource_type:unit_test"]


def place(settings: Settings) -> Path:
    """Where the page is, once it was written."""
    return settings.home / "reports" / "dbt.html"


def write(settings: Settings) -> Path:
    """Put the page in its place, whole; returns where that is.

    Raises:
        ConfigurationError: dbt cannot read the project; the message holds its words.
        OSError: the page cannot be written.
    """
    from dbt.cli.main import dbtRunner

    page = place(settings)
    page.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        result = dbtRunner().invoke(["docs", "generate", "--static", "--quiet", *_UNASKED, *project.options(folder)])
        if not result.success:
            raise ConfigurationError(f"dbt cannot describe the models: {result.exception or 'see its words above'}. Mend {project.PROJECT}")
        with durable.placed(page) as temporary:
            shutil.copyfile(f"{folder}/static_index.html", temporary)
    return page


def main() -> int:
    """Say where the page is; 1 with one line when there is none."""
    try:
        print(write(settings_module.load()))  # noqa: T201
    except (NightshiftError, OSError) as error:
        print(f"nightshift: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
