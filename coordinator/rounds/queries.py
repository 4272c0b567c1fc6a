"""Questions that the ledger asks of the tables within a transaction. Nothing here writes."""

from collections.abc import Collection, Mapping, Sequence

from pydantic import TypeAdapter
from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from contracts_abi.model import Token
from coordinator.database import (
    ContributionRow,
    GrantRow,
    ReleaseRow,
    RoundGrantRow,
    RoundRow,
    RoundTokenRow,
    ScoreReportRow,
)
from coordinator.identity.members import persons
from coordinator.rounds.transitions import ENDED, GATHERING, Absent, Exchanged, RoundKind, RoundState
from protocol.contribution import ContributionHeader
from protocol.errors import Conflict, NotFound
from protocol.grant import RoundPlan
from protocol.modes import Mode
from protocol.policy import Verdict

REPLACED = "A newer grant of the same member took its place."
KEPT = ("live", "quarantined")
"""The states of contributions that have not ended."""
_IDS = TypeAdapter(tuple[str, ...])


def round_row(session: Session, round_id: str) -> RoundRow:
    """Raises NotFound."""
    row = session.get(RoundRow, round_id)
    if row is None:
        raise NotFound(f"There is no round {round_id}.")
    return row


def contribution_row(session: Session, contribution_id: str) -> ContributionRow:
    """Raises NotFound."""
    row = session.get(ContributionRow, contribution_id)
    if row is None:
        raise NotFound(f"There is no contribution {contribution_id}.")
    return row


def plan_of(row: RoundRow) -> RoundPlan:
    """What the round was planned as."""
    return RoundPlan.model_validate_json(row.plan)


def going(row: RoundRow) -> RoundRow:
    """The same; raises Conflict while an admin has it stand still."""
    if row.paused_at is not None:
        raise Conflict(f"Round {row.round_id} is paused.", "Resume it first.")
    return row


def active_round(session: Session, kind: RoundKind) -> RoundRow | None:
    """The round of this kind that has not ended; there is at most one."""
    return session.scalar(select(RoundRow).where(RoundRow.kind == kind, RoundRow.state.not_in(ENDED)).limit(1))


def next_number(session: Session) -> int:
    """Rounds are counted from 1."""
    return (session.scalar(select(func.max(RoundRow.number))) or 0) + 1


def epoch_of(session: Session, base_hash: str) -> int:
    """Rounds on one frozen base are one epoch; a new base begins the next."""
    known = session.scalar(select(func.max(RoundRow.epoch)).where(RoundRow.base_hash == base_hash))
    return known or (session.scalar(select(func.max(RoundRow.epoch))) or 0) + 1


def latest_release(session: Session) -> ReleaseRow | None:
    """The newest release."""
    return session.scalar(select(ReleaseRow).order_by(ReleaseRow.number.desc()).limit(1))


def merged_ids(row: RoundRow) -> tuple[str, ...]:
    """The contributions that the round's candidate is merged from, sorted."""
    return ids_in(row.merged)


def ids_in(merged: str | None) -> tuple[str, ...]:
    """What ``RoundRow.merged`` lists."""
    return _IDS.validate_json(merged) if merged else ()


def parts_of(session: Session, round_id: str) -> Sequence[RoundGrantRow]:
    """All grants' parts in the round."""
    return session.scalars(select(RoundGrantRow).where(RoundGrantRow.round_id == round_id)).all()


def part_or_none(session: Session, round_id: str, node_key: str, grant_id: str = "") -> RoundGrantRow | None:
    """The part of the grant that names this node key: where several do, ``grant_id``'s, else the awaited one."""
    return session.scalar(
        select(RoundGrantRow)
        .join(GrantRow, GrantRow.grant_id == RoundGrantRow.grant_id)
        .where(RoundGrantRow.round_id == round_id, GrantRow.node_key == node_key)
        .order_by(
            case((GrantRow.grant_id == grant_id, 0), (RoundGrantRow.expected, 1), else_=2),
            GrantRow.given_at.desc(),
            GrantRow.grant_id,
        )
        .limit(1)
    )


