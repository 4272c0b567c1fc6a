"""Contributions that have ended: why, since when, and whether the newest release still holds them."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.model import Address, Snapshot
from coordinator.database import ContributionRow
from coordinator.rounds.queries import active_round, latest_release, released
from coordinator.rounds.transitions import RoundKind

SHOWN = 200


@dataclass(frozen=True)
class Ended:
    """A contribution that is live no longer."""

    contribution_id: str
    round_id: str
    member: Address
    reason: str
    token: str
    at: Snapshot | None
    """The block at which that was seen."""
    in_newest: bool
    """Whether the newest release was still made with it."""


@dataclass(frozen=True)
class Removals:
    """The queue: what has ended, newest first, and what is done about it."""

    ended: tuple[Ended, ...]
    round_id: str
    """Of the removal round under way; empty where there is none."""
    round_state: str
    release: str
    """The newest release's CID; empty where there is none."""

    @property
    def waiting(self) -> tuple[Ended, ...]:
        """What the newest release still holds."""
        return tuple(one for one in self.ended if one.in_newest)

    @property
    def stuck(self) -> bool:
        """Whether nothing is under way although the newest release holds something that has ended."""
        return bool(self.waiting) and not self.round_id


def removals(session: Session) -> Removals:
    """As it stands now."""
    newest, going = latest_release(session), active_round(session, RoundKind.REMOVAL)
    held = {row.contribution_id for row in released(session)}
    rows = session.scalars(select(ContributionRow).where(ContributionRow.state == "dead"))
    found = [_ended(row, row.contribution_id in held) for row in rows]
    found.sort(key=lambda one: (one.in_newest, one.at.number if one.at else 0, one.contribution_id), reverse=True)
    return Removals(
        ended=tuple(found[:SHOWN]),
        round_id=going.round_id if going else "",
        round_state=going.state if going else "",
        release=newest.cid if newest else "",
    )


def _ended(row: ContributionRow, in_newest: bool) -> Ended:
    return Ended(
        contribution_id=row.contribution_id,
        round_id=row.round_id,
        member=row.member,
        reason=row.reason or "",
        token=row.lapsed_token or "",
        at=Snapshot.model_validate_json(row.lapsed_at) if row.lapsed_at else None,
        in_newest=in_newest,
    )
