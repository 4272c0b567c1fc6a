"""Merged adapters between merge and release: written down once, scored and published from there.

So what is published is what was scored, also when the coordinator was killed in between.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from coordinator.aggregation.merge import Account, Merged
from coordinator.rounds.files import store_folder
from protocol.adapter import Adapter, dump_adapter, load_adapter
from protocol.canonical import Document, sha256
from protocol.contribution import Candidate, CandidateName, candidates_hash
from protocol.errors import ContentMismatch
from protocol.manifest import Distillation

ACCOUNT = "merge.json"
MERGED: CandidateName = "regression mean"
DISTILLED: CandidateName = "distilled"
MEAN: CandidateName = "mean"
"""Of a private mode."""
TOLERANCE = 0.2
"""How far signed statistics may be from those drawn again: another machine rounds otherwise, and drawing amplifies.

On one machine it is under 0.001, in bf16 0.02, with another seed 0.1, and 0.8 to 1.4 with the statistics of another
contribution or of the base (the embedded base).
"""


@dataclass(frozen=True)
class Distilled:
    """The collective after distillation, at gain 1, and how that went."""

    adapter: Adapter
    account: Distillation


@dataclass(frozen=True)
class Candidates:
    """Everything that a round merged: what the sums gave, and what was made of it.

    ``statistics_errors`` are by contribution, ``base_changes`` (how far the base's own answers move) by candidate.
    """

    merged: Merged
    distilled: Distilled | None = None
    statistics_errors: Mapping[str, float] = field(default_factory=dict)
    base_changes: Mapping[CandidateName, float] = field(default_factory=dict)
    first: CandidateName = MERGED
    """What ``merged`` is called."""

    @property
    def names(self) -> tuple[CandidateName, ...]:
        """In the order in which they are scored: the exact one first."""
        return (self.first, DISTILLED) if self.distilled else (self.first,)

    def note(self, contribution_id: str) -> str:
        """Why a contribution counts for less, or in another way, than its weight says; empty if it does not."""
        said = self.merged.accounts[contribution_id].note
        if self.statistics_errors.get(contribution_id, 0.0) > TOLERANCE:
            said = f"{said} Its statistics are not what its adapter reads: the others' mean stands for them.".strip()
        return said

    def adapter(self, name: CandidateName) -> Adapter:
        """At gain 1."""
        return self.distilled.adapter if self.distilled and name == DISTILLED else self.merged.adapter


class _Contribution(Document):
    """``Account`` on the disk."""

    norm: float | None
    weight: int
    note: str
    influence: float | None


class _Account(Document):
    """Everything of a merge but the tensors."""

    rank: int
    tail: float
    commitment: str | None
    candidates: tuple[Candidate, ...]
    distillation: Distillation | None
    statistics_errors: dict[str, float]
    base_changes: dict[CandidateName, float]
    contributions: dict[str, _Contribution]


def keep(folder: Path, made: Candidates) -> str:
    """Store the candidates durably under the hash of their list, which is returned."""
    adapters = {name: dump_adapter(made.adapter(name)) for name in made.names}
    candidates = tuple(Candidate(name=name, sha256=sha256(data)) for name, data in adapters.items())
    account = _Account(
        rank=made.merged.rank,
        tail=made.merged.tail,
        commitment=made.merged.commitment,
        candidates=candidates,
        distillation=made.distilled.account if made.distilled else None,
        statistics_errors=dict(made.statistics_errors),
        base_changes=dict(made.base_changes),
        contributions={key: _Contribution(**asdict(one)) for key, one in made.merged.accounts.items()},
    )
    files = {_file(one.name): adapters[one.name] for one in candidates}
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
    accounts = {key: Account(**one.model_dump()) for key, one in account.contributions.items()}
    first = account.candidates[0].name
    merged = Merged(adapters[first], account.rank, account.tail, account.commitment, accounts)
    distilled = Distilled(adapters[DISTILLED], account.distillation) if account.distillation else None
    return Candidates(merged, distilled, account.statistics_errors, account.base_changes, first)


def _account(folder: Path) -> _Account:
    return _Account.model_validate_json((folder / ACCOUNT).read_bytes())


def _file(name: CandidateName) -> str:
    return f"{name.replace(' ', '-')}.safetensors"
