"""Sign-in with Ethereum (EIP-4361): the message that proves a wallet to one coordinator, and to no other."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from protocol.errors import NotAllowed

LIFETIME = timedelta(minutes=10)
STATEMENT = "Show this coordinator which NFTs this wallet owns. Signing in moves nothing and grants nothing."


def sign_in_message(address: str, domain: str, uri: str, chain_id: int, nonce: str, now: datetime) -> str:
    """The text to sign; ``address`` checksummed, ``now`` aware, times in whole seconds UTC."""
    return (
        f"{domain} wants you to sign in with your Ethereum account:\n{address}\n\n{STATEMENT}\n\n"
        f"URI: {uri}\nVersion: 1\nChain ID: {chain_id}\nNonce: {nonce}\n"
        f"Issued At: {_iso(now)}\nExpiration Time: {_iso(now + LIFETIME)}"
    )


def require_own_domain(url: str, domain: str, uri: str) -> None:
    """Refuse to sign for another site than the one that was asked.

    Raises:
        NotAllowed: a coordinator that passes on the sign-in of someone else's site would be signed in there as you.
    """
    asked, named = urlsplit(url), urlsplit(uri)
    if domain == asked.netloc and (named.scheme, named.netloc) == (asked.scheme, asked.netloc):
        return
    raise NotAllowed(
        f"The coordinator at {asked.netloc} asks for a sign-in to {domain} ({uri}), so nothing was signed.",
        "Use the address that the DAO itself publishes.",
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
