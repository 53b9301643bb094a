"""Notify: verdicts to where people look. `NIGHTSHIFT_NOTIFY` holds Apprise addresses (chat, mail, a JSON webhook), separated by blanks.

The addresses hold secrets: they are never printed.
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
    if not settings.notify or not verdicts:
        return True
    from apprise import Apprise, NotifyType

    stopped = any(verdict.stops for verdict in verdicts)
    notifier = Apprise()
    reached = all([notifier.add(address) for address in settings.notify])
    title = f"Nightshift: {verdicts[0].feed} {verdicts[0].night}: " + ("batch stopped" if stopped else f"{len(verdicts)} rules broken")
    body = "\n".join(map(str, verdicts))
    reached = bool(notifier.notify(body=body, title=title, notify_type=NotifyType.FAILURE if stopped else NotifyType.WARNING)) and reached
    if not reached:
        log.error("a notice could not be delivered to every address of NIGHTSHIFT_NOTIFY; its verdicts are in ops.contract_results")
    return reached
