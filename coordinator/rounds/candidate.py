"""A merged adapter between merge and release: written down once, scored and published from there.

So what is published is what was scored, also when the coordinator was killed in between.
"""

from dataclasses import asdict
from pathlib import Path

from coordinator.aggregation.merge import Account, Merged
from coordinator.rounds.files import store_folder
from protocol.adapter import dump_adapter, load_adapter
from protocol.canonical import Document, sha256
from protocol.errors import ContentMismatch

ADAPTER, ACCOUNT = "adapter.safetensors", "merge.json"


class _Contribution(Document):
    """``Account`` on the disk."""

    norm: float
    weight: int
    note: str
    influence: float | None


class _Account(Document):
    """Everything of a merge but the tensors."""

    rank: int
    tail: float
    commitment: str
    contributions: dict[str, _Contribution]


def keep(folder: Path, merged: Merged) -> str:
    """Store the candidate durably under its SHA-256, which is returned."""
    adapter = dump_adapter(merged.adapter)
    account = _Account(
        rank=merged.rank,
        tail=merged.tail,
        commitment=merged.commitment,
        contributions={key: _Contribution(**asdict(one)) for key, one in merged.accounts.items()},
    )
    digest = sha256(adapter)
    store_folder(folder / digest, {ADAPTER: adapter, ACCOUNT: account.canonical()})
    return digest


def read_adapter(folder: Path, candidate_sha256: str) -> bytes:
    """The adapter at gain 1. Raises ContentMismatch when the disk has spoilt it."""
    data = (folder / candidate_sha256 / ADAPTER).read_bytes()
    if sha256(data) != candidate_sha256:
        raise ContentMismatch(f"The candidate {candidate_sha256[:16]} is damaged on the disk.")
    return data


def read(folder: Path, candidate_sha256: str) -> Merged:
    """The merge, with the adapter as it was scored. Raises ContentMismatch when the disk has spoilt it."""
    adapter = load_adapter(read_adapter(folder, candidate_sha256))
    account = _Account.model_validate_json((folder / candidate_sha256 / ACCOUNT).read_bytes())
    accounts = {key: Account(**one.model_dump()) for key, one in account.contributions.items()}
    return Merged(adapter, account.rank, account.tail, account.commitment, accounts)
