"""What a member may see of their own part, as frozen values: grants, machines, contributions, NFTs.

A member is a person: everything here is of all their linked wallets. It is read from the database alone; what only the
chain or the SuperLink can tell comes in as values.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.model import Address, Token
from coordinator.database import ContributionRow, DeviceRow, GrantRow, RoundRow, RoundTokenRow
from coordinator.identity.grants import live_grants
from coordinator.rounds.acts import revoked_at
from coordinator.rounds.progress import Reached, reached
from coordinator.rounds.queries import KEPT, active_round, live_under, merged_ids, part_or_none, scored_keys
from coordinator.rounds.transitions import GATHERING, RoundKind, RoundState
from coordinator.web.public import history
from coordinator.web.public.glance import Tokens, cut
from coordinator.web.public.history import Memory, Release
from coordinator.web.views import short
from protocol import node_key
from protocol.contribution import ContributionHeader, TokenUse
from protocol.errors import NotFound
from protocol.grant import Grant, RoundPlan
from protocol.modes import Mode
from protocol.policy import Policy, Verdict

SOON_SECONDS = 14 * 24 * 3600
"""Before its end a grant is called near it for this long."""
THREADS = 8
"""Colours of threads in the style sheet."""


@dataclass(frozen=True)
class OwnGrant:
    """One grant of the member's."""

    grant_id: str
    grant: Grant
    grant_hash: str
    state: str
    """live, resting, outdated, replaced, revoked or expired."""
    tokens: tuple[Tokens, ...]
    fingerprint: str
    given_at: int
    ends_soon: bool
    revoked_at: int | None
    live_contributions: int
    """What revoking it would take out."""
    ended_contributions: int
    removal: tuple[int, str] | None
    """Number and state of the newest removal round since it was revoked."""

    @property
    def is_revocable(self) -> bool:
        return self.state in ("live", "resting", "outdated") or (
            self.state != "revoked" and self.live_contributions > 0
        )


@dataclass(frozen=True)
class Seen:
    """What the SuperLink knows of a node: whether it is connected, and since when (Unix seconds), if ever."""

    connected: bool
    since: int | None


@dataclass(frozen=True)
class OwnNode:
    """One of the member's machines, which is a node key."""

    node_key: str
    fingerprint: str
    name: str
    """What it called itself when it asked for a grant; empty where the wallet signed on the machine itself."""
    grant_id: str
    """Of the newest grant that names it."""
    in_force: bool
    """Whether that grant counts now."""
    node_id: int
    doing: str
    """idle, waiting, trains, contributed, scores, failed, declined, late or out."""
    reason: str
    """Why it failed, or gives nothing to this round."""
    reached: Reached | None
    """How far it is in that, where it tells."""
    seen: Seen | None


@dataclass(frozen=True)
class OwnContribution:
    """One contribution of the member's, and what it is in the newest release, if it is there."""

    contribution_id: str
    round_number: int
    round_state: str
    member: Address
    uses: tuple[TokenUse, ...]
    tokens: tuple[Tokens, ...]
    mode: Mode
    state: str
    """live, quarantined, dead or refused."""
    mark: str
    """merged, waiting, replaced, cancelled, aside, removed or refused."""
    reason: str
    bytes: int
    received_at: int
    share: float | None
    """Of the newest release."""
    norm: float | None
    influence: float | None
    worth: float | None
    note: str
    releases: tuple[int, ...]
    """Numbers of the releases that it is in, oldest first."""

    @property
    def is_kept(self) -> bool:
        """Whether the coordinator has the adapter as the member's machine made it."""
        return self.mode is Mode.OPEN and self.state != "refused"


@dataclass(frozen=True)
class Share:
    """How much of a release came from the member."""

    number: int
    kind: str
    published_at: int
    share: float


@dataclass(frozen=True)
class OwnRound:
    """The training round that is under way."""

    round_id: str
    number: int
    state: str
    deadline: int
    is_paused: bool


