"""What a grant must be before it counts, and the one that counts for each member."""

from collections.abc import Collection, Iterable

from pydantic import BaseModel
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from contracts_abi.model import Address, Snapshot
from contracts_abi.signatures import AskWallet
from coordinator.database import GrantRow
from coordinator.identity.members import persons
from coordinator.rounds import events
from coordinator.rounds.acts import revoked_at
from protocol.errors import Conflict, NotAllowed, NotFound
from protocol.grant import WARRANT, Grant, require_signer
from protocol.policy import Policy, Verdict

MAX_SECONDS = 366 * 24 * 3600


class SignedGrant(BaseModel):
    """What a member posts."""

    grant: Grant
    signature: str


def check_grant(
    signed: SignedGrant,
    wallet: Address,
    policy: Policy,
    base_hash: str,
    verdicts: Iterable[Verdict],
    now: int,
    ask_wallet: AskWallet | None = None,
) -> None:
    """Everything but whether it fits the grants that are there. ``verdicts`` are on the granted tokens, asked now.

    ``ask_wallet`` is asked about the signatures of contract wallets; without it, they are refused.

    Raises:
        NotAllowed: with the first thing that is wrong.
    """
    grant = signed.grant
    if grant.member != wallet:
        raise NotAllowed(f"The grant is {grant.member}'s, and {wallet} is signed in.", "Sign in with that wallet.")
    for what, said, meant in (
        ("DAO", grant.dao, policy.dao),
        ("chain", grant.chain_id, policy.chain_id),
        ("purpose", grant.purpose, policy.purpose),
        ("policy", grant.policy_hash, policy.digest()),
        ("base", grant.base_hash, base_hash),
    ):
        if said != meant:
            raise NotAllowed(
                f"The grant is for another {what}: {said}, not {meant}.", "Ask /api/v1/dao and sign again."
            )
    if not now < grant.expires <= now + MAX_SECONDS:
        raise NotAllowed("A grant ends in the future, and within a year.", "Choose another end and sign again.")
    require_signer(grant, signed.signature, wallet, ask_wallet)
    _check_tokens(grant, policy, list(verdicts))


def store_grant(session: Session, signed: SignedGrant, node_id: int, snapshot: Snapshot, now: int) -> str:
    """Write the grant; it replaces the member's older one. The same grant again changes nothing.

    Raises:
        Conflict: the node key is in another member's grant, or the member has revoked this one.
    """
    grant = signed.grant
    if revoked_at(session, grant.grant_id) is not None:
        raise Conflict("This grant was revoked.", "Sign a new one to take part again.")
    if session.get(GrantRow, grant.grant_id):
        return grant.grant_id
    require_free_key(session, grant)
    session.execute(update(GrantRow).where(GrantRow.member == grant.member).values(replaced=True))
    session.add(
        GrantRow(
            grant_id=grant.grant_id,
            member=grant.member,
            node_key=grant.node_key,
            node_id=str(node_id),
            document=grant.canonical().decode(),
            signature=signed.signature,
            snapshot=snapshot.model_dump_json(),
            expires=grant.expires,
            given_at=now,
        )
    )
    session.flush()
    events.append(
        session,
        now,
        "grant.given",
        f"{grant.member} granted {len(grant.tokens)} tokens.",
        grant_id=grant.grant_id,
        member=grant.member,
        tokens=[str(token) for token in grant.tokens],
    )
    return grant.grant_id


def require_free_key(session: Session, grant: Grant) -> None:
    """Raises Conflict when another member's grant names this node key."""
    other = session.scalar(
        select(GrantRow.member).where(GrantRow.node_key == grant.node_key, GrantRow.member != grant.member).limit(1)
    )
    if other:
        raise Conflict(f"This node key is in a grant of {other}.", "Use a folder of its own for every member.")


def require_replaced_key(session: Session, old: str, new: str, now: int) -> int:
    """The SuperLink's id of the node with the old key, when the wallet that granted to it has granted to the new one.

    Raises:
        NotFound: the old key is in no grant.
        Conflict: a grant in force names it still, or its wallet has not granted to the new key.
    """
    rows = session.scalars(select(GrantRow).where(GrantRow.node_key == old)).all()
    if not rows:
        raise NotFound(f"No grant names node key {old[:14]}….", "Join with it first.")
    in_force = [row for row in rows if not row.replaced and row.expires > now]
    members = {row.member for row in rows}
    follows = session.scalar(
        select(GrantRow).where(GrantRow.node_key == new, GrantRow.member.in_(members), ~GrantRow.replaced).limit(1)
    )
    if in_force or follows is None:
        raise Conflict("No newer grant replaces this node key's.", "Sign a grant for the new node key first.")
    return int(rows[0].node_id)


def granted(session: Session, grant_id: str) -> tuple[Grant, GrantRow]:
    """Raises NotFound."""
    row = session.get(GrantRow, grant_id)
    if row is None:
        raise NotFound(f"There is no grant {grant_id}.")
    return Grant.model_validate_json(row.document), row


def newer_of(session: Session, row: GrantRow) -> str | None:
    """The id of the grant that has replaced this one for the same wallet and node key, if one has."""
    if not row.replaced:
        return None
    query = select(GrantRow.grant_id).where(
        GrantRow.member == row.member, GrantRow.node_key == row.node_key, ~GrantRow.replaced
    )
    return session.scalar(query.limit(1))


def live_grants(
    session: Session, policy_hash: str, base_hash: str, now: int, wallets: Collection[Address] | None = None
) -> list[Grant]:
    """The newest grant of every member that has not ended and is for this policy and base, oldest first.

    Of a member's several wallets the one that granted last counts: one member, one contribution a round. With
    ``wallets``, all those of some members, only these members' grants are looked at.
    """
    query = select(GrantRow).where(~GrantRow.replaced, GrantRow.expires > now)
    if wallets is not None:
        query = query.where(GrantRow.member.in_(wallets))
    rows = session.scalars(query.order_by(GrantRow.given_at, GrantRow.grant_id))
    grants = [Grant.model_validate_json(row.document) for row in rows]
    ours = [g for g in grants if (g.policy_hash, g.base_hash) == (policy_hash, base_hash)]
    known = persons(session)
    newest = {known.get(g.member, g.member): g for g in ours}
    return [g for g in ours if newest[known.get(g.member, g.member)] is g]


def members_elsewhere(session: Session, present: Collection[Address]) -> int:
    """How many members have granted, and none of whose wallets is among ``present``: their grants have ended, were
    revoked, or are for another policy or base."""
    known = persons(session)
    here = {known.get(wallet, wallet) for wallet in present}
    return len({known.get(wallet, wallet) for wallet in session.scalars(select(GrantRow.member).distinct())} - here)


def _check_tokens(grant: Grant, policy: Policy, verdicts: list[Verdict]) -> None:
    if len(set(grant.tokens)) != len(grant.tokens):
        raise NotAllowed("The grant names a token twice.")
    if denied := next((v for v in verdicts if not v.allow), None):
        raise NotAllowed(f"{denied.token} is not admitted: {denied.reason}", "Grant the admitted tokens only.")
    if len(verdicts) < policy.minimum_tokens:
        raise NotAllowed(f"The policy asks for {policy.minimum_tokens} tokens or more; the grant has {len(verdicts)}.")
    warrant = WARRANT if any(v.warrant for v in verdicts) else ""
    if grant.warrant != warrant:
        word = "has to carry" if warrant else "carries, and does not need,"
        raise NotAllowed(f"The grant {word} the holder's warrant.", "Sign the grant as the coordinator proposes it.")
