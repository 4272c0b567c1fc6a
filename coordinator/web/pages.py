"""The DAO's public page: what the collective is, how it came about, what was left out and why.

Rendered on the server, without JavaScript and without a request to anyone else. ``views`` says what is so;
``compose`` puts it into the order and the words of the page, for readers who know nothing of the field.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Blueprint, render_template

from contracts_abi.model import Token
from coordinator.rounds.events import Event, is_chain
from coordinator.rounds.transitions import ENDED, RoundKind, RoundState
from coordinator.web.service import service
from coordinator.web.views import ContributionView, PublicState, ReleaseView, RoundView, public_state, short
from protocol.manifest import Manifest
from protocol.policy import Policy, Verdict

COLOURS = 8
"""Threads in the style sheet; the ninth member gets the first one's colour again."""
LOST_WIDTH = 40
ROUNDS_SHOWN = 10
IDS_SHOWN = 12

STATES: Mapping[str, str] = {
    RoundState.OPEN: "about to begin",
    RoundState.TRAINING: "members are training, each on their own machine",
    RoundState.SHARING: "members are sharing the keys of a secret sum",
    RoundState.MASKING: "members are sending updates that only their sum can be read of",
    RoundState.CONFIRMING: "members are confirming whose updates are in the sum",
    RoundState.UNMASKING: "members are opening the sum together",
    RoundState.MERGING: "the contributions are being merged",
    RoundState.SCORING: "members are scoring the merged model on pictures they kept from training",
    RoundState.PUBLISHING: "the release is being built and read back",
    RoundState.PUBLISHED: "published",
    RoundState.FAILED: "ended without a release",
    RoundState.CANCELLED: "cancelled",
}
STEPS = (
    (RoundState.TRAINING, "train"),
    (RoundState.MERGING, "merge"),
    (RoundState.SCORING, "score"),
    (RoundState.PUBLISHING, "publish"),
)

pages = Blueprint("pages", __name__)


@dataclass(frozen=True)
class Thread:
    """A member's stripe in a ribbon; ``left`` and ``width`` in thousandths of the ribbon."""

    member: str
    colour: int
    left: int
    width: int
    share: float
    lost: bool = False


@dataclass(frozen=True)
class Tokens:
    """Tokens of one collection, in words: the first ids, and how many more there are."""

    collection: str
    ids: tuple[int, ...]
    more: int


@dataclass(frozen=True)
class Line:
    """A contribution as the page tells it. ``share`` is of the newest release; None where it is not in it."""

    member: str
    colour: int
    tokens: tuple[Tokens, ...]
    trained: int
    held_out: int
    bytes: int
    share: float | None
    mark: str
    """merged, waiting, replaced, removed or refused."""
    reason: str


@dataclass(frozen=True)
class Chapter:
    """A round: what kind, how far, who contributed, who did not."""

    view: RoundView
    doing: str
    steps: tuple[tuple[str, str], ...]
    """(word, done | now | ahead), while it lasts."""
    lines: tuple[Line, ...]
    absences: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """A release in the history: what came, what went and why. ``replaced`` counts older contributions of members."""

    view: ReleaseView
    ribbon: tuple[Thread, ...]
    came: tuple[tuple[str, int], ...]
    """(member, tokens)"""
    replaced: int


@dataclass(frozen=True)
class Exclusion:
    """Tokens that were left out for one reason."""

    reason: str
    tokens: Tokens


@dataclass(frozen=True)
class Page:
    """Everything the template needs, newest first."""

    state: PublicState
    uri: str
    base_name: str
    latest: ReleaseView | None
    ribbon: tuple[Thread, ...]
    losses: tuple[float, float] | None
    """Held-out error of the base and of the newest release, where both were scored."""
    bytes_moved: int
    """Of the contributions in the newest release."""
    chapters: tuple[Chapter, ...]
    exclusions: tuple[Exclusion, ...]
    history: tuple[Passage, ...]
    events: tuple[Event, ...]
    linked: bool
    """Whether the shown end of the log is one chain."""


@pages.get("/")
def front() -> str:
    here = service()
    with here.database.reading() as session:
        state = public_state(session, here.policy)
    return render_template("front.html", page=compose(state, here.settings.public_uri, here.settings.base_name))


def compose(state: PublicState, uri: str, base_name: str) -> Page:
    """The page of a DAO in this state. Pure."""
    colours = _colours(state.contributions)
    latest = state.releases[0] if state.releases else None
    merged = {one.contribution_id for one in latest.manifest.contributions} if latest else set()
    return Page(
        state=state,
        uri=uri,
        base_name=base_name,
        latest=latest,
        ribbon=_ribbon(latest.manifest, colours) if latest else (),
        losses=_losses(latest.manifest) if latest else None,
        bytes_moved=sum(one.bytes for one in state.contributions if one.contribution_id in merged),
        chapters=tuple(_chapter(one, latest, colours, state.policy) for one in state.rounds[:ROUNDS_SHOWN]),
        exclusions=_exclusions(state.exclusions),
        history=tuple(_passage(one, state.releases, colours) for one in state.releases),
        events=state.events,
        linked=is_chain(reversed(state.events)),
    )


def _colours(contributions: Sequence[ContributionView]) -> dict[str, int]:
    """A colour for every member, by who contributed first; it stays when others come."""
    in_order = sorted(contributions, key=lambda one: (one.received_at, one.contribution_id))
    members = dict.fromkeys(one.member for one in in_order)
    return {member: index % COLOURS for index, member in enumerate(members)}