@dataclass(frozen=True)
class OwnPart:
    """Everything, newest first."""

    wallets: tuple[Address, ...]
    grants: tuple[OwnGrant, ...]
    nodes: tuple[OwnNode, ...]
    contributions: tuple[OwnContribution, ...]
    shares: tuple[Share, ...]
    """Of every release, oldest first."""
    round: OwnRound | None

    @property
    def in_force(self) -> OwnGrant | None:
        """The grant that counts."""
        return next((one for one in self.grants if one.state == "live"), None)

    @property
    def node(self) -> OwnNode | None:
        """The machine of the grant that counts."""
        return next((one for one in self.nodes if one.in_force), None)

    @property
    def share(self) -> float:
        """Of the newest release."""
        return self.shares[-1].share if self.shares else 0.0

    @property
    def standing(self) -> str:
        """In one word: new, ended, outdated, soon, or what the machine does."""
        if self.in_force is None:
            if any(one.state == "outdated" for one in self.grants):
                return "outdated"
            return "ended" if self.grants else "new"
        doing = self.node.doing if self.node else "idle"
        return "soon" if doing == "idle" and self.in_force.ends_soon else doing


def own_part(
    session: Session,
    memory: Memory,
    wallets: Sequence[Address],
    policy: Policy,
    base_hash: str,
    now: int,
    seen: Mapping[int, Seen],
) -> OwnPart:
    """The part of the member with these wallets. ``seen`` is by the SuperLink's node ids; empty where it is silent."""
    rows = session.scalars(
        select(GrantRow)
        .where(GrantRow.member.in_(wallets))
        .order_by(GrantRow.given_at.desc(), GrantRow.replaced, GrantRow.grant_id)
    ).all()
    counting = {one.grant_id for one in live_grants(session, policy.digest(), base_hash, now, wallets)}
    grants = tuple(_grant(session, row, policy, base_hash, now, counting) for row in rows)
    now_round = active_round(session, RoundKind.TRAINING)
    published = history.releases(session, memory, limit=None)
    return OwnPart(
        wallets=tuple(wallets),
        grants=grants,
        nodes=_nodes(session, rows, counting, now_round, now, seen),
        contributions=_contributions(session, wallets, policy, published),
        shares=_shares(published, wallets),
        round=_round(now_round) if now_round else None,
    )


def _round(row: RoundRow) -> OwnRound:
    return OwnRound(row.round_id, row.number, row.state, row.deadline, is_paused=row.paused_at is not None)


def require_own(session: Session, contribution_id: str, wallets: Collection[Address]) -> tuple[ContributionRow, Mode]:
    """A contribution of one of these wallets, and the mode of its round.

    Raises:
        NotFound: there is none, or it is another member's.
    """
    row = session.get(ContributionRow, contribution_id)
    if row is None or row.member not in wallets:
        raise NotFound(f"You have no contribution {contribution_id[:40]}.", "Your contributions are listed at /me.")
    return row, RoundPlan.model_validate_json(session.get_one(RoundRow, row.round_id).plan).mode


def in_words(tokens: Iterable[Token], policy: Policy) -> tuple[Tokens, ...]:
    """Tokens by collection, the first ids of each."""
    names = {rule.contract: rule.name for rule in policy.collections}
    found: dict[str, list[int]] = {}
    for token in sorted(tokens):
        found.setdefault(names.get(token.contract, short(token.contract)), []).append(token.token_id)
    return tuple(cut(name, ids) for name, ids in found.items())


# Grants and machines --------------------------------------------------------------------------------------------------


def _grant(
    session: Session, row: GrantRow, policy: Policy, base_hash: str, now: int, counting: Collection[str]
) -> OwnGrant:
    grant = Grant.model_validate_json(row.document)
    revoked = revoked_at(session, row.grant_id)
    ended = select(ContributionRow).where(ContributionRow.grant_id == row.grant_id, ContributionRow.state == "dead")
    return OwnGrant(
        grant_id=row.grant_id,
        grant=grant,
        grant_hash=grant.digest(),
        state=_state(row, grant, policy, base_hash, now, counting, revoked),
        tokens=in_words(grant.tokens, policy),
        fingerprint=node_key.fingerprint(grant.node_key),
        given_at=row.given_at,
        ends_soon=grant.expires - now < SOON_SECONDS,
        revoked_at=revoked,
        live_contributions=len(live_under(session, row.grant_id)),
        ended_contributions=len(session.scalars(ended).all()),
        removal=_removal_since(session, revoked),
    )


def _state(
    row: GrantRow,
    grant: Grant,
    policy: Policy,
    base_hash: str,
    now: int,
    counting: Collection[str],
    revoked: int | None,
) -> str:
    if revoked is not None:
        return "revoked"
    if row.replaced:
        return "replaced"
    if row.expires <= now:
        return "expired"
    if (grant.policy_hash, grant.base_hash) != (policy.digest(), base_hash):
        return "outdated"
    return "live" if row.grant_id in counting else "resting"


