"""Sign-In with Ethereum (EIP-4361): one message, one nonce, one session.

A nonce belongs to whoever asked for it: they hold a secret (the browser's or the client's cookie), without which the
nonce is as good as unknown. So nobody can be signed in by a message that somebody else brings.

To give one out, nothing is written down: it names its own end and is sealed under a key of the coordinator's. That it
was used is written in the transaction that opens the session, so it is known for as long as the session.
"""

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import siwe
from eth_utils.address import to_checksum_address
from sqlalchemy import delete
from sqlalchemy.orm import Session

from contracts_abi.model import Address
from contracts_abi.signatures import AskWallet, message_hash, signature_bytes
from coordinator.database import NonceRow, SecretRow, SessionRow
from protocol.canonical import sha256
from protocol.errors import BadInput, NotAllowed, NotSignedIn

MAX_BYTES = 2048
"""A 20 kB statement costs the parser a minute: longer bodies are refused before they are parsed."""
NONCE_SECONDS = 600
SESSION_SECONDS = 8 * 3600
CLOCK_SKEW_SECONDS = 60
"""How far a wallet's clock may be ahead, and those of this coordinator's machines apart."""
_EXPIRES, _CHANCE, _SEAL = 10, 16, 32
"""Hex digits of a nonce: EIP-4361 wants letters and digits."""

_AGAIN = "Ask for a new nonce and sign in again."
_NO_NONCE = "The sign-in's nonce is unknown here, used or too old."


@dataclass(frozen=True)
class SignInTerms:
    """What a message must say to be meant for this coordinator."""

    domain: str
    uri: str
    chain_id: int
    seconds: int = NONCE_SECONDS
    """How old a message may be."""


@dataclass(frozen=True)
class SignIn:
    """A verified message: who signed it, with which nonce."""

    wallet: Address
    nonce: str


def nonce_key(session: Session) -> bytes:
    """The key that nonces are sealed under, made when it is first asked for; ``session`` writes.

    It opens nothing: who reads it in the database gives themselves nonces, as anyone gets them here.
    """
    row = session.get(SecretRow, "nonces")
    if row is None:
        row = SecretRow(name="nonces", value=secrets.token_hex(32))
        session.add(row)
    return bytes.fromhex(row.value)


def give_nonce(key: bytes, secret: str, expires: int) -> str:
    """A fresh nonce, good once, until ``expires`` (Unix seconds), and for whoever has ``secret``."""
    told = f"{expires:0{_EXPIRES}x}{secrets.token_hex(_CHANCE // 2)}"
    return told + _seal(key, secret, told)


def parse(text: str) -> siwe.SiweMessage:
    """The message that ``text`` is.

    Raises:
        BadInput: too long (which is looked at first), no EIP-4361 message, or not in the one canonical spelling.
    """
    if len(text.encode()) > MAX_BYTES:
        raise BadInput(f"A sign-in message has at most {MAX_BYTES} bytes.", _AGAIN)
    try:
        message = siwe.SiweMessage.from_message(text)
        _seconds(message.issued_at)
    except Exception as error:  # the grammar's, pydantic's and datetime's errors share no base
        raise BadInput("This is no EIP-4361 sign-in message.", _AGAIN) from error
    if message.prepare_message() != text or message.address != to_checksum_address(message.address):
        raise BadInput("The sign-in message is not in its canonical spelling.", _AGAIN)
    return message


