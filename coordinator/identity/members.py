"""Members are persons: one or more wallets, each linked by its own signature.

A wallet that is linked to none is a member of its own. A grant stays one wallet's; of a member's grants the one given
last counts, so that linking a wallet never makes anybody count twice. Who is linked to whom is nobody else's business:
it is told to the member's own wallets only, and stands in no log.
"""

import secrets
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.model import Address
from coordinator.database import LinkedWalletRow
from protocol.errors import BadInput, Conflict, NotFound

MAX_WALLETS = 20


def link_statement(member: Address) -> str:
    """What the second wallet signs (the statement of an EIP-4361 message): to whom it is linked, and nobody else."""
    return f"Link this wallet to the member who is signed in as {member}. It moves nothing and grants nothing."


def require_link_statement(message: str, member: Address) -> None:
    """Raises BadInput unless the sign-in message is one for linking to ``member``; a plain sign-in links nothing."""
    lines = message.split("\n")
    if len(lines) < 4 or lines[3] != link_statement(member):
        raise BadInput(
            f"The second wallet's message does not link it to {member}.", "Ask for the text again and sign that."
        )


def person_of(session: Session, wallet: Address) -> str:
    """The member that a wallet belongs to: an id that its linked wallets share, else the wallet itself."""
    row = session.get(LinkedWalletRow, wallet)
    return row.person if row else wallet


def persons(session: Session) -> Mapping[Address, str]:
    """Linked wallet → member; wallets that are not in it are members of their own."""
    return {row.wallet: row.person for row in session.scalars(select(LinkedWalletRow))}


def wallets_of(session: Session, wallet: Address) -> list[Address]:
    """All wallets of the member that this one belongs to, in the order in which they came."""
    row = session.get(LinkedWalletRow, wallet)
    if row is None:
        return [wallet]
    query = select(LinkedWalletRow).where(LinkedWalletRow.person == row.person)
    found = session.scalars(query.order_by(LinkedWalletRow.linked_at, LinkedWalletRow.wallet))
    return [one.wallet for one in found]


def link(session: Session, wallet: Address, other: Address, now: int) -> list[Address]:
    """Join ``other``, which has signed for it, to ``wallet``'s member; all of the member's wallets.

    Raises:
        BadInput: the two are one.
        Conflict: ``other`` belongs to another member, or there are too many.
    """
    if wallet == other:
        raise BadInput("This is the wallet that is signed in.", "Choose another account in your wallet.")
    mine, theirs = session.get(LinkedWalletRow, wallet), session.get(LinkedWalletRow, other)
    if theirs and not (mine and mine.person == theirs.person):
        raise Conflict(f"{other} is linked to other wallets.", "Sign in with it and unlink it there first.")
    if mine is None:
        mine = LinkedWalletRow(wallet=wallet, person=secrets.token_hex(8), linked_at=now)
        session.add(mine)
    if theirs is None:
        session.flush()
        if len(wallets_of(session, wallet)) >= MAX_WALLETS:
            raise Conflict(f"A member has at most {MAX_WALLETS} wallets.", "Unlink one first.")
        session.add(LinkedWalletRow(wallet=other, person=mine.person, linked_at=now))
        session.flush()
    return wallets_of(session, wallet)


def unlink(session: Session, wallet: Address, other: Address) -> list[Address]:
    """Take ``other`` out of ``wallet``'s member; it is a member of its own again. The wallets that stay.

    The others stay together under the same id, a last one too.

    Raises:
        NotFound: it does not belong to this member.
    """
    if other not in wallets_of(session, wallet) or (row := session.get(LinkedWalletRow, other)) is None:
        raise NotFound(f"{other} is not linked to {wallet}.", "List the wallets to see which are.")
    stay = [one for one in wallets_of(session, wallet) if one != other]
    session.delete(row)
    session.flush()
    return stay
