"""How the public pages tell what was read: threads, passages, chapters, comparisons. Pure, for people new to it all."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from coordinator.rounds.transitions import EXCHANGES, RoundKind, RoundState
from coordinator.web.public.glance import Glance, Ground, Piece, Tokens
from coordinator.web.public.history import Contribution, Release, RoundLine, Story
from coordinator.web.views import short
from protocol.modes import Mode
from protocol.policy import Policy

COLOURS = 8
"""Threads in the style sheet; the ninth member gets the first one's colour again."""
LOST_WIDTH = 40
THREADS_DRAWN = 120
"""In one ribbon; the members after them are one thread together."""

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
_TRAIN = ("train", frozenset({RoundState.OPEN, RoundState.TRAINING}))
_SUM = ("sum in secret", frozenset(EXCHANGES[1:]))
_MERGE = ("merge", frozenset({RoundState.MERGING}))
_SCORE = ("score", frozenset({RoundState.SCORING}))
_PUBLISH = ("publish", frozenset({RoundState.PUBLISHING}))


@dataclass(frozen=True)
class Thread:
    """A member's stripe in a ribbon; ``left`` and ``width`` in thousandths of the ribbon."""

    member: str
    colour: int
    left: int
    width: int
    share: float
    lost: bool = False

    @property
    def label(self) -> str:
        return short(self.member) if self.member.startswith("0x") else self.member


@dataclass(frozen=True)
class Step:
    """One of a round's steps; ``mark`` is done, now or ahead."""

    word: str
    mark: str


@dataclass(frozen=True)
class Progress:
    """A round under way, or how it ended."""

    line: RoundLine
    doing: str
    steps: tuple[Step, ...]
    minutes: int | None
    """Until the deadline, while it counts."""
    scored: int
    scorers: int


@dataclass(frozen=True)
class Told:
    """A contribution as a round's page tells it. ``share`` is of the newest release; None where it is not in it."""

    one: Contribution
    colour: int
    tokens: tuple[Tokens, ...]
    share: float | None
    mark: str
    """merged, waiting, replaced, removed, quarantined or refused."""


@dataclass(frozen=True)
class Passage:
    """A release in the history: what came, what went and why."""

    release: Release
    ribbon: tuple[Thread, ...]
    came: tuple[Piece, ...]
    newer: tuple[Piece, ...]
    """Of members who were in the release before: their newer contributions."""
    dropped: tuple[str, ...]
    """Members who are in no longer, though nothing was removed."""


@dataclass(frozen=True)
class Change:
    """What two releases say of one thing."""

    what: str
    first: str
    second: str

    @property
    def same(self) -> bool:
        return self.first == self.second


@dataclass(frozen=True)
class MemberChange:
    """A member's part in two releases; None where it has none."""

    member: str
    colour: int
    first: float | None
    second: float | None
    tokens: tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """The same words drawn by two releases: the prompt, and its column in each sheet."""

    prompt: str
    first: int
    second: int


def ribbon_of(glance: Glance, colours: Mapping[str, int]) -> tuple[Thread, ...]:
    """The members' shares side by side, in the order of ``colours``, and a gap for each member that was removed.

    The same order everywhere, so that the eye follows a thread from one release to the next.
    """
    order = _order(colours)
    shares = dict(sorted(glance.shares.items(), key=lambda one: order.get(one[0], len(order))))
    lost = sorted({one.member for one in glance.gone} - set(shares))
    room = max(500, 1000 - LOST_WIDTH * len(lost))
    threads: list[Thread] = []
    done = 0.0
    for member, share in _drawn(shares).items():
        left, done = round(done * room), done + share
        threads.append(Thread(member, colours.get(member, 0), left, round(done * room) - left, share))
    left = round(done * room)
    gap = (1000 - left) // max(1, len(lost))
    for index, member in enumerate(lost):
        threads.append(Thread(member, colours.get(member, 0), left + index * gap, gap, 0.0, lost=True))
    return tuple(threads)


def pieces_of(glance: Glance, colours: Mapping[str, int]) -> list[Piece]:
    """What went in, the largest share first; equal ones in the order of ``colours``."""
    order = _order(colours)
    return sorted(glance.pieces, key=lambda one: (-one.share, order.get(one.member, len(order))))


def passage_of(release: Release, parent: Release | None, colours: Mapping[str, int]) -> Passage:
    """A release beside the one before."""
    pieces = release.glance.pieces
    had = {one.contribution_id for one in parent.glance.pieces} if parent else set()
    members = {one.member for one in parent.glance.pieces} if parent else set()
    fresh = [one for one in pieces if one.contribution_id not in had]
    still = {one.member for one in pieces} | {one.member for one in release.glance.gone}
    return Passage(
        release=release,
        ribbon=ribbon_of(release.glance, colours),
        came=tuple(one for one in fresh if one.member not in members),
        newer=tuple(one for one in fresh if one.member in members),
        dropped=tuple(sorted(members - still)),
    )


def progress_of(line: RoundLine, scored: int, scorers: int, now: int) -> Progress:
    """How far a round is at ``now``, in Unix seconds."""
    counts = line.state in (RoundState.OPEN, RoundState.TRAINING) and line.paused_at is None
    return Progress(
        line=line,
        doing=STATES.get(line.state, line.state),
        steps=() if line.ended else _steps(line),
        minutes=max(0, line.deadline - now + 59) // 60 if counts else None,
        scored=scored,
        scorers=scorers,
    )


