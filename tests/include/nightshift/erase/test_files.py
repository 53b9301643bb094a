"""Landed files, logs and litter of an erasure."""

from __future__ import annotations

import gzip
import hashlib
from datetime import date
from pathlib import Path

import pytest

from include.nightshift.erase import files
from include.nightshift.erase.person import Person
from include.nightshift.errors import LandingError
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import TRANSACTIONS

CARD = 7_412_906_358_174_205_693
PERSON = Person("customer_id", "transaction_id", str(CARD), frozenset({"101"}))
HEADER = "transaction_id,tx_datetime,customer_id,terminal_id,tx_amount"
THEIRS, OTHERS = f"101,2026-11-20 08:00:00,{CARD},21,9.50", "102,2026-11-20 08:00:00,12,21,1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "landing" / "transactions").mkdir(parents=True)
    return Settings(home=tmp_path)


def land(settings: Settings, name: str, content: bytes) -> Path:
    path = settings.landing_folder / "transactions" / name
    path.write_bytes(content)
    return path


def test_files_of_theirs_are_found_in_every_format_and_what_cannot_be_read_is_told(settings: Settings) -> None:
    text = "\n".join([HEADER, OTHERS, THEIRS, ""]).encode()
    land(settings, "2026-11-18.csv", text)
    land(settings, "2026-11-19.jsonl.gz", gzip.compress(f'{{"transaction_id": 101, "customer_id": {CARD}}}\n'.encode()))
    land(settings, "2026-11-20.csv", "\n".join([HEADER, OTHERS, ""]).encode())
    land(settings, "2026-11-21.csv.gz", gzip.compress(text)[:-12])
    land(settings, "2026-11-22.csv", b"a,a\n1,2\n")
    land(settings, "notes.txt", text)
    found = list(files.landed(settings, TRANSACTIONS, PERSON))
    assert [(Path(file.address).name, file.night, file.rows, file.left) for file in found if isinstance(file, files.Landed)] == [
        ("2026-11-18.csv", date(2026, 11, 18), (2,), 1),
        ("2026-11-19.jsonl.gz", date(2026, 11, 19), (1,), 0),
    ]
    assert [Path(file.address).name for file in found if isinstance(file, files.Unread)] == ["2026-11-21.csv.gz", "2026-11-22.csv"]
    assert files.keys(settings, TRANSACTIONS, PERSON) == {"101"}


def test_a_rewritten_file_has_the_hash_that_was_told_and_another_one_in_its_place_is_left_alone(settings: Settings) -> None:
    path = land(settings, "2026-11-18.csv", "\n".join([HEADER, OTHERS, THEIRS, ""]).encode())
    [found] = files.landed(settings, TRANSACTIONS, PERSON)
    assert isinstance(found, files.Landed)
    told = found.cut
    files.rewrite(found)
    assert path.read_text().splitlines() == [HEADER, OTHERS]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == told
    land(settings, "2026-11-18.csv", b"landed anew")
    with pytest.raises(LandingError, match="landed anew in this moment"):
        files.rewrite(found)
    assert path.read_bytes() == b"landed anew"


def test_numbers_in_logs_are_starred_in_place_while_somebody_goes_on_writing(settings: Settings) -> None:
    path = settings.home / "airflow" / "logs" / "dag" / "attempt=1.log"
    path.parent.mkdir(parents=True)
    with path.open("a") as log:
        log.write(f"seen {CARD}, {CARD}!\n")
        log.flush()
        assert files.redact(settings, {CARD}) == {"airflow/logs/dag/attempt=1.log": 2}
        log.write("more\n")
    assert path.read_text() == f"seen {'*' * 19}, {'*' * 19}!\nmore\n"
    assert files.redact(settings, {CARD}) == files.redact(settings, set()) == {}


def test_what_killed_stages_left_is_removed(settings: Settings) -> None:
    (settings.home / "staging" / "x").mkdir(parents=True)
    (settings.home / "dbt" / "run-1").mkdir(parents=True)
    (settings.home / "dbt" / "file").touch()
    assert sorted(files.clear_litter(settings)) == ["dbt/file", "dbt/run-1", "staging/x"]
    assert not any((settings.home / "dbt").iterdir())