def part_of(session: Session, round_id: str, node_key: str, grant_id: str = "") -> RoundGrantRow:
    """The same; raises NotFound when there is none."""
    part = part_or_none(session, round_id, node_key, grant_id)
    if part is None:
        raise NotFound(f"Node key {node_key[:14]}… has no part in round {round_id}.")
    return part


def expected_grants(parts: Sequence[RoundGrantRow]) -> frozenset[str]:
    """The grants that are (still) to contribute, or have."""
    return frozenset(part.grant_id for part in parts if part.expected)


def contributed_grants(session: Session, round_id: str) -> frozenset[str]:
    """The grants whose contribution the round has, live or set aside."""
    return _grants_with(session, round_id, *KEPT)


def live_grants_of(session: Session, round_id: str) -> frozenset[str]:
    """The grants whose live contribution the round has."""
    return _grants_with(session, round_id, "live")


def _grants_with(session: Session, round_id: str, *states: str) -> frozenset[str]:
    query = select(ContributionRow.grant_id).where(
        ContributionRow.round_id == round_id, ContributionRow.state.in_(states)
    )
    return frozenset(session.scalars(query))


def awaited_until(session: Session, round_id: str) -> int | None:
    """When the last grant ends whose contribution the round still waits for; None when it waits for none."""
    missing = expected_grants(parts_of(session, round_id)) - contributed_grants(session, round_id)
    return session.scalar(select(func.max(GrantRow.expires)).where(GrantRow.grant_id.in_(missing)))


def is_released(session: Session, contribution_id: str) -> bool:
    """Whether any release was merged from it."""
    published = select(RoundRow.merged).where(RoundRow.cid.is_not(None), RoundRow.merged.contains(contribution_id))
    return session.scalar(published.limit(1)) is not None


def admitted_tokens(session: Session, round_id: str, grant_id: str) -> frozenset[Token]:
    """What the grant may train on in this round."""
    query = select(RoundTokenRow.token).where(
        RoundTokenRow.round_id == round_id, RoundTokenRow.grant_id == grant_id, RoundTokenRow.allow
    )
    return frozenset(Token.parse(token) for token in session.scalars(query))


def verdicts_of(session: Session, row: ContributionRow) -> tuple[Verdict, ...]:
    """Under which verdicts the contribution's tokens were admitted, in its header's order."""
    query = select(RoundTokenRow).where(
        RoundTokenRow.round_id == row.round_id, RoundTokenRow.grant_id == row.grant_id, RoundTokenRow.allow
    )
    verdicts: Mapping[str, Verdict] = {
        one.token: Verdict.model_validate_json(one.verdict) for one in session.scalars(query)
    }
    header = ContributionHeader.model_validate_json(row.header)
    return tuple(verdicts[str(use.token)] for use in header.tokens)


def mergeable(session: Session, row: RoundRow) -> list[ContributionRow]:
    """What a merge of this round takes, by id: the newest live contribution of every member in the epoch.

    A member is a person, with any of their linked wallets. A removal takes what the newest release was merged from, as
    far as it is live: the same without the dead. A secret sum is this round's alone, and only what was made in the same
    mode and between the same factors adds up.
    """
    if row.kind == RoundKind.REMOVAL:
        return [one for one in released(session) if one.state == "live"]
    live = session.scalars(
        select(ContributionRow)
        .join(RoundRow, RoundRow.round_id == ContributionRow.round_id)
        .where(ContributionRow.state == "live", RoundRow.base_hash == row.base_hash)
        .where(RoundRow.state.not_in(GATHERING | {RoundState.CANCELLED}) | (RoundRow.round_id == row.round_id))
        .order_by(RoundRow.number)
    )
    known = persons(session)
    kinds = {one.round_id: _kind(one) for one in session.scalars(select(RoundRow))}
    alike = (one for one in live if kinds[one.round_id] == kinds[row.round_id])
    newest = {known.get(one.member, one.member): one for one in alike}
    return sorted(newest.values(), key=lambda one: one.contribution_id)


def _kind(row: RoundRow) -> tuple[object, ...]:
    """Rounds of equal kinds make contributions that one merge may take together."""
    plan = RoundPlan.model_validate_json(row.plan)
    match plan.mode:
        case Mode.OPEN:
            return (plan.mode,)
        case Mode.DP:
            return plan.mode, plan.learned, plan.rank
        case Mode.SECAGG:
            return plan.mode, row.round_id


