"""Sign-In with Ethereum (EIP-4361): the text that a wallet signs to show whose it is."""

from datetime import UTC, datetime, timedelta

LIFETIME = timedelta(minutes=10)
STATEMENT = "Show this coordinator which NFTs this wallet owns. Signing in moves nothing and grants nothing."


def sign_in_message(
    address: str, domain: str, uri: str, chain_id: int, nonce: str, now: datetime, statement: str = STATEMENT
) -> str:
    """The text to sign; ``address`` checksummed, ``now`` aware, times in whole seconds UTC."""
    return (
        f"{domain} wants you to sign in with your Ethereum account:\n{address}\n\n{statement}\n\n"
        f"URI: {uri}\nVersion: 1\nChain ID: {chain_id}\nNonce: {nonce}\n"
        f"Issued At: {_iso(now)}\nExpiration Time: {_iso(now + LIFETIME)}"
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
