"""How far members' machines are, as they tell. The newest message of each counts; none of it is in the log."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from coordinator.database import ContributionRow, ProgressRow, RoundRow
from coordinator.rounds.queries import KEPT, part_or_none, round_row, scored_keys, scorer_keys
from coordinator.rounds.transitions import ENDED, RoundState
from protocol.errors import Conflict, NotAllowed, TooMany
from protocol.progress import Progress, Stage

LEAST_SECONDS = 5
"""Between two messages of one machine about one round."""
OLD_SECONDS = 60
"""After this without a word a machine in the middle of a stage is slow or gone: it tells every ten seconds."""
STATES: Mapping[Stage, RoundState] = {
    Stage.PICTURES: RoundState.TRAINING,
    Stage.TRAINING: RoundState.TRAINING,
    Stage.STATISTICS: RoundState.TRAINING,
    Stage.SCORING: RoundState.SCORING,
}
"""The state of a round in which a machine does such a thing."""


@dataclass(frozen=True)
class Reached:
    """Where a machine was when it told last."""

    stage: Stage
    step: int
    steps: int
    told_left: int | None
    """Seconds to the end of the stage, as it estimated then."""
    ago: int
    """Seconds since it told."""

    @property
    def is_done(self) -> bool:
        return self.step >= self.steps

    @property
    def is_old(self) -> bool:
        return not self.is_done and self.ago > OLD_SECONDS

    @property
    def left(self) -> int | None:
        """Seconds that the stage takes still, from now; None where that is not known (any more)."""
        if self.told_left is None or self.is_old:
            return None
        return 0 if self.is_done else max(0, self.told_left - self.ago)


def note(session: Session, told: Progress, now: int) -> None:
    """Keep a message whose signature holds, in place of the one before.

    Raises:
        NotFound: there is no such round.
        NotAllowed: the round asks nothing of this node key.
        Conflict: the round does not wait for this (any more), or a later message is here.
        TooMany: the one before is only just here.
    """
    row = round_row(session, told.round_id)
    if row.state != STATES[told.stage]:
        raise Conflict(f"Round {row.round_id} is {row.state}: nobody waits for {told.stage.value}.")
    _require_awaited(session, row, told)
    kept = session.get(ProgressRow, (told.round_id, told.node_key))
    if kept is None:
        ended = select(RoundRow.round_id).where(RoundRow.state.in_(ENDED))
        session.execute(delete(ProgressRow).where(ProgressRow.round_id.in_(ended)))
        session.add(ProgressRow(told_at=now, **told.model_dump(mode="json")))
        return
    if told.at <= kept.at:
        raise Conflict("A later message of this machine is here.", "Look at its clock.")
    if now - kept.told_at < LEAST_SECONDS:
        raise TooMany("This machine has told only just now.", f"Tell every {LEAST_SECONDS} seconds at most.")
    kept.at, kept.told_at, kept.stage = told.at, now, told.stage.value
    kept.step, kept.steps, kept.seconds_left = told.step, told.steps, told.seconds_left


def reached(session: Session, row: RoundRow, now: int) -> dict[str, Reached]:
    """Node key → where its machine is in what the round does now. Of a machine that has told nothing there is none."""
    since = (row.scoring_since or 0) if row.state == RoundState.SCORING else 0
    rows = session.scalars(
        select(ProgressRow).where(ProgressRow.round_id == row.round_id, ProgressRow.told_at >= since)
    )
    return {
        one.node_key: Reached(Stage(one.stage), one.step, one.steps, one.seconds_left, max(0, now - one.told_at))
        for one in rows
        if STATES[Stage(one.stage)] == row.state
    }


def _require_awaited(session: Session, row: RoundRow, told: Progress) -> None:
    if told.stage is Stage.SCORING:
        if told.node_key not in scorer_keys(session, row):
            raise NotAllowed(f"Round {row.round_id} asks this machine for no scores.")
        if told.node_key in scored_keys(session, row):
            raise Conflict("The scores of this machine are here.")
        return
    part = part_or_none(session, row.round_id, told.node_key)
    if part is None or not part.expected:
        raise NotAllowed(f"Round {row.round_id} waits for no contribution of this machine.")
    given = select(ContributionRow.contribution_id).where(
        ContributionRow.round_id == row.round_id,
        ContributionRow.grant_id == part.grant_id,
        ContributionRow.state.in_(KEPT),
    )
    if session.scalar(given.limit(1)):
        raise Conflict("The contribution of this machine is here.")
