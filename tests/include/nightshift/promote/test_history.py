"""Who reigns over which night, as `ops.champion_history` says; what needs no model server."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import records, tables
from include.nightshift.promote import history, registry
from include.nightshift.settings import Settings
from include.nightshift.usecase import UseCase

START = date(2010, 1, 10)
DAY = timedelta(days=1)


class Aliases:
    """Stands for the model server: remembers where the alias points."""

    def __init__(self) -> None:
        self.champion = ""

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        assert (name, alias) == ("card_fraud", "champion")
        self.champion = version


@pytest.fixture
def aliases(monkeypatch: pytest.MonkeyPatch) -> Aliases:
    server = Aliases()
    monkeypatch.setattr(registry, "client", lambda settings: server)
    return server


def test_a_champion_reigns_from_its_night_until_the_next_ones_and_old_nights_keep_theirs(
    records_home: Settings, use_case: UseCase, aliases: Aliases
) -> None:
    def promote(version: str, night: date, digest: str) -> bool:
        return history.promote(
            records_home, use_case, version=version, from_night=night, why="gates passed", by="operator", report_digest=digest
        )

    assert history.champions(records_home, use_case, [START]) == {}
    assert promote("1", START, "a")
    assert promote("2", START + 5 * DAY, "b")
    assert not promote("2", START + 9 * DAY, "b")
    assert aliases.champion == "2"
    nights = [START - DAY, START, START + 4 * DAY, START + 5 * DAY, START + 500 * DAY]
    assert [history.champions(records_home, use_case, nights).get(night) for night in nights] == [None, "1", "1", "2", "2"]
    with pytest.raises(RegistryError, match=r"version 2 reigns from 2010-01-15 on, so (version )?3 cannot from 2010-01-12"):
        promote("3", START + 2 * DAY, "c")
    assert len(records.read(records_home, tables.CHAMPION_HISTORY)) == 2

    overlapping = {"use_case": "card_fraud", "model_version": "9", "from_night": START, "report_digest": "overlap"}
    records.amend(records_home, tables.CHAMPION_HISTORY, lambda held: [*held, overlapping])
    with pytest.raises(RegistryError, match="reign, expected one at most"):
        history.champions(records_home, use_case, [START])
