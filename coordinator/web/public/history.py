"""What the public pages read: each of these asks a bounded number of questions, however long the DAO's history is.

Documents are parsed once and kept by what names them; rows are counted where they lie. ``views`` is the API's.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from contracts_abi.model import Snapshot
from coordinator.database import (
    ContributionRow,
    EventRow,
    GrantRow,
    ReleaseRow,
    RoundGrantRow,
    RoundRow,
    RoundTokenRow,
    ScoreReportRow,
)
from coordinator.rounds.queries import merged_ids
from coordinator.rounds.transitions import ENDED
from coordinator.web.public.glance import Glance, Ground, Tokens, glance_at, grounds_of, read_verdicts, uses_of
from coordinator.web.public.shelf import Shelf
from protocol.grant import RoundPlan

RELEASES_A_PAGE = 20
ROUNDS_A_PAGE = 20
CONTRIBUTIONS_A_PAGE = 50
ABSENCES_SHOWN = 50
ROUNDS_LOOKED_AT = 20
"""How far back a round with exclusions is looked for."""


@dataclass(frozen=True)
class Release:
    """A release as the pages know it."""

    number: int
    cid: str
    round_id: str
    kind: str
    parent: str | None
    published_at: int
    glance: Glance
    withdrawn: bool
    """Whether one of its contributions has died since."""

    @property
    def samples(self) -> str:
        """The path of its sample sheet at this coordinator."""
        return f"/ipfs/{self.cid}/samples.png"


@dataclass(frozen=True)
class RoundLine:
    """A round in a list. ``expected`` counts grants that are (still) to contribute, ``contributed`` live ones."""

    round_id: str
    number: int
    kind: str
    state: str
    epoch: int
    opened_at: int
    deadline: int
    snapshot: Snapshot
    plan: RoundPlan
    cid: str | None
    reason: str
    """Why it failed or was cancelled."""
    paused_at: int | None
    expected: int
    contributed: int
    refused: int

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Contribution:
    """One contribution to a round."""

    contribution_id: str
    member: str
    tokens: tuple[Tokens, ...]
    trained: int
    held_out: int
    bytes: int
    received_at: int
    state: str
    reason: str


@dataclass(frozen=True)
class Absence:
    """A member's grant that gives no contribution to a round, and why."""

    member: str
    reason: str


@dataclass(frozen=True)
class Story:
    """One round, with as many of its contributions and absences as a page shows."""

    line: RoundLine
    contributions: tuple[Contribution, ...]
    count: int
    """Of all contributions to it."""
    absences: tuple[Absence, ...]
    absent: int
    denied: int
    """Tokens that were left out."""
    scored: int
    scorers: int
    """Merged contributions, whose members are asked for scores."""


@dataclass(frozen=True)
class Totals:
    """How much there is altogether."""

    members: int
    rounds: int
    releases: int
    lines: int
    """Of the log."""
    fingerprint: str
    """Of the newest line."""


@dataclass
class Memory:
    """What the pages of one coordinator keep between requests."""

    glances: Shelf[Glance] = field(default_factory=lambda: Shelf(400))
    left_out: Shelf[tuple[Ground, ...]] = field(default_factory=lambda: Shelf(2 * ROUNDS_LOOKED_AT))
    colours: Shelf[Mapping[str, int]] = field(default_factory=lambda: Shelf(1))


def totals(session: Session) -> Totals:
    newest = newest_line(session)
    return Totals(
        members=session.scalar(select(func.count(GrantRow.member.distinct()))) or 0,
        rounds=session.scalar(select(func.count(RoundRow.number))) or 0,
        releases=session.scalar(select(func.count(ReleaseRow.number))) or 0,
        lines=newest[0],
        fingerprint=newest[1],
    )


def newest_line(session: Session) -> tuple[int, str]:
    """Number and fingerprint of the log's newest line. Everything that a page tells changes with a line of the log."""
    found = session.execute(select(EventRow.number, EventRow.hash).order_by(EventRow.number.desc()).limit(1)).first()
    return (found[0], found[1]) if found else (0, "")


def colours(session: Session, memory: Memory, shades: int) -> Mapping[str, int]:
    """A shade for every member, by who gave the first grant; it stays when others come."""
    grants = session.scalar(select(func.count(GrantRow.member)))

    def read() -> Mapping[str, int]:
        first = func.min(GrantRow.given_at)
        members = session.scalars(select(GrantRow.member).group_by(GrantRow.member).order_by(first, GrantRow.member))
        return {member: index % shades for index, member in enumerate(members)}

    return memory.colours.get_or(grants, read)


# Releases -------------------------------------------------------------------------------------------------------------


def newest_release(session: Session, memory: Memory) -> Release | None:
    return next(iter(releases(session, memory, limit=1)), None)


