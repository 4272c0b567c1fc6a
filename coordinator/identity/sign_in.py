"""Sign-In with Ethereum (EIP-4361): one message, one nonce, one session."""

import secrets
from dataclasses import dataclass

import siwe
from eth_utils.address import to_checksum_address
from sqlalchemy.orm import Session

from contracts_abi.model import Address
from coordinator.database import NonceRow, SessionRow
from protocol.canonical import sha256
from protocol.errors import BadInput, NotSignedIn

MAX_BYTES = 2048
"""A 20 kB statement costs the parser a minute: longer bodies are refused before they are parsed."""
NONCE_SECONDS = 600
SESSION_SECONDS = 8 * 3600
CLOCK_SKEW_SECONDS = 60

_AGAIN = "Ask for a new nonce and sign in again."


@dataclass(frozen=True)
class SignInTerms:
    """What a message must say to be meant for this coordinator."""

    domain: str
    uri: str
    chain_id: int


@dataclass(frozen=True)
class SignIn:
    """A verified message: who signed it, with which nonce."""

    wallet: Address
    nonce: str


def give_nonce(session: Session, now: int) -> str:
    """A fresh nonce, good once and for ten minutes."""
    nonce = str(siwe.generate_nonce())
    session.add(NonceRow(value=nonce, expires=now + NONCE_SECONDS))
    return nonce


def verify(text: str, signature: str, terms: SignInTerms, now: int) -> SignIn:
    """Check a message against ``terms`` and the clock; whether its nonce is ours is for ``open_session``.

    Raises:
        BadInput: no EIP-4361 message, or too long.
        NotSignedIn: for another place or time, or not signed by the wallet it names.
    """
    if len(text.encode()) > MAX_BYTES:
        raise BadInput(f"A sign-in message has at most {MAX_BYTES} bytes.")
    try:
        message = siwe.SiweMessage.from_message(text)
        issued = message.issued_at._datetime.timestamp()
    except Exception as error:  # the grammar's, pydantic's and datetime's errors share no base
        raise BadInput("This is no EIP-4361 sign-in message.", _AGAIN) from error
    if message.prepare_message() != text:
        raise BadInput("The sign-in message is not in its canonical spelling.", _AGAIN)
    if not now - NONCE_SECONDS <= issued <= now + CLOCK_SKEW_SECONDS:
        raise NotSignedIn("The sign-in message was not issued within the last ten minutes.", _AGAIN)
    try:
        message.verify(
            signature,
            domain=terms.domain,
            uri=terms.uri,
            chain_id=terms.chain_id,
            nonce=message.nonce,
            strict=True,
        )
    except siwe.VerificationError as error:
        raise NotSignedIn(f"The sign-in does not verify: {_named(error)}.", _AGAIN) from error
    return SignIn(wallet=to_checksum_address(message.address), nonce=message.nonce)


def open_session(session: Session, sign_in: SignIn, now: int) -> tuple[str, int]:
    """Use up the nonce and open a session: its token and when it ends. One transaction is the caller's.

    Raises:
        NotSignedIn: the nonce is not ours, has been used or is too old.
    """
    nonce = session.get(NonceRow, sign_in.nonce)
    if nonce is None or nonce.used or nonce.expires < now:
        raise NotSignedIn("The sign-in's nonce is unknown, used or too old.", _AGAIN)
    nonce.used = True
    token, expires = secrets.token_urlsafe(32), now + SESSION_SECONDS
    session.add(SessionRow(token_sha256=sha256(token.encode()), wallet=sign_in.wallet, expires=expires))
    return token, expires


def wallet_of(session: Session, token: str, now: int) -> Address:
    """Whose session this is. Raises NotSignedIn when it is nobody's or has ended."""
    row = session.get(SessionRow, sha256(token.encode()))
    if row is None or row.expires <= now:
        raise NotSignedIn("There is no such session, or it has ended.", "Sign in.")
    return row.wallet


def _named(error: siwe.VerificationError) -> str:
    return {
        "DomainMismatch": "it names another domain",
        "UriMismatch": "it names another URI",
        "ChainIdMismatch": "it names another chain",
        "ExpiredMessage": "it has expired",
        "NotYetValidMessage": "it is not valid yet",
        "InvalidSignature": "the signature is not the wallet's",
    }.get(type(error).__name__, "it is wrong")
