"""A round as its admin sees it: how far it is, who has answered, and what came of each contribution."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from contracts_abi.model import Address, Snapshot
from coordinator.database import (
    ActRow,
    ContributionRow,
    EventRow,
    GrantRow,
    ReleaseRow,
    RoundGrantRow,
    RoundRow,
    RoundTokenRow,
    ScoreReportRow,
)
from coordinator.rounds import candidate
from coordinator.rounds.candidate import Candidates
from coordinator.rounds.progress import Reached, reached
from coordinator.rounds.queries import ids_in, merged_ids, round_row, scored_keys, scorer_keys
from coordinator.rounds.transitions import ENDED, EXCHANGES, GATHERING, RoundKind, RoundState
from coordinator.web.desk.words import Together, together
from protocol.contribution import ContributionHeader, SignedScoreReport
from protocol.errors import CoterieError, NotFound
from protocol.grant import RoundPlan
from protocol.manifest import Manifest, MergedContribution
from protocol.modes import Mode
from protocol.policy import Verdict
from protocol.progress import Stage as ProgressStage

EVENTS_READ = 2000
"""Of the newest lines of the log, in which a round's own are looked for."""
EVENTS_SHOWN = 12
WORDS: Mapping[str, str] = {
    RoundState.OPEN: "Opening",
    RoundState.TRAINING: "Training",
    RoundState.SHARING: "Sharing keys",
    RoundState.MASKING: "Masked updates",
    RoundState.CONFIRMING: "Confirming",
    RoundState.UNMASKING: "Opening the sum",
    RoundState.MERGING: "Merging",
    RoundState.SCORING: "Scoring",
    RoundState.PUBLISHING: "Publishing",
    RoundState.PUBLISHED: "Published",
    RoundState.FAILED: "Failed",
    RoundState.CANCELLED: "Cancelled",
}
MEANS: Mapping[str, str] = {
    RoundState.OPEN: "The worker sets it going in a moment.",
    RoundState.TRAINING: "Members train, each on their own machine, and send their contributions.",
    RoundState.SHARING: "Members share the keys of the secret sum.",
    RoundState.MASKING: "Members send updates that only their sum can be read of.",
    RoundState.CONFIRMING: "Members confirm whose updates are in the sum.",
    RoundState.UNMASKING: "Members open the sum together.",
    RoundState.MERGING: "The coordinator merges the contributions.",
    RoundState.SCORING: "Members score the merged model on pictures that they kept from training.",
    RoundState.PUBLISHING: "The release is built, stored and read back.",
    RoundState.PUBLISHED: "The release is out.",
    RoundState.FAILED: "It ended without a release.",
    RoundState.CANCELLED: "It was ended without a release.",
}

ORDERS: Mapping[str, str] = {
    "CancelRound": "Cancelled",
    "PauseRound": "Paused",
    "ResumeRound": "Resumed",
    "ExtendRound": "Given more time",
    "PublishRound": "Told to wait for nobody else",
    "RemoveContribution": "Removed",
    "QuarantineContribution": "Set aside",
    "AcceptContribution": "Accepted",
}
"""What an order did, by its kind."""


@dataclass(frozen=True)
class Stage:
    """A step of the stepper: done, now, ahead, or stopped where the round ended early."""

    word: str
    standing: str


@dataclass(frozen=True)
class Attendance:
    """A member's part in a round, as far as the coordinator knows it."""

    member: Address
    grant_id: str
    node_id: str
    admitted: int
    standing: str
    """contributed, waiting, trying, declined, refused, set aside, ended or out."""
    words: str
    at: int | None
    """When that was so, Unix seconds."""
    denied: tuple[Together, ...]
    reached: Reached | None
    """How far its machine is in what is awaited of it, where it tells."""


@dataclass(frozen=True)
class Judged:
    """A contribution as a merge and its members' scores found it; None where that is not known (yet)."""

    contribution_id: str
    member: Address
    state: str
    reason: str
    received_at: int
    bytes: int
    trained: int
    held_out: int
    steps: int | None
    seconds: float | None
    first_loss: float | None
    last_loss: float | None
    rank: int | None
    norm: float | None
    share: float | None
    statistics_error: float | None
    influence: float | None
    worth: float | None
    scored: tuple[float, float] | None
    """Held-out error of the base and of the best gain, by the member's own report."""
    note: str
    released: bool
    """Whether any release was merged from it."""


@dataclass(frozen=True)
class Order:
    """An order that was carried out on this."""

    words: str
    actor: Address
    reason: str
    done_at: int


