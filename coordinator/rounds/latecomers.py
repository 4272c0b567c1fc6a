"""Members who come while a round is under way: each grant in force that has no part in it gets one, or why it has none.

The worker asks before every look at the rounds, so a grant that is stored while a round opens is not left out: what
has no part is found by the next look, however it came about. A late part is judged at the round's own snapshot, as at
the opening. The quorum stays. One member has one contribution in a round: a newer grant takes the place of an older
one of the same wallet that has given nothing yet, and counts from the next round on where that has. The grant of
another wallet of a member who has a part counts from the next round on too, and nothing is told of it: who is linked to
whom stands in no log.
"""

import time
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.model import Snapshot
from coordinator.database import (
    ContributionRow,
    Database,
    GrantRow,
    RoundGrantRow,
    RoundRow,
    RoundTokenRow,
    SecretSumRow,
)
from coordinator.identity.grants import live_grants
from coordinator.identity.members import persons
from coordinator.rounds import budget, events
from coordinator.rounds.parts import TOO_FEW, Part, add_part, give_up, once_each
from coordinator.rounds.queries import REPLACED, live_verdicts, parts_of, plan_of, round_row
from coordinator.rounds.transitions import RoundKind, RoundState
from protocol.counted import counted
from protocol.errors import Conflict, CoterieError, NotAllowed
from protocol.grant import Grant
from protocol.policy import Policy, Verdict, release_terms

REST_SECONDS = 60.0
"""How long a grant rests about which the chain did not answer: old blocks are not kept by every node."""
COUNTS_NEXT = "Its member has contributed to this round already; the grant counts from the next round on."

log = structlog.get_logger(__name__)


