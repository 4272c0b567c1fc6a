"""Which contributions a sale has ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.ownership.holding import Holding
from contracts_abi.ownership.question import Claim
from protocol.policy import LICENCES, OnTransfer, Verdict


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
        return tuple(v for v in self.verdicts if v.on_transfer is not OnTransfer.KEEP)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What the member has to hold still: one for each of ``bound``."""
        return tuple(Claim(v.token, self.member) for v in self.bound)


@dataclass(frozen=True)
class Lapse:
    """A contribution that is no longer live, and why."""

    contribution_id: str
    member: Address
    token: Token | None
    """The first token that ended it; None where it was ended by name, not by a sale."""
    reason: str


def lapsed(contributions: Iterable[Watched], held: Mapping[Claim, Holding], snapshot: Snapshot) -> list[Lapse]:
    """At most one lapse a contribution. ``held`` answers every claim of theirs, at ``snapshot``.

    A node of the chain that lags behind says nothing: blocks before a contribution's own are not asked about it.
    """
    found = []
    for contribution in contributions:
        if snapshot.number < contribution.since:
            continue
        answers = ((v, held[claim]) for v, claim in zip(contribution.bound, contribution.claims, strict=True))
        lost = next(((v, holding) for v, holding in answers if not holding.holds), None)
        if lost:
            reason = _sentence(lost[0], contribution.member, lost[1].owner, snapshot)
            found.append(Lapse(contribution.contribution_id, contribution.member, lost[0].token, reason))
    return found


def _sentence(verdict: Verdict, member: Address, owner: str | None, snapshot: Snapshot) -> str:
    asked = " The member is asked to train again on the rest." if verdict.on_transfer is OnTransfer.RETRAIN else ""
    to = "others" if verdict.token.standard == "erc1155" else owner or "nobody (burned)"
    return (
        f"Token {verdict.token.token_id} of {verdict.collection} went from {member} to {to} "
        f"by block {snapshot.number}; {_ground(verdict)}{asked}"
    )


def _ground(verdict: Verdict) -> str:
    """What ends the contribution: a licence, or a policy that is stricter than one."""
    known = [LICENCES[name].on_transfer for name in (verdict.licence or "").split(" AND ") if name in LICENCES]
    if known and set(known) == {OnTransfer.KEEP}:
        return f"{verdict.licence} would let it stay, and the policy does not."
    licence = verdict.licence or "The policy's word on this token"
    return f"{licence} ends for the seller with the transfer."