@dataclass(frozen=True)
class Told:
    """A line of the log about this round."""

    number: int
    at: int
    message: str


@dataclass(frozen=True)
class Standing:
    """Everything that the page of a round tells. Times are Unix seconds."""

    round_id: str
    number: int
    kind: str
    state: str
    plan: RoundPlan
    snapshot: Snapshot
    opened_at: int
    deadline: int
    paused_at: int | None
    now: int
    stages: tuple[Stage, ...]
    attendances: tuple[Attendance, ...]
    contributions: tuple[Judged, ...]
    reason: str
    cid: str | None
    orders: tuple[Order, ...]
    events: tuple[Told, ...]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def gathers(self) -> bool:
        return self.state in GATHERING

    @property
    def left(self) -> int:
        """Seconds to the deadline, which waits while the round is paused; 0 after it."""
        return max(0, self.deadline - (self.paused_at or self.now))

    @property
    def most_tokens(self) -> int:
        """That any one member has in it."""
        return max((one.admitted for one in self.attendances), default=0)

    @property
    def contributed(self) -> int:
        return sum(one.standing == "contributed" for one in self.attendances)

    @property
    def awaited(self) -> int:
        return sum(one.standing in ("waiting", "trying") for one in self.attendances)

    @property
    def telling(self) -> tuple[Reached, ...]:
        """Where those machines are that are awaited and have told something lately."""
        return tuple(one.reached for one in self.attendances if one.reached and not one.reached.is_old)

    @property
    def slowest(self) -> Reached | None:
        """Whose stage takes longest still. None while any gathers its pictures: nobody knows how long it trains."""
        if any(one.stage is ProgressStage.PICTURES for one in self.telling):
            return None
        return max((one for one in self.telling if one.left), key=lambda one: one.left or 0, default=None)

    @property
    def may_go_on(self) -> bool:
        """Whether the round would go on if it waited for nobody else."""
        if self.state == RoundState.TRAINING:
            return self.contributed >= self.plan.quorum and self.plan.mode is not Mode.SECAGG
        return self.state == RoundState.SCORING and any(one.scored for one in self.contributions)

    @property
    def word(self) -> str:
        return WORDS[self.state]

    @property
    def means(self) -> str:
        return MEANS[self.state]


@dataclass(frozen=True)
class Merge:
    """What one merge said of its contributions, kept without the tensors."""

    norms: Mapping[str, float | None]
    notes: Mapping[str, str]
    shares: Mapping[str, float]
    statistics_errors: Mapping[str, float]
    influences: Mapping[str, float | None]

    @classmethod
    def of(cls, made: Candidates) -> "Merge":
        accounts = made.merged.accounts
        total = sum(one.weight for one in accounts.values()) or 1
        return cls(
            norms={key: one.norm for key, one in accounts.items()},
            notes={key: made.note(made.first, key) for key in accounts},
            shares={key: one.weight / total for key, one in accounts.items()},
            statistics_errors=dict(made.statistics_errors),
            influences={key: one.influence for key, one in accounts.items()},
        )


_NOTHING = Merge({}, {}, {}, {}, {})


class Merges:
    """What was read of the newest candidates: they do not change under their hash."""

    def __init__(self) -> None:
        self._read: dict[str, Merge] = {}

    def of(self, folder: Path, candidates_hash: str | None) -> Merge:
        if not candidates_hash:
            return _NOTHING
        if candidates_hash not in self._read:
            try:
                self._read = {candidates_hash: Merge.of(candidate.read(folder, candidates_hash))}
            except (OSError, ValueError, CoterieError):
                return _NOTHING
        return self._read.get(candidates_hash, _NOTHING)


def standing_of(session: Session, merges: Merges, candidates: Path, round_id: str, now: int) -> Standing:
    """Raises NotFound."""
    row = round_row(session, round_id)
    plan = RoundPlan.model_validate_json(row.plan)
    events = _events(session, row)
    return Standing(
        round_id=row.round_id,
        number=row.number,
        kind=row.kind,
        state=row.state,
        plan=plan,
        snapshot=Snapshot.model_validate_json(row.snapshot),
        opened_at=row.opened_at,
        deadline=row.deadline,
        paused_at=row.paused_at,
        now=now,
        stages=stages(RoundKind(row.kind), plan.mode, RoundState(row.state), bool(merged_ids(row))),
        attendances=_attendances(session, row, events, now),
        contributions=_contributions(session, row, merges.of(candidates, row.candidates_hash)),
        reason=row.reason or "",
        cid=row.cid,
        orders=orders_on(session, [row.round_id]),
        events=tuple(Told(one["number"], one["at"], one["message"]) for one in events[:EVENTS_SHOWN]),
    )


