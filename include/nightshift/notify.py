"""Notify: verdicts and warnings to where people look.

`NIGHTSHIFT_NOTIFY` holds Apprise addresses (chat, mail, a JSON webhook), separated by blanks. They hold secrets: they are never printed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from include.nightshift.rules import Verdict

if TYPE_CHECKING:
    from include.nightshift.settings import Settings

log = logging.getLogger(__name__)


def tell(settings: Settings, verdicts: Sequence[Verdict]) -> bool:
    """Send the verdicts in one notice; False where an address could not be reached, which the log says and stops nothing.

    Nothing is sent where nobody is named, or there is nothing to tell.
    """
    if not verdicts:  # whose feed and night give the title
        return True
    stopped = any(verdict.stops for verdict in verdicts)
    title = f"{verdicts[0].feed} {verdicts[0].night}: " + ("batch stopped" if stopped else f"{len(verdicts)} rules broken")
    return warn(settings, title, list(map(str, verdicts)), where="its verdicts are in ops.contract_results", failure=stopped)


def warn(settings: Settings, title: str, lines: Sequence[str], *, where: str, failure: bool = False) -> bool:
    """Send a notice; False where an address could not be reached, which the log says and stops nothing.

    `where`: where else it can be read, for the log. Nothing is sent where nobody is named, or there is nothing to tell.
    """
    if not settings.notify or not lines:
        return True
    from apprise import Apprise, NotifyType

    notifier = Apprise()
    reached = all([notifier.add(address) for address in settings.notify])
    kind = NotifyType.FAILURE if failure else NotifyType.WARNING
    reached = bool(notifier.notify(body="\n".join(lines), title=f"Nightshift: {title}", notify_type=kind)) and reached
    if not reached:
        log.error("a notice could not be delivered to every address of NIGHTSHIFT_NOTIFY; %s", where)
    return reached
