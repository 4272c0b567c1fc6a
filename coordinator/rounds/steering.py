"""What an admin does to a round under way and to single contributions. Every method is one transaction, with its event.

Orders come here checked: signed, current, by an admin at ``snapshot``. Each counts once and is kept. What every method
raises: Conflict when the order was used before, or the thing does not stand as the order needs; NotFound when there is
no such thing.
"""

from collections.abc import Callable

from sqlalchemy.orm import Session

from contracts_abi.model import Snapshot
from coordinator.database import ContributionRow, Database, RoundRow, SecretSumRow
from coordinator.rounds import events
from coordinator.rounds.acts import note_act
from coordinator.rounds.queries import (
    awaited_until,
    contribution_row,
    going,
    is_released,
    live_grants_of,
    live_verdicts,
    plan_of,
    round_row,
    scored_keys,
    scorer_keys,
    verdicts_of,
)
from coordinator.rounds.records import move
from coordinator.rounds.transitions import ENDED, GATHERING, RoundKind, RoundState, Step
from protocol.acts import (
    AcceptContribution,
    ExtendRound,
    PauseRound,
    PublishRound,
    QuarantineContribution,
    ResumeRound,
)
from protocol.counted import counted
from protocol.errors import Conflict
from protocol.modes import Mode
from protocol.policy import Policy, release_terms