def _ribbon(manifest: Manifest, colours: Mapping[str, int]) -> tuple[Thread, ...]:
    """The members' shares side by side, and a gap for each contribution that was removed."""
    lost = {one.member for one in manifest.removals}
    room = max(500, 1000 - LOST_WIDTH * len(lost))
    shares: dict[str, float] = {}
    for one in manifest.contributions:
        shares[one.member] = shares.get(one.member, 0.0) + one.share
    threads, left = [], 0
    for member, share in shares.items():
        width = round(share * room)
        threads.append(Thread(member, colours.get(member, 0), left, width, share))
        left += width
    gap = (1000 - left) // max(1, len(lost))
    for index, member in enumerate(sorted(lost)):
        threads.append(Thread(member, colours.get(member, 0), left + index * gap, gap, 0.0, lost=True))
    return tuple(threads)


def _losses(manifest: Manifest) -> tuple[float, float] | None:
    merge = manifest.merge
    by_gain = {score.gain: score.loss for score in merge.scores if score.candidate == merge.candidate}
    if 0.0 not in by_gain or merge.gain not in by_gain:
        return None
    return by_gain[0.0], by_gain[merge.gain]


def _chapter(view: RoundView, latest: ReleaseView | None, colours: Mapping[str, int], policy: Policy) -> Chapter:
    told = {one.reason for one in view.contributions if one.reason}
    return Chapter(
        view=view,
        doing=STATES[view.state],
        steps=() if view.state in ENDED else _steps(view),
        lines=tuple(_line(one, latest, colours, policy) for one in view.contributions),
        absences=tuple(a.reason for a in view.absences if not any(reason in a.reason for reason in told)),
    )


def _steps(view: RoundView) -> tuple[tuple[str, str], ...]:
    steps = STEPS[1:] if view.kind == RoundKind.REMOVAL else STEPS
    order = [state for state, _ in steps]
    at = order.index(RoundState(view.state)) if view.state in order else 0
    return tuple((word, "done" if i < at else "now" if i == at else "ahead") for i, (_, word) in enumerate(steps))


def _line(one: ContributionView, latest: ReleaseView | None, colours: Mapping[str, int], policy: Policy) -> Line:
    merged = {c.contribution_id: c for c in latest.manifest.contributions} if latest else {}
    entry = merged.get(one.contribution_id)
    held_out = sum(use.held_out for use in one.tokens)
    return Line(
        member=one.member,
        colour=colours[one.member],
        tokens=_by_collection((use.token for use in one.tokens), policy),
        trained=len(one.tokens) - held_out,
        held_out=held_out,
        bytes=one.bytes,
        share=entry.share if entry else None,
        mark=_mark(one, entry is not None, {c.member for c in merged.values()}),
        reason=one.reason,
    )


def _mark(one: ContributionView, merged: bool, members: set[str]) -> str:
    if one.state != "live":
        return "removed" if one.state == "dead" else one.state
    if merged:
        return "merged"
    return "replaced" if one.member in members else "waiting"


def _by_collection(tokens: Iterable[Token], policy: Policy) -> tuple[Tokens, ...]:
    names = {rule.contract: rule.name for rule in policy.collections}
    found: dict[str, list[int]] = {}
    for token in sorted(tokens):
        found.setdefault(names.get(token.contract, short(token.contract)), []).append(token.token_id)
    return tuple(_cut(name, ids) for name, ids in found.items())


def _cut(collection: str, ids: Sequence[int]) -> Tokens:
    return Tokens(collection, tuple(ids[:IDS_SHOWN]), max(0, len(ids) - IDS_SHOWN))


def _exclusions(verdicts: Sequence[Verdict]) -> tuple[Exclusion, ...]:
    """Tokens that were left out for the same reason, together."""
    found: dict[tuple[str, str], list[int]] = {}
    for verdict in sorted(verdicts, key=lambda v: v.token):
        found.setdefault((verdict.collection, verdict.reason), []).append(verdict.token.token_id)
    return tuple(Exclusion(reason, _cut(collection, ids)) for (collection, reason), ids in found.items())


def _passage(view: ReleaseView, releases: Sequence[ReleaseView], colours: Mapping[str, int]) -> Passage:
    parent = next((one.manifest for one in releases if one.cid == view.parent), None)
    before = {one.contribution_id for one in parent.contributions} if parent else set()
    now = {one.contribution_id for one in view.manifest.contributions}
    removed = {one.contribution_id for one in view.manifest.removals}
    came = tuple(
        (one.member, len(one.tokens)) for one in view.manifest.contributions if one.contribution_id not in before
    )
    return Passage(view, _ribbon(view.manifest, colours), came, replaced=len(before - now - removed))


@pages.app_context_processor
def _everywhere() -> dict[str, object]:
    """What every page's head and foot name."""
    return {"policy": service().policy}


@pages.app_template_filter("short")
def _short(address: str) -> str:
    return short(address)


@pages.app_template_filter("brief")
def _brief(text: str) -> str:
    """A sentence with its addresses and CIDs cut to beginning and end."""
    text = re.sub(r"0x[0-9a-fA-F]{40}\b", lambda found: short(found[0]), text)
    return re.sub(r"\bbaf[a-z2-7]{50,}\b", lambda found: f"{found[0][:10]}…{found[0][-6:]}", text)


@pages.app_template_filter("day")
def _day(seconds: int) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


@pages.app_template_filter("iso")
def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@pages.app_template_filter("count")
def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@pages.app_template_filter("size")
def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1_000_000 else f"{number / 1e3:.0f} kB"
