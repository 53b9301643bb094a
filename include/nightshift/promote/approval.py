"""Approval: whose yes counts. Who has a hand in a candidate does not answer for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.nightshift.usecase import UseCase

_SEPARATOR = "\x1f"


@dataclass(frozen=True, kw_only=True)
class Involved:
    """Who has a hand in a candidate, by the names of Airflow's users; of authors, also the names and addresses of their commits."""

    triggered_by: str | None
    """Who started the training; None where an event did."""
    released_by: frozenset[str] = frozenset()
    """Who let rows out of quarantine that it was trained on."""
    authors: frozenset[str] | None = None
    """Who wrote of its recipe, features and use case since the champion's; None where nobody can tell."""


def objections(by: str | None, approvers: Collection[str], involved: Involved) -> tuple[str, ...]:
    """Why this user's yes does not count; nothing where it does.

    Args:
        by: who answered; None where nobody did in time.
        approvers: whose word counts at all.
        involved: who has a hand in the candidate.
    """
    if not by:
        return ("nobody answered in time",)
    said = []
    if by not in approvers:
        said.append(f"{by} is none of the approvers ({', '.join(sorted(approvers))})")
    if by == involved.triggered_by:
        said.append(f"{by} started the training")
    if by in involved.released_by:
        said.append(f"{by} let rows out of quarantine that it was trained on")
    if involved.authors and _is_among(by, involved.authors):
        said.append(f"{by} wrote of its recipe or features since the champion's")
    return tuple(said)


def _is_among(user: str, authors: Iterable[str]) -> bool:
    """Whether a user is one of the authors: by name, by address, or by the address up to its @."""
    return user.casefold() in {name.casefold() for author in authors for name in (author, author.partition("@")[0])}


def authors(root: Path, use_case: UseCase, since: str | None, until: str) -> frozenset[str] | None:
    """Names and addresses of who committed to a use case's code, after one commit and up to another.

    Args:
        root: the checkout.
        use_case: its folder and its dbt models are looked at.
        since: the champion's commit; None for all of the history.
        until: the candidate's.

    Returns:
        None where there is no git here, no checkout, or it lacks one of the commits: nobody can tell then.
    """
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    span = until if since is None else f"{since}..{until}"
    places = [f"include/usecases/{use_case.name}", f"dbt_project/models/{use_case.name}"]
    form = f"--format=%an{_SEPARATOR}%ae"
    done = subprocess.run([git, "-C", str(root), "log", form, span, "--", *places], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return frozenset(part for line in done.stdout.splitlines() for part in line.split(_SEPARATOR) if part)