def releases(
    session: Session, memory: Memory, before: int | None = None, limit: int | None = RELEASES_A_PAGE
) -> list[Release]:
    """The newest releases, or the newest of those with a number below ``before``; all of them without a limit."""
    query = _release_rows().order_by(ReleaseRow.number.desc()).limit(limit)
    return _releases(session, memory, query if before is None else query.where(ReleaseRow.number < before))


def release_numbered(session: Session, memory: Memory, number: int) -> Release | None:
    return next(iter(_releases(session, memory, _release_rows().where(ReleaseRow.number == number))), None)


def release_called(session: Session, memory: Memory, cid: str | None) -> Release | None:
    """The release with this CID; None where there is none, or none is asked for."""
    query = _release_rows().where(ReleaseRow.cid == cid).order_by(ReleaseRow.number).limit(1)
    return next(iter(_releases(session, memory, query)), None) if cid else None


def release_after(session: Session, number: int) -> int | None:
    """The number of the next release."""
    return session.scalar(select(func.min(ReleaseRow.number)).where(ReleaseRow.number > number))


def release_choices(session: Session) -> list[tuple[int, int]]:
    """Every release to choose from: (number, published at), newest first."""
    query = select(ReleaseRow.number, ReleaseRow.published_at).order_by(ReleaseRow.number.desc())
    return [(number, at) for number, at in session.execute(query)]


def bytes_of(session: Session, glance: Glance) -> int:
    """What travelled for the contributions in a release."""
    ids = [one.contribution_id for one in glance.pieces]
    return session.scalar(select(func.sum(ContributionRow.size)).where(ContributionRow.contribution_id.in_(ids))) or 0


def _release_rows() -> Select[int, str, str, str, str | None, int]:
    """All of them but the manifests."""
    return select(
        ReleaseRow.number,
        ReleaseRow.cid,
        ReleaseRow.round_id,
        ReleaseRow.kind,
        ReleaseRow.parent,
        ReleaseRow.published_at,
    )


def _releases(session: Session, memory: Memory, query: Select[int, str, str, str, str | None, int]) -> list[Release]:
    rows = session.execute(query).all()
    if not rows:
        return []
    glances = _glances(session, memory, [row.cid for row in rows])
    dead = set(session.scalars(select(ContributionRow.contribution_id).where(ContributionRow.state == "dead")))
    return [
        Release(*row, glance=glance, withdrawn=any(one.contribution_id in dead for one in glance.pieces))
        for row in rows
        for glance in (glances[row.cid],)
    ]


def _glances(session: Session, memory: Memory, cids: Sequence[str]) -> dict[str, Glance]:
    found = {cid: glance for cid in cids if (glance := memory.glances.get(cid))}
    missing = [cid for cid in cids if cid not in found]
    for cid, manifest in session.execute(
        select(ReleaseRow.cid, ReleaseRow.manifest).where(ReleaseRow.cid.in_(missing))
    ):
        found[cid] = memory.glances.put(cid, glance_at(manifest))
    return found


# Rounds ---------------------------------------------------------------------------------------------------------------


def rounds(session: Session, before: int | None = None, limit: int = ROUNDS_A_PAGE) -> list[RoundLine]:
    """The newest rounds, or the newest of those with a number below ``before``."""
    query = _round_rows().order_by(RoundRow.number.desc()).limit(limit)
    return _lines(session, query if before is None else query.where(RoundRow.number < before))


def rounds_under_way(session: Session) -> list[RoundLine]:
    return _lines(session, _round_rows().where(RoundRow.state.not_in(ENDED)).order_by(RoundRow.number.desc()))


def round_line(session: Session, round_id: str) -> RoundLine | None:
    return next(iter(_lines(session, _round_rows().where(RoundRow.round_id == round_id))), None)


def scoring(session: Session, round_id: str) -> tuple[int, int]:
    """(members who have scored the present candidate or declined to, merged contributions)."""
    row = session.get(RoundRow, round_id)
    if row is None or row.merged is None:
        return 0, 0
    scored = session.scalar(
        select(func.count(ScoreReportRow.node_key)).where(
            ScoreReportRow.round_id == round_id, ScoreReportRow.candidates_hash == row.candidates_hash
        )
    )
    return scored or 0, len(merged_ids(row))


