"""Keys: made once, kept to one user, and no two digests of different things agree."""

import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from include.nightshift import keys
from include.nightshift.errors import ConfigurationError
from include.nightshift.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def test_a_key_is_made_once_for_its_owner_alone(settings: Settings) -> None:
    first = keys.made(settings, keys.ERASURE)
    path = settings.home / "keys" / "erasure.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_bytes()) == keys.SIZE
    assert keys.made(settings, keys.ERASURE).check == keys.held(settings, keys.ERASURE).check == first.check
    assert [entry.name for entry in path.parent.iterdir()] == ["erasure.key"]


def test_many_who_make_it_at_once_get_the_same_one(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: keys.made(settings, keys.ERASURE).check, range(32)))
    assert len(set(made)) == 1
    assert len(list((settings.home / "keys").iterdir())) == 1


def test_a_digest_is_hmac_sha256_and_depends_on_purpose_domain_and_value(settings: Settings) -> None:
    key = keys.made(settings, keys.ERASURE)
    secret = (settings.home / "keys" / "erasure.key").read_bytes()
    assert key.digest("customer_id", "11") == hmac.new(secret, b"erasure\0customer_id\x0011", sha256).hexdigest()
    others = [
        key.digest("customer_id", "12"),
        key.digest("terminal_id", "11"),
        keys.Key(keys.PSEUDONYM, secret).digest("customer_id", "11"),
    ]
    assert len({key.digest("customer_id", "11"), *others}) == 4
    assert key.digester("customer_id")(["11", "12"]) == [key.digest("customer_id", "11"), others[0]]


def test_the_check_value_names_the_key_and_does_not_tell_it(settings: Settings, tmp_path: Path) -> None:
    key = keys.made(settings, keys.ERASURE)
    other = keys.made(Settings(home=tmp_path / "other"), keys.ERASURE)
    assert key.check != other.check
    secret = (settings.home / "keys" / "erasure.key").read_bytes()
    assert secret.hex() not in repr(key) + repr(vars(other))


@pytest.mark.parametrize("spoil", ["missing", "readable", "short"])
def test_a_key_that_is_missing_readable_by_others_or_cut_is_refused_with_advice(settings: Settings, spoil: str) -> None:
    keys.made(settings, keys.ERASURE)
    path = settings.home / "keys" / "erasure.key"
    match spoil:
        case "missing":
            path.unlink()
        case "readable":
            path.chmod(0o640)
        case "short":
            path.write_bytes(b"x" * 31)
    with pytest.raises(ConfigurationError, match="backup of the keys"):
        keys.held(settings, keys.ERASURE)