def told_of(story: Story, latest: Release | None, colours: Mapping[str, int], policy: Policy) -> tuple[Told, ...]:
    """A round's contributions, beside the newest release."""
    pieces = {one.contribution_id: one for one in latest.glance.pieces} if latest else {}
    members = {one.member for one in pieces.values()}
    return tuple(
        Told(
            one=one,
            colour=colours.get(one.member, 0),
            tokens=named(one.tokens, policy),
            share=pieces[one.contribution_id].share if one.contribution_id in pieces else None,
            mark=_mark(one, pieces, members),
        )
        for one in story.contributions
    )


def named(tokens: Iterable[Tokens], policy: Policy) -> tuple[Tokens, ...]:
    """Tokens by contract → by the name that the policy has for it."""
    names = {rule.contract.lower(): rule.name for rule in policy.collections}
    return tuple(Tokens(names.get(one.collection.lower(), short(one.collection)), one.ids, one.more) for one in tokens)


def pairs_of(first: Glance, second: Glance) -> tuple[Pair, ...]:
    """The prompts that both sheets were drawn from."""
    columns = {prompt: column for column, prompt in enumerate(first.prompts)}
    return tuple(
        Pair(prompt, columns[prompt], column) for column, prompt in enumerate(second.prompts) if prompt in columns
    )


def same_dice(first: Glance, second: Glance, pair: Pair) -> bool:
    """Whether both drew the pair from the same noise: the same seed, and the same place in a sheet as long."""
    alike = (first.plan.seed, len(first.prompts), pair.first) == (second.plan.seed, len(second.prompts), pair.second)
    return alike and first.base.hash == second.base.hash


def changes_of(first: Release, second: Release) -> tuple[Change, ...]:
    """What the papers of two releases say of the same things."""
    a, b = first.glance, second.glance
    rows = (
        ("Members", str(len(a.shares)), str(len(b.shares))),
        ("Contributions", str(len(a.pieces)), str(len(b.pieces))),
        ("Tokens trained on", str(a.tokens), str(b.tokens)),
        ("Left out", *(str(sum(one.tokens.count for one in each.left_out)) for each in (a, b))),
        ("Error on pictures kept from training", _error(a), _error(b)),
        ("Gain", f"{a.merge.gain:g}", f"{b.merge.gain:g}"),
        ("Rank", str(a.merge.rank), str(b.merge.rank)),
        ("Energy dropped by the rank", f"{a.merge.tail:.2%}", f"{b.merge.tail:.2%}"),
        ("Mode", str(a.merge.mode), str(b.merge.mode)),
        ("Licence", a.licence, b.licence),
        ("Duties", *("; ".join(each.duties) or "none" for each in (a, b))),
        ("Policy", a.policy_hash[:16], b.policy_hash[:16]),
        ("Base", f"{a.base.name} {a.base.hash[:8]}", f"{b.base.name} {b.base.hash[:8]}"),
    )  # fmt: skip
    return tuple(Change(*row) for row in rows)


def members_of(first: Glance, second: Glance, colours: Mapping[str, int]) -> tuple[MemberChange, ...]:
    """Everybody in either of two releases: who came, who went, whose share changed; the largest change first."""
    before, after = first.shares, second.shares
    found = [
        MemberChange(
            member=member,
            colour=colours.get(member, 0),
            first=before.get(member),
            second=after.get(member),
            tokens=(_tokens(first, member), _tokens(second, member)),
        )
        for member in dict.fromkeys((*before, *after))
    ]
    return tuple(sorted(found, key=lambda one: -abs((one.second or 0.0) - (one.first or 0.0))))


def chosen(grounds: Iterable[Ground], collection: str) -> tuple[Ground, ...]:
    """Those of one collection; of all where none is named."""
    return tuple(one for one in grounds if not collection or one.collection == collection)


def _order(colours: Mapping[str, int]) -> dict[str, int]:
    return {member: place for place, member in enumerate(colours)}


def _error(glance: Glance) -> str:
    return f"{glance.losses[1]:.3f}" if glance.losses else "not scored"


def _drawn(shares: Mapping[str, float]) -> Mapping[str, float]:
    if len(shares) <= THREADS_DRAWN:
        return shares
    first = dict(list(shares.items())[:THREADS_DRAWN])
    return {**first, f"{len(shares) - THREADS_DRAWN} more": max(0.0, 1.0 - sum(first.values()))}


def _tokens(glance: Glance, member: str) -> int:
    return sum(one.count for one in glance.pieces if one.member == member)


def _steps(line: RoundLine) -> tuple[Step, ...]:
    mode = line.plan.mode
    steps = [
        *(() if line.kind == RoundKind.REMOVAL else (_TRAIN,)),
        *((_SUM,) if mode is Mode.SECAGG and line.kind != RoundKind.REMOVAL else ()),
        _MERGE,
        *(() if mode is Mode.DP else (_SCORE,)),
        _PUBLISH,
    ]
    at = next((i for i, (_, states) in enumerate(steps) if line.state in states), 0)
    return tuple(Step(word, "done" if i < at else "now" if i == at else "ahead") for i, (word, _) in enumerate(steps))


def _mark(one: Contribution, pieces: Collection[str], members: Collection[str]) -> str:
    if one.state != "live":
        return "removed" if one.state == "dead" else one.state
    if one.contribution_id in pieces:
        return "merged"
    return "replaced" if one.member in members else "waiting"