class Steering:
    """``clock`` gives Unix seconds."""

    def __init__(self, database: Database, policy: Policy, clock: Callable[[], float]) -> None:
        self._database, self._policy, self._clock = database, policy, clock

    def pause(self, order: PauseRound, signature: str, snapshot: Snapshot) -> None:
        """A training round stands still. What its members send is kept; nobody is asked for anything new."""
        with self._database.writing() as session:
            row = self._round(session, order, signature, snapshot)
            if row.kind != RoundKind.TRAINING:
                raise Conflict("A removal is not paused: what it takes out has ended.", "Let it come to its end.")
            if row.paused_at is not None:
                raise Conflict(f"Round {row.round_id} is paused already.")
            row.paused_at = self._now()
            self._note(
                session,
                "round.paused",
                f"{order.admin} paused the round: {order.reason}",
                round_id=row.round_id,
                reason=order.reason,
            )

    def resume(self, order: ResumeRound, signature: str, snapshot: Snapshot) -> None:
        """A paused round goes on; every end in it is later by the time that it was paused."""
        with self._database.writing() as session:
            row = self._round(session, order, signature, snapshot)
            if row.paused_at is None:
                raise Conflict(f"Round {row.round_id} is not paused.")
            stood = self._now() - row.paused_at
            row.paused_at = None
            row.deadline += stood
            if row.scoring_since is not None:
                row.scoring_since += stood
            if secret := session.get(SecretSumRow, row.round_id):
                secret.since += stood
            self._note(
                session,
                "round.resumed",
                f"{order.admin} resumed the round after {stood} seconds; its deadline is as much later.",
                round_id=row.round_id,
                deadline=row.deadline,
            )

    def extend(self, order: ExtendRound, signature: str, snapshot: Snapshot) -> None:
        """A round in training gets a later deadline, within what is granted to it."""
        with self._database.writing() as session:
            row = going(self._round(session, order, signature, snapshot))
            if row.state != RoundState.TRAINING:
                raise Conflict(f"Round {row.round_id} is {row.state}; only training has a deadline to move.")
            if order.deadline <= max(row.deadline, self._now()):
                raise Conflict("The new deadline is not later than the one that stands.", "Name a later one.")
            until = awaited_until(session, row.round_id)
            if until is None or order.deadline > until:
                raise Conflict(
                    f"No grant that the round waits for is good until {order.deadline}.",
                    f"Name a deadline up to {until}." if until else "The round waits for nobody.",
                )
            before, row.deadline = row.deadline, order.deadline
            self._note(
                session,
                "round.extended",
                f"{order.admin} gave the round {row.deadline - before} more seconds.",
                round_id=row.round_id,
                before=before,
                deadline=row.deadline,
            )

    def publish(self, order: PublishRound, signature: str, snapshot: Snapshot) -> None:
        """A round waits for nobody else: at quorum it merges what is here, with one score or more it publishes."""
        with self._database.writing() as session:
            row = going(self._round(session, order, signature, snapshot))
            plan = plan_of(row)
            if plan.mode is Mode.SECAGG and row.state in GATHERING:
                raise Conflict("A secret sum ends each exchange by itself.", "Wait for it, or cancel the round.")
            here = len(live_grants_of(session, row.round_id))
            if row.state == RoundState.TRAINING and here < plan.quorum:
                raise Conflict(
                    f"The round has {counted(here, 'contribution')}, and the quorum is {plan.quorum}.",
                    "Wait, extend it, or cancel it.",
                )
            if row.state == RoundState.TRAINING:
                step = Step(RoundState.MERGING, f"{order.admin} ended the wait with {counted(here, 'contribution')}.")
            elif row.state == RoundState.SCORING:
                scored = len(scored_keys(session, row))
                if scored == 0:
                    raise Conflict("Nobody has scored the candidate yet.", "Wait for one member's scores.")
                step = Step(
                    RoundState.PUBLISHING,
                    f"{order.admin} ended the wait: {scored} of {len(scorer_keys(session, row))} members scored.",
                )
            else:
                raise Conflict(f"Round {row.round_id} is {row.state} and waits for no member.")
            move(session, row, step, self._now())

    def quarantine(self, order: QuarantineContribution, signature: str, snapshot: Snapshot) -> None:
        """A live contribution that is in no release is not merged until it is accepted."""
        with self._database.writing() as session:
            note_act(session, order, signature, snapshot, self._now())
            row = contribution_row(session, order.contribution_id)
            if row.state != "live":
                raise Conflict(f"Contribution {row.contribution_id} is {row.state} already.")
            _require_apart(session, row)
            row.state, row.reason = "quarantined", f"{order.admin} set it aside: {order.reason}"
            self._tell(session, "contribution.quarantined", row.reason, row)

    def accept(self, order: AcceptContribution, signature: str, snapshot: Snapshot) -> None:
        """A contribution that was set aside is live again."""
        with self._database.writing() as session:
            note_act(session, order, signature, snapshot, self._now())
            row = contribution_row(session, order.contribution_id)
            if row.state != "quarantined":
                raise Conflict(
                    f"Contribution {row.contribution_id} is {row.state}; only what is set aside is accepted."
                )
            made_in = round_row(session, row.round_id)
            release_terms(self._policy, [*live_verdicts(session, made_in.base_hash, ()), *verdicts_of(session, row)])
            row.state, row.reason = "live", None
            self._tell(session, "contribution.accepted", f"{order.admin} accepted a contribution of {row.member}.", row)

    def _round(
        self,
        session: Session,
        order: PauseRound | ResumeRound | ExtendRound | PublishRound,
        signature: str,
        at: Snapshot,
    ) -> RoundRow:
        """The round that the order is about, which has not ended; the order is kept."""
        note_act(session, order, signature, at, self._now())
        row = round_row(session, order.round_id)
        if row.state in ENDED:
            raise Conflict(f"Round {row.round_id} has ended: it is {row.state}.")
        return row

    def _tell(self, session: Session, kind: str, message: str, row: ContributionRow) -> None:
        self._note(
            session,
            kind,
            message,
            round_id=row.round_id,
            contribution_id=row.contribution_id,
            member=row.member,
        )

    def _note(self, session: Session, kind: str, message: str, **facts: str | int) -> None:
        events.append(session, self._now(), kind, message, **facts)

    def _now(self) -> int:
        return int(self._clock())


def _require_apart(session: Session, row: ContributionRow) -> None:
    """The contribution can be taken out of what is merged without an end of anything."""
    made_in = round_row(session, row.round_id)
    plan = plan_of(made_in)
    if plan.mode is Mode.SECAGG:
        raise Conflict("A secret sum cannot be taken apart.", "Cancel its round, or remove the contribution.")
    if is_released(session, row.contribution_id):
        raise Conflict(
            f"Contribution {row.contribution_id} is in a release already.",
            "Remove it: a release without it follows.",
        )
    left = len(live_grants_of(session, row.round_id)) - 1
    if made_in.state not in GATHERING | ENDED and left < plan.quorum:
        raise Conflict(
            f"Without it the round has {counted(left, 'contribution')}, and its quorum is {plan.quorum}.",
            "Pause the round while you look at it; cancel the round, or remove the contribution.",
        )
