"""Which contributions a sale has ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contracts_abi.model import Address, Snapshot, Token
from protocol.policy import OnTransfer, Verdict


@dataclass(frozen=True)
class Watched:
    """A live contribution and the verdicts under which its tokens were admitted, held-out ones too."""

    contribution_id: str
    member: Address
    since: int
    """The block of its round's snapshot, at which the member owned them all."""
    verdicts: tuple[Verdict, ...]

    @property
    def bound(self) -> tuple[Verdict, ...]:
        """The tokens whose licence ends with a transfer."""
        return tuple(v for v in self.verdicts if v.on_transfer is OnTransfer.EXCLUDE)


@dataclass(frozen=True)
class Lapse:
    """A contribution that is no longer live, and why."""

    contribution_id: str
    member: Address
    token: Token | None
    """The first token that ended it; None where it was ended by name, not by a sale."""
    reason: str


def lapsed(contributions: Iterable[Watched], owners: Mapping[Token, str | None], snapshot: Snapshot) -> list[Lapse]:
    """At most one lapse a contribution. ``owners`` answers for every bound token, at ``snapshot``.

    A node of the chain that lags behind says nothing: blocks before a contribution's own are not asked about it.
    """
    found = []
    for contribution in contributions:
        if snapshot.number < contribution.since:
            continue
        lost = next((v for v in contribution.bound if owners[v.token] != contribution.member), None)
        if lost:
            reason = _sentence(lost, contribution.member, owners[lost.token], snapshot)
            found.append(Lapse(contribution.contribution_id, contribution.member, lost.token, reason))
    return found


def _sentence(verdict: Verdict, member: Address, owner: str | None, snapshot: Snapshot) -> str:
    licence = verdict.licence or "The policy's word on this token"
    return (
        f"Token {verdict.token.token_id} of {verdict.collection} went from {member} to {owner or 'nobody (burned)'} "
        f"by block {snapshot.number}; {licence} ends for the seller with the transfer."
    )