def _removal_since(session: Session, revoked: int | None) -> tuple[int, str] | None:
    if revoked is None:
        return None
    query = select(RoundRow).where(RoundRow.kind == RoundKind.REMOVAL, RoundRow.opened_at >= revoked)
    row = session.scalar(query.order_by(RoundRow.number).limit(1))
    return (row.number, row.state) if row else None


def _nodes(
    session: Session,
    rows: Sequence[GrantRow],
    counting: Collection[str],
    now_round: RoundRow | None,
    now: int,
    seen: Mapping[int, Seen],
) -> tuple[OwnNode, ...]:
    told_last = reached(session, now_round, now) if now_round else {}
    newest: dict[str, GrantRow] = {}
    for row in rows:
        newest.setdefault(row.node_key, row)
    found = []
    for key, row in newest.items():
        in_force = row.grant_id in counting
        doing, reason = _doing(session, key, row, now_round, in_force)
        named = select(DeviceRow.name).where(DeviceRow.node_key == key, DeviceRow.grant_id.is_not(None))
        name = session.scalar(named.order_by(DeviceRow.expires.desc()).limit(1))
        found.append(
            OwnNode(
                node_key=key,
                fingerprint=node_key.fingerprint(key),
                name=name or "",
                grant_id=row.grant_id,
                in_force=in_force,
                node_id=int(row.node_id),
                doing=doing,
                reason=reason,
                reached=told_last.get(key) if doing in ("trains", "failed", "scores") else None,
                seen=seen.get(int(row.node_id)),
            )
        )
    return tuple(found)


def _doing(session: Session, key: str, row: GrantRow, now_round: RoundRow | None, in_force: bool) -> tuple[str, str]:
    """What a machine does in the round that is under way, and why it gives nothing."""
    part = part_or_none(session, now_round.round_id, key) if now_round else None
    if now_round is None or not (part or in_force):
        return ("idle" if in_force else "out"), ""
    if part is None:
        return "late", ""
    given = session.scalar(
        select(ContributionRow.contribution_id).where(
            ContributionRow.round_id == now_round.round_id,
            ContributionRow.grant_id == part.grant_id,
            ContributionRow.state.in_(KEPT),
        )
    )
    if given and now_round.state == RoundState.SCORING and key not in scored_keys(session, now_round):
        return ("scores" if given in merged_ids(now_round) else "contributed"), ""
    if given:
        return "contributed", ""
    if not part.expected or now_round.state not in GATHERING:
        return "declined", part.reason or "The round went on without it."
    if part.reason:
        return "failed", part.reason
    return ("waiting" if now_round.state == RoundState.OPEN else "trains"), ""


# Contributions --------------------------------------------------------------------------------------------------------


def _contributions(
    session: Session, wallets: Collection[Address], policy: Policy, published: Sequence[Release]
) -> tuple[OwnContribution, ...]:
    rows = session.scalars(
        select(ContributionRow)
        .where(ContributionRow.member.in_(wallets))
        .order_by(ContributionRow.received_at.desc(), ContributionRow.contribution_id)
    )
    return tuple(_contribution(session, row, policy, published, wallets) for row in rows)


def _contribution(
    session: Session,
    row: ContributionRow,
    policy: Policy,
    published: Sequence[Release],
    wallets: Collection[Address],
) -> OwnContribution:
    made_in = session.get_one(RoundRow, row.round_id)
    uses = ContributionHeader.model_validate_json(row.header).tokens
    latest = published[0].glance.pieces if published else ()
    entry = next((one for one in latest if one.contribution_id == row.contribution_id), None)
    known = [one for one in published if any(c.contribution_id == row.contribution_id for c in one.glance.pieces)]
    follows = any(one.member in wallets for one in latest)
    return OwnContribution(
        contribution_id=row.contribution_id,
        round_number=made_in.number,
        round_state=made_in.state,
        member=row.member,
        uses=uses,
        tokens=in_words((use.token for use in uses), policy),
        mode=RoundPlan.model_validate_json(made_in.plan).mode,
        state=row.state,
        mark=_mark(row.state, entry is not None, follows, made_in.state),
        reason=row.reason or "",
        bytes=row.size,
        received_at=row.received_at,
        share=entry.share if entry else None,
        norm=entry.norm if entry else None,
        influence=entry.influence if entry else None,
        worth=entry.worth if entry else None,
        note=entry.note if entry else "",
        releases=tuple(sorted(one.number for one in known)),
    )


