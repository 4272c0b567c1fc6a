"""A sign-in proves a wallet to one coordinator, and to no other."""

from urllib.parse import urlsplit

from protocol.errors import NotAllowed


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