def verify(text: str, signature: str, terms: SignInTerms, now: int, ask_wallet: AskWallet | None = None) -> SignIn:
    """Check a message against ``terms`` and the clock; whether its nonce is ours is for ``open_session``.

    ``ask_wallet`` is asked about signatures that are not the key's of the address; without it, contract wallets are
    refused.

    Raises:
        BadInput: no EIP-4361 message, or too long.
        NotSignedIn: for another place or time, or not signed by the wallet it names.
        Unreachable: the chain gave no answer about a contract wallet.
    """
    message = parse(text)
    if not now - terms.seconds <= _seconds(message.issued_at) <= now + CLOCK_SKEW_SECONDS:
        raise NotSignedIn(f"The sign-in message was not issued within the last {terms.seconds} seconds.", _AGAIN)
    try:
        message.verify(
            signature,
            domain=terms.domain,
            uri=terms.uri,
            chain_id=terms.chain_id,
            nonce=message.nonce,
            timestamp=datetime.fromtimestamp(now, UTC),
            strict=True,
        )
    except siwe.InvalidSignature as error:  # the last thing that is looked at: everything else is right
        if not _accepted(message.address, text, signature, ask_wallet):
            raise NotSignedIn("The sign-in does not verify: the signature is not the wallet's.", _AGAIN) from error
    except siwe.VerificationError as error:
        raise NotSignedIn(f"The sign-in does not verify: {_named(error)}.", _AGAIN) from error
    return SignIn(wallet=message.address, nonce=message.nonce)


def require_nonce(key: bytes, secret: str, nonce: str, now: int) -> int:
    """When the nonce ends. Raises NotSignedIn: it is not ours, was given to somebody else, or is too old."""
    told, seal = nonce[:-_SEAL], nonce[-_SEAL:]
    if not hmac.compare_digest(seal.encode(), _seal(key, secret, told).encode()) or int(told[:_EXPIRES], 16) < now:
        raise NotSignedIn(_NO_NONCE, _AGAIN)
    return int(told[:_EXPIRES], 16)


def open_session(session: Session, sign_in: SignIn, key: bytes, secret: str, now: int) -> tuple[str, int]:
    """Use up the nonce and open a session: its token and when it ends. One writing transaction is the caller's.

    Raises:
        NotSignedIn: the nonce is not ours, was given to somebody else, has been used or is too old.
    """
    ends, value = require_nonce(key, secret, sign_in.nonce, now), _bound(sign_in.nonce, secret)
    if session.get(NonceRow, value):  # of many at once, the first has the write lock until it is kept
        raise NotSignedIn(_NO_NONCE, _AGAIN)
    session.execute(delete(NonceRow).where(NonceRow.expires < now - CLOCK_SKEW_SECONDS))
    session.add(NonceRow(value=value, expires=ends))
    token, expires = secrets.token_urlsafe(32), now + SESSION_SECONDS
    session.add(SessionRow(token_sha256=sha256(token.encode()), wallet=sign_in.wallet, expires=expires))
    return token, expires


def wallet_of(session: Session, token: str, now: int) -> Address:
    """Whose session this is. Raises NotSignedIn when it is nobody's or has ended."""
    row = session.get(SessionRow, sha256(token.encode()))
    if row is None or row.expires <= now:
        raise NotSignedIn("There is no such session, or it has ended.", "Sign in.")
    return row.wallet


def _accepted(wallet: Address, text: str, signature: str, ask_wallet: AskWallet | None) -> bool:
    """Whether ``wallet`` is a contract wallet that accepts the signature."""
    try:
        data = signature_bytes(signature)
    except NotAllowed:
        return False
    return ask_wallet is not None and ask_wallet(wallet, message_hash(text), data)


def _bound(nonce: str, secret: str) -> str:
    """What is kept of a nonce: nothing by which a reader of the database could sign in."""
    return sha256(f"{secret}:{nonce}".encode())


def _seal(key: bytes, secret: str, told: str) -> str:
    return hmac.digest(key, f"{secret}:{told}".encode(), "sha256").hex()[:_SEAL]


def _seconds(moment: siwe.ISO8601Datetime) -> float:
    """Unix seconds. Raises ValueError for a day that there never was."""
    return float(moment._datetime.timestamp())


def _named(error: siwe.VerificationError) -> str:
    return {
        "DomainMismatch": "it names another domain",
        "UriMismatch": "it names another URI",
        "ChainIdMismatch": "it names another chain",
        "ExpiredMessage": "it has expired",
        "NotYetValidMessage": "it is not valid yet",
    }.get(type(error).__name__, "it is wrong")
