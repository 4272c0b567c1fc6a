"""The orders that were carried out: each with its signature, the block at which that held, and its nonce, once."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.model import Snapshot
from coordinator.database import ActRow
from protocol.acts import Act, RevokeGrant
from protocol.errors import Conflict


def note_act(session: Session, act: Act, signature: str, snapshot: Snapshot, now: int) -> None:
    """Keep an order, in the transaction of what it does.

    Raises:
        Conflict: an order with its nonce was carried out before.
    """
    if session.get(ActRow, act.nonce):
        raise Conflict("This order was given before.", "Sign a new one, with a new nonce.")
    session.add(
        ActRow(
            nonce=act.nonce,
            kind=type(act).__name__,
            actor=act.actor,
            subject=act.subject,
            document=act.canonical().decode(),
            signature=signature,
            snapshot=snapshot.model_dump_json(),
            done_at=now,
        )
    )
    session.flush()


def revoked_at(session: Session, grant_id: str) -> int | None:
    """When its member revoked the grant, in Unix seconds; None while it stands."""
    return session.scalar(
        select(ActRow.done_at).where(ActRow.kind == RevokeGrant.__name__, ActRow.subject == grant_id).limit(1)
    )
