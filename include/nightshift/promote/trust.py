"""Trust: the model that scores a night, or gives the list when it cannot be trusted. No alias is believed, and no table alone.

The history says who reigns over the night; what speaks for that model is proven anew (`promote.proof`) and its bytes are hashed
(`promote.copies`). Where anything does not hold, or MLflow does not answer, the champion that was verified last scores, then a linear
baseline, never a model that is not verified; and the list bears a mark that says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from include.nightshift.errors import RegistryError
from include.nightshift.lakehouse import tables
from include.nightshift.promote import acts, copies, history
from include.nightshift.promote.proof import Papers
from include.nightshift.promote.succession import barred, began, over

if TYPE_CHECKING:
    from include.nightshift.lakehouse.records import Record
    from include.nightshift.promote.copies import Copy
    from include.nightshift.settings import Settings
    from include.nightshift.usecase import UseCase

FALLBACK, BASELINE = "fallback", "baseline"


@dataclass(frozen=True)
class Reigning:
    """The model that scores a night."""

    version: str
    """Its version; `<version>-baseline` of the baseline that was judged beside one."""
    folder: Path
    mark: str | None
    """None: the champion, verified; `fallback`: the champion that was verified last; `baseline`: a linear model."""
    reasons: tuple[str, ...]
    """Why the mark is there; empty without."""
    model_sha256: str
    """Of the bytes that were verified: whoever reads them from the folder again hashes them again."""


def reigning(settings: Settings, use_case: UseCase, night: date) -> Reigning | None:
    """The model that scores the night; None where nobody reigns over it. See `reigning_over`."""
    return reigning_over(settings, use_case, [night]).get(night)


def reigning_over(settings: Settings, use_case: UseCase, nights: Sequence[date]) -> dict[date, Reigning]:
    """The model that scores each of the nights; nights over which nobody reigns are left out.

    Raises:
        RegistryError: a night has a champion, and neither it nor any that could stand in is what was verified.
    """
    papers = Papers.read(settings, use_case)
    known: dict[str, Reigning] = {}
    found = {}
    for night in nights:
        succession = _Succession.of(settings, use_case, papers, night)
        if not succession.reigns:
            continue
        asked = acts.baseline_on(settings, use_case, night)
        case = repr((succession.reigns[0], succession.trouble, asked))
        if case not in known:
            known[case] = succession.baseline(asked) if asked else succession.champion()
        found[night] = known[case]
    return found


def instead(settings: Settings, use_case: UseCase, night: date, refused: Collection[str], because: str) -> Reigning | None:
    """The model that scores a night in place of those (versions) whose scores were refused; None where none is left."""
    succession = _Succession.of(settings, use_case, Papers.read(settings, use_case), night)
    return next((one for one in succession.stand_ins(because) if one.version not in refused), None)


def verified(settings: Settings, use_case: UseCase, version: str) -> Reigning:
    """A model that scored, by the version that its rows bear.

    Raises:
        RegistryError: the version never reigned, or its bytes are not those that did.
    """
    papers = Papers.read(settings, use_case)
    of = version.removesuffix(f"-{BASELINE}")
    for reign in reversed([row for row in papers.history if row["model_version"] == of and row["model_sha256"]]):
        if of != version:
            found = history.baseline_of(settings, use_case, papers, reign)
        else:
            found = copies.keep(settings, use_case, of, reign["model_sha256"], reign["report_digest"])
        if found:
            return _scoring(found, None, ())
    raise RegistryError(
        f"version {version} gave scores of {use_case.name}, and {tables.CHAMPION_HISTORY} has no such champion, or not its bytes: "
        "score the night again, and find out who wrote the scores"
    )


@dataclass(frozen=True)
class _Succession:
    """Who reigns over a night, and who did before."""

    settings: Settings
    use_case: UseCase
    papers: Papers
    reigns: Sequence[Record]
    """The newest first: who reigns, then those who could stand in. A model of a later night is none of them, nor one rolled back."""
    trouble: tuple[str, ...]
    """Why it is not known who reigns; nothing where it is."""

    @classmethod
    def of(cls, settings: Settings, use_case: UseCase, papers: Papers, night: date) -> _Succession:
        begun = [row for row in papers.history if row["from_night"] <= night]
        trouble: tuple[str, ...] = ()
        try:
            reign = over(begun, night)
        except RegistryError as error:
            reign, trouble = None, (str(error),)
        if reign:
            begun = begun[: begun.index(reign) + 1]
        elif begun and not trouble:
            trouble = (
                f"{tables.CHAMPION_HISTORY}: nobody reigns over night {night}, though version {begun[-1]['model_version']} began before",
            )
        out = barred(begun)
        held = [row for row in begun if row is reign or row["report_digest"] not in out]
        if reign:
            held = [row for row in held if began(row)]
        return cls(settings, use_case, papers, held[::-1], trouble)

    def champion(self) -> Reigning:
        """Who reigns, if all that speaks for it holds; else who stands in."""
        reign = self.reigns[0]
        against = [*self.trouble, *self.papers.against_reign(reign)]
        if not against:
            try:
                return _scoring(self._copy(reign), None, ())
            except RegistryError as error:
                against = [str(error)]
        stand_in = next(self.stand_ins(*against), None)
        if stand_in is None:
            raise RegistryError(
                f"version {reign['model_version']} reigns over {self.use_case.name} and cannot be trusted: {'; '.join(against)}. No "
                "champion before it, and no baseline, is here as it was verified, so nothing scores. Mend what is named, or train anew"
            )
        return stand_in

    def baseline(self, asked: Record) -> Reigning:
        """The baseline, because somebody asked for it."""
        reason = f"{asked['by']} returned to the baseline: {asked['why']}"
        stand_in = next((one for one in self.stand_ins(reason) if one.mark == BASELINE), None)
        if stand_in is None:
            raise RegistryError(
                f"{asked['by']} returned to the baseline of {self.use_case.name}, and none is here as it was judged: `champion` in "
                f"{self.use_case.name}_reign has the lists come from the champion again"
            )
        return stand_in

    def stand_ins(self, *reasons: str) -> Iterator[Reigning]:
        """Champions that were verified before, the newest first, then baselines."""
        for reign in self.reigns:
            copy = copies.kept(self.settings, self.use_case, reign["report_digest"] or "")
            if copy and copy.version == reign["model_version"]:
                yield _scoring(copy, FALLBACK, (*reasons, f"version {copy.version} scores, as it was verified before"))
        for reign in self.reigns:
            linear = history.baseline_of(self.settings, self.use_case, self.papers, reign)
            if linear:
                yield _scoring(linear, BASELINE, (*reasons, f"the linear baseline of version {reign['model_version']} scores"))

    def _copy(self, reign: Record) -> Copy:
        return copies.keep(self.settings, self.use_case, reign["model_version"], reign["model_sha256"], reign["report_digest"])


def _scoring(copy: Copy, mark: str | None, reasons: tuple[str, ...]) -> Reigning:
    return Reigning(copy.version, copy.folder, mark, reasons, copy.sha256)
