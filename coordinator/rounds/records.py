"""Rows that more than one part of the rounds writes. Within the caller's transaction."""

from sqlalchemy.orm import Session

from coordinator.database import ContributionRow, GrantRow, RoundRow
from coordinator.rounds import events
from coordinator.rounds.transitions import RoundState, Step, require_allowed
from protocol.contribution import Contribution


def add_contribution(
    session: Session, contribution: Contribution, grant_id: str, state: str, reason: str | None, now: int
) -> ContributionRow:
    """The row that makes a contribution exist; its files are on the disk before."""
    row = ContributionRow(
        contribution_id=contribution.contribution_id,
        round_id=contribution.header.round_id,
        grant_id=grant_id,
        member=session.get_one(GrantRow, grant_id).member,
        header=contribution.header.canonical().decode(),
        signature=contribution.signature,
        size=len(contribution.adapter) + len(contribution.statistics),
        received_at=now,
        state=state,
        reason=reason,
    )
    session.add(row)
    session.flush()
    return row


def move(session: Session, row: RoundRow, step: Step, now: int) -> None:
    """The round takes a step, with its event. Raises Conflict when it is not in a state that goes there."""
    require_allowed(RoundState(row.state), step.to)
    row.state = step.to
    if step.to in (RoundState.FAILED, RoundState.CANCELLED):
        row.reason, row.paused_at = step.reason, None
    events.append(
        session,
        now,
        f"round.{step.to}",
        f"The round is {step.to}. {step.reason}",
        round_id=row.round_id,
        state=step.to,
        **step.facts,
    )