def live_verdicts(session: Session, base_hash: str, without: Collection[str]) -> list[Verdict]:
    """The verdicts behind every live contribution of the epoch but those of the members ``without``."""
    rows = session.scalars(
        select(ContributionRow)
        .join(RoundRow, RoundRow.round_id == ContributionRow.round_id)
        .where(ContributionRow.state == "live", RoundRow.base_hash == base_hash)
        .where(ContributionRow.member.not_in(without))
    )
    return [verdict for row in rows for verdict in verdicts_of(session, row)]


def released(session: Session) -> list[ContributionRow]:
    """What the newest release was merged from, by id."""
    latest = latest_release(session)
    merged = merged_ids(round_row(session, latest.round_id)) if latest else ()
    return [session.get_one(ContributionRow, one) for one in merged]


def live_under(session: Session, grant_id: str) -> list[ContributionRow]:
    """What of what was contributed under a grant has not ended, by id."""
    query = select(ContributionRow).where(ContributionRow.grant_id == grant_id, ContributionRow.state.in_(KEPT))
    return list(session.scalars(query.order_by(ContributionRow.contribution_id)))


def awaited_parts(session: Session, grant_id: str) -> Sequence[RoundGrantRow]:
    """The parts in which a round that still gathers waits for this grant's contribution, or has it."""
    return session.scalars(
        select(RoundGrantRow)
        .join(RoundRow, RoundRow.round_id == RoundGrantRow.round_id)
        .where(RoundGrantRow.grant_id == grant_id, RoundGrantRow.expected, RoundRow.state.in_(GATHERING))
    ).all()


def node_keys(session: Session, grant_ids: Collection[str]) -> frozenset[str]:
    """The keys that these grants name."""
    return frozenset(session.scalars(select(GrantRow.node_key).where(GrantRow.grant_id.in_(grant_ids))))


def scorer_keys(session: Session, row: RoundRow) -> frozenset[str]:
    """Node keys of the merged contributions whose members have not declined to score the candidate."""
    query = (
        select(GrantRow.node_key)
        .join(ContributionRow, ContributionRow.grant_id == GrantRow.grant_id)
        .where(ContributionRow.contribution_id.in_(merged_ids(row)))
    )
    declined = answered_keys(row).where(ScoreReportRow.report.is_(None))
    return frozenset(session.scalars(query)) - frozenset(session.scalars(declined))


def scored_keys(session: Session, row: RoundRow) -> frozenset[str]:
    """Node keys whose scores of the present candidate are stored."""
    return frozenset(session.scalars(answered_keys(row).where(ScoreReportRow.report.is_not(None))))


def answered_keys(row: RoundRow) -> Select[str]:
    """Node keys that have answered to the present candidate."""
    return select(ScoreReportRow.node_key).where(
        ScoreReportRow.round_id == row.round_id, ScoreReportRow.candidates_hash == (row.candidates_hash or "")
    )


def absences(session: Session, round_id: str, live: Collection[str], exchanged: Exchanged | None) -> tuple[Absent, ...]:
    """Whose contribution, or answer to the present exchange, is not there, and why."""
    set_aside = contributed_grants(session, round_id) - frozenset(live)
    rows = session.execute(
        select(RoundGrantRow, GrantRow.member, GrantRow.node_key)
        .join(GrantRow, GrantRow.grant_id == RoundGrantRow.grant_id)
        .where(RoundGrantRow.round_id == round_id)
        .order_by(GrantRow.given_at, GrantRow.grant_id)
    )
    return tuple(
        Absent(member, _why_absent(part, part.grant_id in set_aside))
        for part, member, node_key in rows
        if part.reason != REPLACED and not (node_key in exchanged.answered if exchanged else part.grant_id in live)
    )


def _why_absent(part: RoundGrantRow, is_set_aside: bool) -> str:
    if is_set_aside:
        return "set aside by an admin"
    if part.reason:
        said = part.reason[:1].lower() + part.reason[1:].rstrip(".")
        return f"its machine failed: {said}" if part.expected else said
    return "has not answered" if part.asked_at is not None else "its machine was not seen"
