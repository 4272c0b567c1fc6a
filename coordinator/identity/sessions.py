"""The sessions that wallets have open: listed, and ended by the one they belong to."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from contracts_abi.model import Address
from coordinator.database import SessionRow
from coordinator.identity.sign_in import SESSION_SECONDS
from protocol.canonical import sha256
from protocol.errors import NotFound

ID_DIGITS = 16


@dataclass(frozen=True)
class OpenSession:
    """One sign-in that is still good; the id is the beginning of the token's hash and opens nothing."""

    session_id: str
    wallet: Address
    began: int
    ends: int


def session_id_of(token: str) -> str:
    return sha256(token.encode())[:ID_DIGITS]


def open_sessions(session: Session, wallets: Collection[Address], now: int) -> list[OpenSession]:
    """Of these wallets, the newest first."""
    rows = session.scalars(
        select(SessionRow)
        .where(SessionRow.wallet.in_(wallets), SessionRow.expires > now)
        .order_by(SessionRow.expires.desc(), SessionRow.token_sha256)
    )
    return [OpenSession(r.token_sha256[:ID_DIGITS], r.wallet, r.expires - SESSION_SECONDS, r.expires) for r in rows]


def end_sessions(session: Session, wallets: Collection[Address], session_id: str | None) -> int:
    """End one session of these wallets, or all; how many. Raises NotFound when there is none with this id."""
    rows = [
        row
        for row in session.scalars(select(SessionRow).where(SessionRow.wallet.in_(wallets)))
        if session_id in (None, row.token_sha256[:ID_DIGITS])
    ]
    if session_id and not rows:
        raise NotFound(f"There is no session {session_id[:40]} of yours.", "List them to see their ids.")
    session.execute(delete(SessionRow).where(SessionRow.token_sha256.in_([row.token_sha256 for row in rows])))
    return len(rows)