def story(session: Session, line: RoundLine, page: int) -> Story:
    """A round's contributions, ``page`` counted from 0, and who did not contribute and why."""
    here = ContributionRow.round_id == line.round_id
    rows = session.scalars(
        select(ContributionRow)
        .where(here)
        .order_by(ContributionRow.received_at, ContributionRow.contribution_id)
        .limit(CONTRIBUTIONS_A_PAGE)
        .offset(page * CONTRIBUTIONS_A_PAGE)
    )
    absent = (
        select(GrantRow.member, RoundGrantRow.reason)
        .join(GrantRow, GrantRow.grant_id == RoundGrantRow.grant_id)
        .where(RoundGrantRow.round_id == line.round_id, RoundGrantRow.reason.is_not(None))
        .where(RoundGrantRow.grant_id.not_in(select(ContributionRow.grant_id).where(here)))
    )
    scored, scorers = scoring(session, line.round_id)
    return Story(
        line=line,
        contributions=tuple(_contribution(row) for row in rows),
        count=session.scalar(select(func.count()).select_from(ContributionRow).where(here)) or 0,
        absences=tuple(
            Absence(member, reason or "")
            for member, reason in session.execute(absent.order_by(RoundGrantRow.grant_id).limit(ABSENCES_SHOWN))
        ),
        absent=session.scalar(select(func.count()).select_from(absent.subquery())) or 0,
        denied=denied(session, [line]),
        scored=scored,
        scorers=scorers,
    )


def denied(session: Session, lines: Sequence[RoundLine]) -> int:
    """How many tokens the first of these rounds left out that left out any."""
    for line in lines:
        query = select(func.count()).where(RoundTokenRow.round_id == line.round_id, ~RoundTokenRow.allow)
        if count := session.scalar(query):
            return count
    return 0


def left_out(session: Session, memory: Memory, mark: object) -> tuple[RoundLine | None, tuple[Ground, ...]]:
    """The newest round that left tokens out, and why it did; ``mark`` changes whenever the log grows."""
    for line in rounds(session, limit=ROUNDS_LOOKED_AT):
        key = line.round_id if line.ended else (line.round_id, mark)
        found = memory.left_out.get(key)
        if found is None:
            query = select(RoundTokenRow.verdict).where(RoundTokenRow.round_id == line.round_id, ~RoundTokenRow.allow)
            found = memory.left_out.put(key, grounds_of(read_verdicts(session.scalars(query))))
        if found:
            return line, found
    return None, ()


def asked_about(session: Session, round_id: str, token_id: int) -> tuple[tuple[Ground, ...], tuple[Ground, ...]]:
    """What a round said of tokens with this id, whatever their collection: (left out, admitted)."""
    found = session.execute(
        select(RoundTokenRow.verdict, RoundTokenRow.allow).where(
            RoundTokenRow.round_id == round_id, RoundTokenRow.token.like(f"%/{token_id}")
        )
    ).all()
    return (
        grounds_of(read_verdicts(verdict for verdict, allow in found if not allow)),
        grounds_of(read_verdicts(verdict for verdict, allow in found if allow)),
    )


def _round_rows() -> Select[str, int, str, str, int, int, int, str, str, str | None, str | None, int | None]:
    """All of them but the orders."""
    return select(
        RoundRow.round_id,
        RoundRow.number,
        RoundRow.kind,
        RoundRow.state,
        RoundRow.epoch,
        RoundRow.opened_at,
        RoundRow.deadline,
        RoundRow.snapshot,
        RoundRow.plan,
        RoundRow.cid,
        RoundRow.reason,
        RoundRow.paused_at,
    )


def _lines(
    session: Session, query: Select[str, int, str, str, int, int, int, str, str, str | None, str | None, int | None]
) -> list[RoundLine]:
    rows = session.execute(query).all()
    if not rows:
        return []
    ids = [row.round_id for row in rows]
    states = _counted(session, ids)
    waited = session.execute(
        select(RoundGrantRow.round_id, func.count())
        .where(RoundGrantRow.round_id.in_(ids), RoundGrantRow.expected)
        .group_by(RoundGrantRow.round_id)
    )
    expected = dict(waited.all())
    return [
        RoundLine(
            round_id=row.round_id,
            number=row.number,
            kind=row.kind,
            state=row.state,
            epoch=row.epoch,
            opened_at=row.opened_at,
            deadline=row.deadline,
            snapshot=Snapshot.model_validate_json(row.snapshot),
            plan=RoundPlan.model_validate_json(row.plan),
            cid=row.cid,
            reason=row.reason or "",
            paused_at=row.paused_at,
            expected=expected.get(row.round_id, 0),
            contributed=states.get((row.round_id, "live"), 0),
            refused=states.get((row.round_id, "refused"), 0),
        )
        for row in rows
    ]


def _counted(session: Session, rounds: Collection[str]) -> dict[tuple[str, str], int]:
    """(round, state) → contributions."""
    rows = session.execute(
        select(ContributionRow.round_id, ContributionRow.state, func.count())
        .where(ContributionRow.round_id.in_(rounds))
        .group_by(ContributionRow.round_id, ContributionRow.state)
    )
    return {(round_id, state): number for round_id, state, number in rows}


def _contribution(row: ContributionRow) -> Contribution:
    tokens, trained, held_out = uses_of(row.header)
    return Contribution(
        contribution_id=row.contribution_id,
        member=row.member,
        tokens=tokens,
        trained=trained,
        held_out=held_out,
        bytes=row.size,
        received_at=row.received_at,
        state=row.state,
        reason=row.reason or "",
    )
