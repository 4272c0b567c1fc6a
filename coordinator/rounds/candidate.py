"""Merged adapters between merge and release: written down once, scored and published from there.

So what is published is what was scored, also when the coordinator was killed in between.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from coordinator.rounds.files import store_folder
from merging.merge import TOLERANCE, Account, Merged
from protocol.adapter import Adapter, dump_adapter, load_adapter
from protocol.base import BASE_STATISTICS
from protocol.canonical import Document, sha256
from protocol.contribution import Candidate, CandidateName, candidates_hash
from protocol.errors import ContentMismatch
from protocol.manifest import BaseStatistics, Distillation

ACCOUNT = "merge.json"
MERGED: CandidateName = "regression mean"
DISTILLED: CandidateName = "distilled"
TRIMMED: CandidateName = "without outliers"
DISTILLED_TRIMMED: CandidateName = "distilled without outliers"
MEAN: CandidateName = "mean"
"""Of a private mode."""


@dataclass(frozen=True)
class Distilled:
    """The collective after distillation, at gain 1, and how that went."""

    adapter: Adapter
    account: Distillation


@dataclass(frozen=True)
class Made:
    """One merge, and what distillation made of it."""

    merged: Merged
    distilled: Distilled | None = None


@dataclass(frozen=True)
class OwnWord:
    """G₀ as the merge had it."""

    said: BaseStatistics
    file: Path

    def bytes(self) -> bytes:
        """Raises ContentMismatch when the file is another one by now."""
        data = self.file.read_bytes()
        if sha256(data) != self.said.sha256:
            raise ContentMismatch(f"The base's own statistics {self.file} changed since the merge.")
        return data


@dataclass(frozen=True)
class Candidates(Made):
    """Everything that a round merged: of the whole set by the policy's rule, and beside it.

    ``statistics_errors`` are by contribution, ``base_changes`` (how far the base's own answers move) by candidate.
    """

    statistics_errors: Mapping[str, float] = field(default_factory=dict)
    base_changes: Mapping[CandidateName, float] = field(default_factory=dict)
    first: CandidateName = MERGED
    """What ``merged`` is called."""
    trimmed: Made | None = None
    """The same without those that lie far from all others; None where nobody does, or the policy has a rule itself."""
    left_out: Mapping[str, Adapter] = field(default_factory=dict)
    """By contribution, the regression mean without it: scored to know what it is worth, never published."""
    own_word: OwnWord | None = None
    """None where μ is 0."""

    @property
    def names(self) -> tuple[CandidateName, ...]:
        """Of all that may be published, in the order in which they are scored: the exact one first."""
        own = (self.first, DISTILLED) if self.distilled else (self.first,)
        if self.trimmed is None:
            return own
        return (*own, TRIMMED, DISTILLED_TRIMMED) if self.trimmed.distilled else (*own, TRIMMED)

    @property
    def scored(self) -> tuple[CandidateName, ...]:
        """Of all that members score."""
        return (*self.names, *(without(key) for key in sorted(self.left_out)))

    def of(self, name: CandidateName) -> Made:
        """The merge that a candidate came from."""
        return self.trimmed if self.trimmed and name in (TRIMMED, DISTILLED_TRIMMED) else self

    def note(self, name: CandidateName, contribution_id: str) -> str:
        """Why a contribution counts in a candidate for less, or otherwise, than its weight says; empty if not."""
        said = self.of(name).merged.accounts[contribution_id].note
        if self.statistics_errors.get(contribution_id, 0.0) > TOLERANCE:
            said = f"{said} Its statistics are not what its adapter reads: the others' mean stands for them.".strip()
        return said

    def adapter(self, name: CandidateName) -> Adapter:
        """At gain 1."""
        for key, adapter in self.left_out.items():
            if name == without(key):
                return adapter
        made = self.of(name)
        return (
            made.distilled.adapter if made.distilled and name in (DISTILLED, DISTILLED_TRIMMED) else made.merged.adapter
        )


def without(contribution_id: str) -> CandidateName:
    """What the regression mean without this contribution is called."""
    return f"without {contribution_id}"


class _Contribution(Document):
    """``Account`` on the disk."""

    norm: float | None
    weight: int
    note: str
    influence: float | None


class _Made(Document):
    """``Made`` on the disk, without its tensors."""

    rank: int
    tail: float
    commitment: str | None
    distillation: Distillation | None
    contributions: dict[str, _Contribution]

    @classmethod
    def of(cls, made: Made) -> Self:
        merged = made.merged
        return cls(
            rank=merged.rank,
            tail=merged.tail,
            commitment=merged.commitment,
            distillation=made.distilled.account if made.distilled else None,
            contributions={key: _Contribution(**asdict(one)) for key, one in merged.accounts.items()},
        )

    def with_tensors(self, merged: Adapter, distilled: Adapter | None) -> Made:
        accounts = {key: Account(**one.model_dump()) for key, one in self.contributions.items()}
        whole = Merged(dict(merged), self.rank, self.tail, self.commitment, accounts)
        told = Distilled(distilled, self.distillation) if distilled is not None and self.distillation else None
        return Made(whole, told)


class _Account(Document):
    """Everything of a round's merges but the tensors."""

    candidates: tuple[Candidate, ...]
    merge: _Made
    trimmed: _Made | None
    statistics_errors: dict[str, float]
    base_changes: dict[CandidateName, float]
    base_statistics: BaseStatistics | None = None


def keep(folder: Path, made: Candidates) -> str:
    """Store the candidates durably under the hash of their list, which is returned."""
    adapters = {name: dump_adapter(made.adapter(name)) for name in made.scored}
    candidates = tuple(Candidate(name=name, sha256=sha256(data)) for name, data in adapters.items())
    account = _Account(
        candidates=candidates,
        merge=_Made.of(made),
        trimmed=_Made.of(made.trimmed) if made.trimmed else None,
        statistics_errors=dict(made.statistics_errors),
        base_changes=dict(made.base_changes),
        base_statistics=made.own_word.said if made.own_word else None,
    )
    files = {_file(one.name): adapters[one.name] for one in candidates}
    if made.own_word:
        files[BASE_STATISTICS] = made.own_word.bytes()
    store_folder(folder / candidates_hash(candidates), {**files, ACCOUNT: account.canonical()})
    return candidates_hash(candidates)


def read_list(folder: Path, kept: str) -> tuple[Candidate, ...]:
    """The candidates that are kept under this hash. Raises ContentMismatch when the disk has spoilt the list."""
    candidates = _account(folder / kept).candidates
    if candidates_hash(candidates) != kept:
        raise ContentMismatch(f"The list of candidates {kept[:16]} is damaged on the disk.")
    return candidates


def read_adapter(folder: Path, kept: str, candidate: Candidate) -> bytes:
    """One adapter at gain 1. Raises ContentMismatch when the disk has spoilt it."""
    data = (folder / kept / _file(candidate.name)).read_bytes()
    if sha256(data) != candidate.sha256:
        raise ContentMismatch(f"The candidate {candidate.sha256[:16]} is damaged on the disk.")
    return data


def read(folder: Path, kept: str) -> Candidates:
    """The candidates as they were scored. Raises ContentMismatch when the disk has spoilt one."""
    adapters = {one.name: load_adapter(read_adapter(folder, kept, one)) for one in read_list(folder, kept)}
    account = _account(folder / kept)
    first = account.candidates[0].name
    whole = account.merge.with_tensors(adapters[first], adapters.get(DISTILLED))
    trimmed = account.trimmed
    left_out = {key: adapters[without(key)] for key in account.merge.contributions if without(key) in adapters}
    said = account.base_statistics
    return Candidates(
        whole.merged,
        whole.distilled,
        account.statistics_errors,
        account.base_changes,
        first,
        trimmed.with_tensors(adapters[TRIMMED], adapters.get(DISTILLED_TRIMMED)) if trimmed else None,
        left_out,
        OwnWord(said, folder / kept / BASE_STATISTICS) if said else None,
    )


def _account(folder: Path) -> _Account:
    return _Account.model_validate_json((folder / ACCOUNT).read_bytes())


def _file(name: CandidateName) -> str:
    return f"{name.replace(' ', '-')}.safetensors"
