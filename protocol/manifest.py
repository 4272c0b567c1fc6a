"""What a release says of itself: what went in, what did not and why, and how it was merged."""

from typing import Annotated, Literal

from pydantic import Field

from contracts_abi.model import Address, Snapshot, Token
from protocol.canonical import Document
from protocol.contribution import TokenUse
from protocol.grant import Grant, Hash, RoundPlan
from protocol.policy import Verdict


class MergedContribution(Document):
    """One live contribution: whose, on what, with which weight."""

    contribution_id: str
    round_id: str
    member: Address
    grant: Grant
    grant_signature: str
    node_key: str
    signature: str
    weight: Annotated[int, Field(ge=1)]
    share: float
    rank: int
    norm: float
    """‖Δ‖, Frobenius over all layers."""
    header_hash: Hash
    adapter_sha256: Hash
    statistics_sha256: Hash
    tokens: tuple[TokenUse, ...]
    licences: tuple[str, ...]


class Removal(Document):
    """A contribution that was in the parent release and is not in this one."""

    contribution_id: str
    member: Address
    token: Token
    block: Snapshot
    reason: str


class GainScore(Document):
    gain: float
    loss: float
    """The members' weighted median of held-out losses."""


class Merge(Document):
    """How the adapter came from the contributions."""

    rule: Literal["regression mean"] = "regression mean"
    regularisation: float
    rank: int
    tail: float
    """Share of the merged delta's energy, in the data's metric, that truncation dropped; the worst layer's."""
    commitment: Hash
    """SHA-256 over the integer sums before anything is solved: equal for equal sets, in any order."""
    gain: float
    scores: tuple[GainScore, ...]
    scored_by: int


class BaseReference(Document):
    name: str
    hash: Hash


class Manifest(Document):
    """``manifest.json`` of a release."""

    version: Literal[1] = 1
    dao: str
    round_id: str
    kind: Literal["training", "removal"]
    epoch: Annotated[int, Field(ge=1)]
    parent: str | None
    """CID of the release before."""
    base: BaseReference
    policy_hash: Hash
    snapshot: Snapshot
    plan: RoundPlan
    contributions: tuple[MergedContribution, ...]
    exclusions: tuple[Verdict, ...]
    removals: tuple[Removal, ...]
    merge: Merge
    licence: str
    duties: tuple[str, ...]
    files: dict[str, Hash]
    """Every other file of the release, by SHA-256."""