def _mark(state: str, merged: bool, follows: bool, made_in: str) -> str:
    if state != "live":
        return {"dead": "removed", "quarantined": "aside"}.get(state, state)
    if merged:
        return "merged"
    if made_in == RoundState.CANCELLED:
        return "cancelled"
    return "replaced" if follows else "waiting"


def _shares(published: Sequence[Release], wallets: Collection[Address]) -> tuple[Share, ...]:
    return tuple(
        Share(
            number=one.number,
            kind=one.kind,
            published_at=one.published_at,
            share=sum(c.share for c in one.glance.pieces if c.member in wallets),
        )
        for one in reversed(published)
    )


# NFTs -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weave:
    """A token's own pattern, 8 × 8: one path for each colour of thread, as SVG takes it."""

    ground: int
    paths: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Use:
    """A contribution that was trained on a token."""

    contribution: OwnContribution
    held_out: bool


@dataclass(frozen=True)
class Card:
    """One NFT of the member's, with the verdict on it and what became of it."""

    verdict: Verdict
    holder: Address
    in_vault: bool
    grant: OwnGrant | None
    """The one in force, where it names the token."""
    uses: tuple[Use, ...]
    weave: Weave

    @property
    def anchor(self) -> str:
        """Text to find it by."""
        return f"{self.verdict.collection} {self.verdict.token.token_id}".lower()


@dataclass(frozen=True)
class Holding:
    """A token's verdict, and which wallet or vault has it."""

    verdict: Verdict
    holder: Address
    in_vault: bool = False


def cards(holdings: Iterable[Holding], part: OwnPart) -> tuple[Card, ...]:
    """A card for each token, the admitted ones first. A token that two wallets may offer is its holder's."""
    best: dict[Token, Holding] = {}
    for one in holdings:
        before = best.get(one.verdict.token)
        if before is None or (one.verdict.allow, not one.in_vault) > (before.verdict.allow, not before.in_vault):
            best[one.verdict.token] = one
    in_order = sorted(best.values(), key=lambda one: (not one.verdict.allow, one.verdict.collection, one.verdict.token))
    return tuple(_card(one, part) for one in in_order)


def _card(one: Holding, part: OwnPart) -> Card:
    token, live = one.verdict.token, part.in_force
    uses = (Use(made, use.held_out) for made in part.contributions for use in made.uses if use.token == token)
    return Card(
        verdict=one.verdict,
        holder=one.holder,
        in_vault=one.in_vault,
        grant=live if live and token in live.grant.tokens else None,
        uses=tuple(uses),
        weave=weave(token),
    )


def known_holdings(session: Session, part: OwnPart) -> tuple[Holding, ...]:
    """What the database knows of the member's tokens: the verdicts of the newest rounds that asked about them."""
    grants = {one.grant_id: one.grant.member for one in part.grants}
    rows = session.execute(
        select(RoundTokenRow.verdict, RoundTokenRow.grant_id)
        .join(RoundRow, RoundRow.round_id == RoundTokenRow.round_id)
        .where(RoundTokenRow.grant_id.in_(grants))
        .order_by(RoundRow.number)
    )
    newest: dict[Token, Holding] = {}
    for text, grant_id in rows:
        verdict = Verdict.model_validate_json(text)
        newest[verdict.token] = Holding(verdict, grants[grant_id])
    return tuple(newest.values())


def weave(token: Token) -> Weave:
    """A pattern of the token's name alone: the same everywhere, drawn without asking anybody for a picture.

    The left half is mirrored, so that it looks woven; three different threads.
    """
    digest = sha256(str(token).encode()).digest()
    first, step = digest[0] % THREADS, 1 + digest[1] % (THREADS - 2)
    colours = (first, (first + step) % THREADS, (first + step + 1) % THREADS)
    cells: dict[int, list[str]] = {colours[1]: [], colours[2]: []}
    for y in range(8):
        for x in range(4):
            value = digest[2 + (4 * y + x) % 30] >> (y // 2) & 3
            if value in (1, 2):
                cells[colours[value]] += [f"M{x} {y}h1v1h-1z", f"M{7 - x} {y}h1v1h-1z"]
    return Weave(colours[0], tuple((colour, "".join(path)) for colour, path in cells.items()))


def with_seen(part: OwnPart, seen: Mapping[int, Seen]) -> OwnPart:
    """The same, and what the SuperLink knows of the machines."""
    return replace(part, nodes=tuple(replace(one, seen=seen.get(one.node_id)) for one in part.nodes))
