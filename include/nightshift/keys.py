"""Keys: secrets that turn an id into a digest nobody without the key can make or guess. They lie outside the lake, one file a purpose.

`<home>/keys/<purpose>.key`, 32 random bytes that only this user reads. Whoever reads the tables alone learns nothing; whoever loses the
file can never tell again whose digests they were. Back it up apart from the lakehouse.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift import durable
from include.nightshift.errors import ConfigurationError

if TYPE_CHECKING:
    from include.nightshift.settings import Settings

ERASURE = "erasure"
"""Digests of persons that were erased, so that no old file brings them back."""
PSEUDONYM = "pseudonym"
"""Digests that stand for persons in the tables of analysts."""

SUBJECT = "subject"
"""Digests of whose rows are in a training set, so that this can be told when the rows are gone."""

SIZE = 32
_CHECK = "check"


class Key:
    """One purpose's key. HMAC-SHA256; digests of two purposes, or of two domains of one, never agree."""

    def __init__(self, purpose: str, secret: bytes) -> None:
        self.purpose = purpose
        self._secret = secret
        self.check = self.digester(_CHECK)([purpose])[0][:16]
        """Names the key without telling it: kept beside digests, so that another key is noticed."""

    def __repr__(self) -> str:
        return f"Key({self.purpose!r}, check={self.check!r})"

    def digest(self, domain: str, value: str) -> str:
        """The value's digest, in hexadecimal. `domain` says what it is a value of: a column, mostly."""
        return self.digester(domain)([value])[0]

    def digester(self, domain: str) -> Callable[[Iterable[str]], list[str]]:
        """A function that digests many values of one domain: a million take about a second."""
        pad = self._secret.ljust(64, b"\0")
        # HMAC by its definition, because its two beginnings, hashed once, serve all values: `hmac.digest` would take twice the time.
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in pad) + f"{self.purpose}\0{domain}\0".encode())
        outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in pad))

        def digests(values: Iterable[str]) -> list[str]:
            found = []
            for value in values:
                first, second = inner.copy(), outer.copy()
                first.update(value.encode())
                second.update(first.digest())
                found.append(second.hexdigest())
            return found

        return digests


def made(settings: Settings, purpose: str) -> Key:
    """The purpose's key, made now if there is none. Processes that make it at once all get the same one.

    Raises:
        ConfigurationError: the file is no key, or others can read it.
    """
    durable.write_private_once(_path(settings, purpose), secrets.token_bytes(SIZE))
    return held(settings, purpose)


def held(settings: Settings, purpose: str) -> Key:
    """The purpose's key as it was made.

    Raises:
        ConfigurationError: there is none, the file is no key, or others can read it.
    """
    path = _path(settings, purpose)
    try:
        mode, secret = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing: restore it from your backup of the keys") from error
    if mode & 0o077 or len(secret) != SIZE:
        raise ConfigurationError(
            f"{path} has mode {mode:04o} and {len(secret)} bytes, expected 0600 and {SIZE}: if others may have read it, tell whoever "
            "answers for the data; then `chmod 600` it, or restore it from your backup of the keys"
        )
    return Key(purpose, secret)


def agreed(settings: Settings, purpose: str, checks: Collection[str], *, holds: str, advice: str) -> Key:
    """The key that digests were made with, by the checks kept beside them; made now where there are no digests yet.

    Args:
        holds: which table holds digests of what, the beginning of a sentence.
        advice: what it means that their key is not at hand, and what to do.

    Raises:
        ConfigurationError: the key is missing, is no key, or is another one.
    """
    if not checks:
        return made(settings, purpose)
    try:
        key = held(settings, purpose)
    except ConfigurationError as error:
        raise ConfigurationError(f"{holds}, but their key cannot be read: {error}. {advice}") from error
    if set(checks) != {key.check}:
        raise ConfigurationError(f"{holds} of the key {', '.join(sorted(checks))}, and this one is {key.check}. {advice}")
    return key


def _path(settings: Settings, purpose: str) -> Path:
    if not re.fullmatch(r"[a-z]+", purpose):
        raise ConfigurationError(f"a key's purpose is a lower-case word, not {purpose!r}")
    return settings.home / "keys" / f"{purpose}.key"
