"""The request: one private file, read only where nobody else can have touched it, never quoted, and destroyed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from include.nightshift.erase import request
from include.nightshift.errors import ConfigurationError, ErasureError
from include.nightshift.settings import Settings
from include.usecases.card_fraud.usecase import USE_CASE

CARD = 7_412_906_358_174_205_693


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def file(settings: Settings, token: str) -> Path:
    return settings.home / "erasures" / token


def test_a_request_is_private_says_the_id_as_silver_reads_it_and_is_known_by_its_token(settings: Settings) -> None:
    os.umask(0)
    token = request.make(settings, USE_CASE, f" +00{CARD}\n")
    os.umask(0o022)
    assert stat.S_IMODE(file(settings, token).stat().st_mode) == 0o600
    assert stat.S_IMODE(file(settings, token).parent.stat().st_mode) == 0o700
    held = request.read(settings, USE_CASE, token)
    assert (held.person, held.keys, held.use_case) == (str(CARD), frozenset(), "card_fraud")
    assert str(CARD) not in f"{held} {held!r} {token}"
    assert request.make(settings, USE_CASE, str(CARD)) != token


@pytest.mark.parametrize("text", ["", "x741", f"{CARD}.5", f"{CARD},{CARD}", "9223372036854775808", "٣"])
def test_what_is_no_value_of_the_entity_column_is_refused_and_not_repeated(settings: Settings, text: str) -> None:
    with pytest.raises(ConfigurationError, match="no customer_id of card_fraud: give one whole number") as refusal:
        request.make(settings, USE_CASE, text)
    assert not text or text not in str(refusal.value)
    assert not list(settings.home.glob("erasures/*"))


def link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to(path.with_name("other"))


SPOILED: dict[str, Callable[[Path], object]] = {
    "readable by others": lambda path: path.chmod(0o644),
    "in a folder that others enter": lambda path: path.parent.chmod(0o755),
    "a link": link,
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_file_that_others_may_have_touched_is_refused_with_advice(settings: Settings, spoil: str) -> None:
    token = request.make(settings, USE_CASE, str(CARD))
    SPOILED[spoil](file(settings, token))
    with pytest.raises(ErasureError, match=r"others may have read or written it\. Remove it, and ask anew") as refusal:
        request.read(settings, USE_CASE, token)
    assert str(CARD) not in str(refusal.value)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_a_file_of_another_owner_is_refused(settings: Settings) -> None:
    token = request.make(settings, USE_CASE, str(CARD))
    os.chown(file(settings, token), 12345, 12345)
    with pytest.raises(ErasureError, match="owner 12345"):
        request.read(settings, USE_CASE, token)


@pytest.mark.parametrize("token", ["", "../keys/erasure.key", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n"])
def test_a_token_leads_nowhere_but_to_requests(settings: Settings, token: str) -> None:
    with pytest.raises(ErasureError, match="32 digits of 0-9a-f"):
        request.read(settings, USE_CASE, token)


def test_a_token_that_nobody_has_or_a_file_that_is_no_request_is_refused_without_quoting_it(settings: Settings) -> None:
    with pytest.raises(ErasureError, match=r"its receipt is in ops\.erasures"):
        request.read(settings, USE_CASE, "0" * 32)
    token = request.make(settings, USE_CASE, str(CARD))
    file(settings, token).write_text(str(CARD))
    with pytest.raises(ErasureError, match="is no request") as refusal:
        request.read(settings, USE_CASE, token)
    assert str(CARD) not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_keys_that_are_found_are_added_on_disk_and_the_file_stays_private(settings: Settings) -> None:
    token = request.make(settings, USE_CASE, str(CARD))
    held = request.extend(settings, request.read(settings, USE_CASE, token), {"5", "6"})
    again = request.extend(settings, held, {"7"})
    assert request.read(settings, USE_CASE, token).keys == again.keys == {"5", "6", "7"}
    assert stat.S_IMODE(file(settings, token).stat().st_mode) == 0o600
    assert [path.name for path in file(settings, token).parent.iterdir()] == [token]


def test_a_destroyed_request_is_overwritten_before_it_is_gone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    token = request.make(settings, USE_CASE, str(CARD))
    seen = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **named: (seen.append(path.read_bytes()), unlink(path, **named))[1])
    request.destroy(settings, token)
    assert seen
    assert set(seen[0]) == {0}
    assert not file(settings, token).exists()
    request.destroy(settings, token)