def stages(kind: RoundKind, mode: Mode, state: RoundState, merged: bool) -> tuple[Stage, ...]:
    """The states that such a round goes through, and where it is. ``merged``: whether it ever got that far. Pure."""
    gathering = EXCHANGES if mode is Mode.SECAGG else EXCHANGES[:1]
    scoring = () if mode is Mode.DP else (RoundState.SCORING,)
    way = (*gathering, RoundState.MERGING, *scoring, RoundState.PUBLISHING, RoundState.PUBLISHED)
    if kind is RoundKind.REMOVAL:
        way = way[len(gathering) :]
    if state is RoundState.PUBLISHED:
        return tuple(Stage(WORDS[one], "done") for one in way)
    if state in ENDED:
        reached = way.index(RoundState.MERGING) + 1 if merged else 0
        done = tuple(Stage(WORDS[one], "done") for one in way[:reached])
        return (*done, Stage(WORDS[state], "stopped"))
    at = way.index(state) if state in way else 0
    return tuple(
        Stage(WORDS[one], "done" if place < at else "now" if place == at else "ahead") for place, one in enumerate(way)
    )


def orders_on(session: Session, subjects: Sequence[str]) -> tuple[Order, ...]:
    """The orders that were carried out on these, newest first."""
    rows = session.scalars(select(ActRow).where(ActRow.subject.in_(subjects)).order_by(ActRow.done_at.desc()))
    return tuple(_order(one) for one in rows)


def _order(row: ActRow) -> Order:
    reason = str(json.loads(row.document).get("reason", ""))
    return Order(ORDERS.get(row.kind, row.kind), row.actor, reason, row.done_at)


def contribution_of(session: Session, merges: Merges, candidates: Path, contribution_id: str) -> tuple[Judged, str]:
    """One contribution, and its round's id. Raises NotFound."""
    row = session.get(ContributionRow, contribution_id)
    if row is None:
        raise NotFound(f"There is no contribution {contribution_id[:64]}.", "Choose one on its round's page.")
    made_in = round_row(session, row.round_id)
    found = _contributions(session, made_in, merges.of(candidates, made_in.candidates_hash))
    return next(one for one in found if one.contribution_id == contribution_id), row.round_id


def _events(session: Session, row: RoundRow) -> list[dict[str, Any]]:
    newest = session.scalar(select(func.max(EventRow.number))) or 0
    bodies = session.scalars(
        select(EventRow.body)
        .where(EventRow.number > newest - EVENTS_READ, EventRow.body.contains(row.round_id, autoescape=True))
        .order_by(EventRow.number.desc())
    )
    return [body for body in map(json.loads, bodies) if body.get("round_id") == row.round_id]


def _attendances(
    session: Session, row: RoundRow, events: Sequence[Mapping[str, Any]], now: int
) -> tuple[Attendance, ...]:
    parts = session.execute(
        select(RoundGrantRow, GrantRow)
        .join(GrantRow, GrantRow.grant_id == RoundGrantRow.grant_id)
        .where(RoundGrantRow.round_id == row.round_id)
        .order_by(GrantRow.given_at, GrantRow.grant_id)
    ).all()
    given = {
        one.grant_id: one
        for one in session.scalars(
            select(ContributionRow)
            .where(ContributionRow.round_id == row.round_id)
            .order_by(ContributionRow.received_at)
        )
    }
    told: dict[str, int] = {}
    for event in reversed(events):
        if "grant_id" in event:
            told[event["grant_id"]] = event["at"]
    verdicts: dict[str, list[Verdict]] = {}
    for grant_id, verdict in session.execute(
        select(RoundTokenRow.grant_id, RoundTokenRow.verdict).where(RoundTokenRow.round_id == row.round_id)
    ):
        verdicts.setdefault(grant_id, []).append(Verdict.model_validate_json(verdict))
    scorers, scored = scorer_keys(session, row), scored_keys(session, row)
    told_last = reached(session, row, now)
    found = []
    for part, grant in parts:
        standing, words, at = _attended(part, given.get(part.grant_id), told.get(part.grant_id), row)
        awaited = standing in ("waiting", "trying")
        if row.state == RoundState.SCORING and grant.node_key in scorers:
            awaited = grant.node_key not in scored
            words = "Its scores are awaited." if awaited else "Its scores are here."
        at_work = told_last.get(grant.node_key) if awaited else None
        if standing == "waiting" and at_work and not (at_work.is_done or at_work.is_old):
            words = "It is at work."
        mine = verdicts.get(part.grant_id, [])
        found.append(
            Attendance(
                member=grant.member,
                grant_id=part.grant_id,
                node_id=grant.node_id,
                admitted=sum(one.allow for one in mine),
                standing=standing,
                words=words,
                at=at,
                denied=together(one for one in mine if not one.allow),
                reached=at_work,
            )
        )
    return tuple(found)