class Latecomers:
    """One for each worker. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        database: Database,
        policy: Policy,
        verdicts: Callable[[Grant, Snapshot], Sequence[Verdict]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``verdicts`` answers what a round that opens at a snapshot has to know of a grant."""
        self._database, self._policy, self._verdicts, self._clock = database, policy, verdicts, clock
        self._resting: dict[str, float] = {}

    def step(self) -> None:
        """Give a part to every grant in force that lacks one in the round under way."""
        for round_id, snapshot, grant in self._without_part():
            if self._resting.get(grant.grant_id, 0.0) > self._clock():
                continue
            try:
                verdicts = tuple(self._verdicts(grant, snapshot))
            except CoterieError as error:
                log.warning("a late grant was not judged", grant_id=grant.grant_id, reason=str(error))
                self._resting[grant.grant_id] = self._clock() + REST_SECONDS
                continue
            self.admit(round_id, snapshot, Part(grant, verdicts))

    def admit(self, round_id: str, snapshot: Snapshot, part: Part) -> None:
        """Note a late part, judged at ``snapshot``; nothing, where the round takes none at that snapshot any more."""
        grant_id = part.grant.grant_id
        with self._database.writing() as session:
            row = round_row(session, round_id)
            if not self._takes_late(session, row) or Snapshot.model_validate_json(row.snapshot) != snapshot:
                return
            stored = session.get_one(GrantRow, grant_id)
            if stored.replaced or grant_id not in self._wanting(session, row):
                return
            own, others = self._parts(session, row, stored.member)
            part = once_each([*others, part])[-1]
            why_not = self._why_not(session, row, part, own, others)
            add_part(session, round_id, part, why_not)
            session.flush()
            if why_not:
                self._note(session, "round.without", why_not, round_id, grant_id)
                return
            for earlier in own:
                give_up(session, earlier, REPLACED, self._now())
            admitted = (
                f"{stored.member} joined while the round was under way, with {counted(len(part.admitted), 'token')}."
            )
            self._note(session, "round.joined", admitted, round_id, grant_id)

    def _without_part(self) -> list[tuple[str, Snapshot, Grant]]:
        with self._database.reading() as session:
            rows = session.scalars(
                select(RoundRow).where(
                    RoundRow.kind == RoundKind.TRAINING, RoundRow.state.in_((RoundState.OPEN, RoundState.TRAINING))
                )
            )
            return [
                (row.round_id, Snapshot.model_validate_json(row.snapshot), grant)
                for row in rows
                if self._takes_late(session, row)
                for grant in self._wanting(session, row).values()
            ]

    def _wanting(self, session: Session, row: RoundRow) -> dict[str, Grant]:
        """Grant id → grant in force that has no part, nor has another wallet of its member one."""
        there_already = select(RoundGrantRow.grant_id).where(RoundGrantRow.round_id == row.round_id)
        others = select(GrantRow.grant_id).where(~GrantRow.replaced, GrantRow.grant_id.not_in(there_already))
        if session.scalar(others.limit(1)) is None:
            return {}
        parts, known = parts_of(session, row.round_id), persons(session)
        wallets = {session.get_one(GrantRow, part.grant_id).member for part in parts}
        there = {known[wallet]: wallet for wallet in wallets if wallet in known}
        grants = live_grants(session, row.policy_hash, row.base_hash, self._now())
        return {
            grant.grant_id: grant
            for grant in grants
            if grant.grant_id not in {part.grant_id for part in parts}
            and there.get(known.get(grant.member, ""), grant.member) == grant.member
        }

    def _takes_late(self, session: Session, row: RoundRow) -> bool:
        """Until the deadline, and in a secret sum until its terms name who is in it; a pause stops the clock."""
        gathers = row.state in (RoundState.OPEN, RoundState.TRAINING)
        in_time = (row.paused_at or self._clock()) < row.deadline
        fixed = session.get(SecretSumRow, row.round_id) is not None
        return gathers and in_time and not fixed and row.policy_hash == self._policy.digest()

    def _parts(self, session: Session, row: RoundRow, wallet: str) -> tuple[list[RoundGrantRow], list[Part]]:
        """This wallet's parts, and all others' that are to contribute or have."""
        parts = {part: session.get_one(GrantRow, part.grant_id) for part in parts_of(session, row.round_id)}
        own = [part for part, grant in parts.items() if grant.member == wallet]
        others = [grant for part, grant in parts.items() if grant.member != wallet and part.expected]
        return own, [
            Part(Grant.model_validate_json(one.document), _verdicts(session, row.round_id, one.grant_id))
            for one in sorted(others, key=lambda one: (one.given_at, one.grant_id))
        ]

    def _why_not(
        self, session: Session, row: RoundRow, part: Part, own: Sequence[RoundGrantRow], others: Sequence[Part]
    ) -> str | None:
        """Why the grant gives nothing to this round; None when it may."""
        if _has_contributed(session, row.round_id, [one.grant_id for one in own]):
            return COUNTS_NEXT
        if len(part.admitted) < self._policy.minimum_tokens:
            return TOO_FEW
        members = {one.grant.member for one in (*others, part)}
        offered = [v for one in (*others, part) for v in one.offered]
        plan = plan_of(row)
        try:
            release_terms(self._policy, [*offered, *live_verdicts(session, row.base_hash, members)])
            budget.require(session, plan, members, self._policy.epsilon_limit)
        except (Conflict, NotAllowed) as refusal:
            return refusal.message
        return None

    def _note(self, session: Session, kind: str, message: str, round_id: str, grant_id: str) -> None:
        events.append(session, self._now(), kind, message, round_id=round_id, grant_id=grant_id)

    def _now(self) -> int:
        return int(self._clock())


def _has_contributed(session: Session, round_id: str, grant_ids: Sequence[str]) -> bool:
    """Whatever became of it: what was taken out of a round is not asked for again in it. A refused one was never in."""
    made = select(ContributionRow).where(
        ContributionRow.round_id == round_id,
        ContributionRow.grant_id.in_(grant_ids),
        ContributionRow.state != "refused",
    )
    return session.scalar(made.limit(1)) is not None


def _verdicts(session: Session, round_id: str, grant_id: str) -> tuple[Verdict, ...]:
    rows = session.scalars(
        select(RoundTokenRow).where(RoundTokenRow.round_id == round_id, RoundTokenRow.grant_id == grant_id)
    )
    return tuple(Verdict.model_validate_json(one.verdict) for one in rows)
