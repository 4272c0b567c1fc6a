"""What the API tells the public, as frozen values. The pages read less of it, from ``history``."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.model import Snapshot
from coordinator.database import ContributionRow, ReleaseRow, RoundGrantRow, RoundRow, RoundTokenRow
from coordinator.rounds.events import Event
from protocol.contribution import ContributionHeader, TokenUse
from protocol.grant import RoundPlan
from protocol.manifest import Manifest
from protocol.policy import Verdict


@dataclass(frozen=True)
class ContributionView:
    """One contribution: whose, on what, and whether it is live."""

    contribution_id: str
    round_id: str
    member: str
    member_short: str
    tokens: tuple[TokenUse, ...]
    state: str
    """live, quarantined (set aside by an admin), dead or refused."""
    reason: str
    """Why it is not live."""
    bytes: int
    received_at: int


@dataclass(frozen=True)
class AbsenceView:
    """A grant that gives no contribution to a round (or has failed to so far), and why."""

    grant_id: str
    expected: bool
    reason: str


@dataclass(frozen=True)
class RoundView:
    """One round. ``expected`` counts the grants that are (still) to contribute, ``contributed`` those that have."""

    round_id: str
    number: int
    kind: str
    state: str
    epoch: int
    plan: RoundPlan
    snapshot: Snapshot
    opened_at: int
    deadline: int
    paused_at: int | None
    """Since when it stands still; the deadline waits while this is set."""
    expected: int
    contributed: int
    contributions: tuple[ContributionView, ...]
    absences: tuple[AbsenceView, ...]
    exclusions: tuple[Verdict, ...]
    cid: str | None
    reason: str
    """Why it failed or was cancelled."""


@dataclass(frozen=True)
class ReleaseView:
    """One release; ``samples`` is the path of its sample sheet at this coordinator."""

    number: int
    cid: str
    round_id: str
    kind: str
    parent: str | None
    published_at: int
    manifest: Manifest
    samples: str
    withdrawn: bool
    """Whether one of its contributions has died since."""


_JSON: TypeAdapter[RoundView | ReleaseView | Event] = TypeAdapter(RoundView | ReleaseView | Event)


def rounds(session: Session, before: int | None = None, limit: int | None = None) -> tuple[RoundView, ...]:
    """The rounds, newest first: all, or at most ``limit`` of those with a number below ``before``."""
    query = select(RoundRow).order_by(RoundRow.number.desc()).limit(limit)
    rows = session.scalars(query if before is None else query.where(RoundRow.number < before))
    return tuple(_round(session, row) for row in rows)


def round_of(session: Session, round_id: str) -> RoundView | None:
    row = session.get(RoundRow, round_id)
    return _round(session, row) if row else None


def releases(session: Session, before: int | None = None, limit: int | None = None) -> tuple[ReleaseView, ...]:
    """The releases, newest first: all, or at most ``limit`` of those with a number below ``before``."""
    dead = set(session.scalars(select(ContributionRow.contribution_id).where(ContributionRow.state == "dead")))
    query = select(ReleaseRow).order_by(ReleaseRow.number.desc()).limit(limit)
    rows = session.scalars(query if before is None else query.where(ReleaseRow.number < before))
    return tuple(_release(row, dead) for row in rows)


def as_json(view: RoundView | ReleaseView | Event) -> dict[str, Any]:
    """The view as JSON: values by the field's name, documents in their own JSON form."""
    return dict(_JSON.dump_python(view, mode="json"))


def short(address: str) -> str:
    """0x1234…abcd."""
    return f"{address[:6]}…{address[-4:]}"


def _round(session: Session, row: RoundRow) -> RoundView:
    parts = session.scalars(
        select(RoundGrantRow).where(RoundGrantRow.round_id == row.round_id).order_by(RoundGrantRow.grant_id)
    ).all()
    contributions = tuple(
        _contribution(one)
        for one in session.scalars(
            select(ContributionRow)
            .where(ContributionRow.round_id == row.round_id)
            .order_by(ContributionRow.received_at, ContributionRow.contribution_id)
        )
    )
    excluded = session.scalars(
        select(RoundTokenRow.verdict)
        .where(RoundTokenRow.round_id == row.round_id, ~RoundTokenRow.allow)
        .order_by(RoundTokenRow.token)
    )
    return RoundView(
        round_id=row.round_id,
        number=row.number,
        kind=row.kind,
        state=row.state,
        epoch=row.epoch,
        plan=RoundPlan.model_validate_json(row.plan),
        snapshot=Snapshot.model_validate_json(row.snapshot),
        opened_at=row.opened_at,
        deadline=row.deadline,
        paused_at=row.paused_at,
        expected=sum(part.expected for part in parts),
        contributed=sum(one.state == "live" for one in contributions),
        contributions=contributions,
        absences=tuple(AbsenceView(p.grant_id, p.expected, p.reason) for p in parts if p.reason),
        exclusions=tuple(Verdict.model_validate_json(one) for one in excluded),
        cid=row.cid,
        reason=row.reason or "",
    )


def _contribution(row: ContributionRow) -> ContributionView:
    return ContributionView(
        contribution_id=row.contribution_id,
        round_id=row.round_id,
        member=row.member,
        member_short=short(row.member),
        tokens=ContributionHeader.model_validate_json(row.header).tokens,
        state=row.state,
        reason=row.reason or "",
        bytes=row.size,
        received_at=row.received_at,
    )


def _release(row: ReleaseRow, dead: set[str]) -> ReleaseView:
    manifest = Manifest.model_validate_json(row.manifest)
    return ReleaseView(
        number=row.number,
        cid=row.cid,
        round_id=row.round_id,
        kind=row.kind,
        parent=row.parent,
        published_at=row.published_at,
        manifest=manifest,
        samples=f"/ipfs/{row.cid}/samples.png",
        withdrawn=any(one.contribution_id in dead for one in manifest.contributions),
    )