def _attended(
    part: RoundGrantRow, given: ContributionRow | None, told: int | None, row: RoundRow
) -> tuple[str, str, int | None]:
    reason = part.reason or ""
    if given and given.state == "live":
        return "contributed", "The contribution is here and checked.", given.received_at
    if given and given.state == "refused":
        return "refused", reason or given.reason or "", given.received_at
    if given and given.state == "quarantined":
        return "set aside", given.reason or "", given.received_at
    if given:
        return "ended", given.reason or reason, told or given.received_at
    if part.expected and reason:
        return "trying", f"{reason} It is asked again." if row.state in GATHERING else reason, told
    if part.expected:
        words = "Asked, no answer yet." if row.state in GATHERING else "Nothing came."
        return "waiting", words, row.opened_at
    if reason.startswith("The member declined"):
        return "declined", reason, told
    return "out", reason or "Too few of its tokens are admitted.", told


def _contributions(session: Session, row: RoundRow, merge: Merge) -> tuple[Judged, ...]:
    in_release, published = _released(session, row), _published(session)
    scores = _scores(session, row)
    rows = session.execute(
        select(ContributionRow, GrantRow.node_key)
        .join(GrantRow, GrantRow.grant_id == ContributionRow.grant_id)
        .where(ContributionRow.round_id == row.round_id)
        .order_by(ContributionRow.received_at, ContributionRow.contribution_id)
    )
    found = []
    for one, node_key in rows:
        header, key = ContributionHeader.model_validate_json(one.header), one.contribution_id
        entry, trained = in_release.get(key), header.training
        held_out = sum(use.held_out for use in header.tokens)
        found.append(
            Judged(
                contribution_id=key,
                member=one.member,
                state=one.state,
                reason=one.reason or "",
                received_at=one.received_at,
                bytes=one.size,
                trained=len(header.tokens) - held_out,
                held_out=held_out,
                steps=trained.steps if trained else None,
                seconds=trained.seconds if trained else None,
                first_loss=trained.first_loss if trained else None,
                last_loss=trained.last_loss if trained else None,
                rank=entry.rank if entry else None,
                norm=entry.norm if entry else merge.norms.get(key),
                share=entry.share if entry else merge.shares.get(key),
                statistics_error=entry.statistics_error if entry else merge.statistics_errors.get(key),
                influence=entry.influence if entry else merge.influences.get(key),
                worth=entry.worth if entry else None,
                scored=scores.get(node_key),
                note=entry.note if entry else merge.notes.get(key, ""),
                released=key in published,
            )
        )
    return tuple(found)


def _released(session: Session, row: RoundRow) -> Mapping[str, MergedContribution]:
    manifest = session.scalar(select(ReleaseRow.manifest).where(ReleaseRow.round_id == row.round_id))
    if manifest is None:
        return {}
    return {one.contribution_id: one for one in Manifest.model_validate_json(manifest).contributions}


def _published(session: Session) -> frozenset[str]:
    """Every contribution that a release was merged from."""
    merged = session.scalars(select(RoundRow.merged).where(RoundRow.cid.is_not(None)))
    return frozenset(one for ids in merged for one in ids_in(ids))


def _scores(session: Session, row: RoundRow) -> Mapping[str, tuple[float, float]]:
    """Node key → the base's and the best gain's error on what that member held out, of the present candidates."""
    gains = RoundPlan.model_validate_json(row.plan).gains
    reports = session.scalars(
        select(ScoreReportRow).where(
            ScoreReportRow.round_id == row.round_id,
            ScoreReportRow.candidates_hash == (row.candidates_hash or ""),
            ScoreReportRow.report.is_not(None),
        )
    )
    found = {}
    for one in reports:
        losses = SignedScoreReport.model_validate_json(one.report or "").report.losses
        base = next((loss for gain, loss in zip(gains, losses[0], strict=True) if gain == 0), None)
        others = [loss for each in losses for gain, loss in zip(gains, each, strict=True) if gain != 0]
        if base is not None and others:
            found[one.node_key] = (base, min(others))
    return found
