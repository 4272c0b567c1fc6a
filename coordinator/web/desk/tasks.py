"""What waits for an admin, the most pressing first, and the one next step."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.database import ContributionRow, RoundRow
from coordinator.identity import grants
from coordinator.rounds.queries import active_round, contributed_grants, expected_grants, parts_of
from coordinator.rounds.transitions import GATHERING, RoundKind, RoundState
from coordinator.web.desk.health import Good, Health
from coordinator.web.desk.removals import removals
from coordinator.web.desk.rounds import WORDS
from coordinator.web.service import Service
from protocol.grant import RoundPlan

ROUNDS_SHOWN = 12


@dataclass(frozen=True)
class Task:
    """Something that waits, in a sentence, and where it is done."""

    words: str
    path: str
    label: str
    bad: bool = False


@dataclass(frozen=True)
class Brief:
    """A round in one line."""

    round_id: str
    number: int
    kind: str
    state: str
    word: str
    contributed: int
    expected: int
    quorum: int
    opened_at: int
    deadline: int
    reason: str


@dataclass(frozen=True)
class Desk:
    """What is under way, what waits, and what comes next."""

    rounds: tuple[Brief, ...]
    active: Brief | None
    tasks: tuple[Task, ...]
    next: Task
    members: int
    """Whose grants a round that opens now would ask."""


def desk(session: Session, here: Service, health: Health) -> Desk:
    """As it stands now."""
    rows = session.scalars(select(RoundRow).order_by(RoundRow.number.desc()).limit(ROUNDS_SHOWN)).all()
    briefs = tuple(_brief(session, row) for row in rows)
    going = active_round(session, RoundKind.TRAINING)
    active = _brief(session, going) if going else None
    members = len(grants.live_grants(session, here.policy.digest(), here.base_hash, here.now()))
    tasks = tuple(sorted(_tasks(session, here, health, active, briefs), key=lambda one: not one.bad))
    return Desk(briefs, active, tasks, _next(here, tasks, active, members), members)


def _tasks(
    session: Session, here: Service, health: Health, active: Brief | None, briefs: tuple[Brief, ...]
) -> Iterator[Task]:
    if active and active.state in GATHERING and active.deadline < here.now():
        words = f"Round {active.number} is past its deadline and still gathers: the worker has not moved it on."
        yield Task(words, f"/admin/rounds/{active.round_id}", "Look at the round", bad=True)
    last = next((one for one in briefs if one.kind == RoundKind.TRAINING), None)
    if last and last.state == RoundState.FAILED:
        words = f"Round {last.number} ended without a release: {last.reason}"
        yield Task(words, f"/admin/rounds/new?from={last.round_id}", "Plan it again", bad=True)
    if active:
        refused = session.scalars(
            select(ContributionRow).where(
                ContributionRow.round_id == active.round_id, ContributionRow.state == "refused"
            )
        ).all()
        for one in refused:
            words = f"A contribution to round {active.number} was refused: {one.reason}"
            yield Task(words, f"/admin/contributions/{one.contribution_id}", "Look at the contribution")
    queue = removals(session)
    if queue.stuck:
        words = "The newest release still holds what has ended, and no removal is under way."
        yield Task(words, "/admin/removals", "Look at the removals", bad=True)
    elif queue.waiting:
        words = "A release without what has ended is being made."
        yield Task(words, "/admin/removals", "Look at the removals")
    for check in health.checks:
        if check.state is not Good.GOOD:
            yield Task(
                f"{check.name}: {check.words} {check.hint}".strip(),
                "/admin/health",
                "Look at the health",
                bad=check.state is Good.BAD,
            )


def _next(here: Service, tasks: tuple[Task, ...], active: Brief | None, members: int) -> Task:
    """One step. What is broken goes first, then the round under way, then the next round."""
    if tasks and tasks[0].bad:
        return tasks[0]
    if active:
        waits = f"{active.contributed} of {active.expected} contributions are here; nothing has to be done."
        words = waits if active.state in GATHERING else f"Round {active.number} goes on by itself."
        return Task(words, f"/admin/rounds/{active.round_id}", f"See round {active.number}")
    if not members:
        words = (
            f"No member has a grant for the present policy and base. Members begin with: "
            f"coterie join {here.settings.public_uri}"
        )
        return Task(words, "/admin/rounds/new", "See who would be eligible")
    words = (
        f"{members} members have granted, and no round is under way."
        if members > 1
        else ("One member has granted, and no round is under way.")
    )
    return Task(words, "/admin/rounds/new", "Plan a round")


def _brief(session: Session, row: RoundRow) -> Brief:
    return Brief(
        round_id=row.round_id,
        number=row.number,
        kind=row.kind,
        state=row.state,
        word=WORDS[row.state],
        contributed=len(contributed_grants(session, row.round_id)),
        expected=len(expected_grants(parts_of(session, row.round_id))),
        quorum=RoundPlan.model_validate_json(row.plan).quorum,
        opened_at=row.opened_at,
        deadline=row.deadline,
        reason=row.reason or "",
    )
