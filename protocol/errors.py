"""The one exception tree. A code is stable for ever; the message says what happened, the hint what to do next."""

from typing import ClassVar


class CoterieError(Exception):
    """Anything that a person can be told in one sentence.

    Subclasses set ``code`` (kebab-case, stable) and ``status`` (the HTTP status where it crosses the API).
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class BadInput(CoterieError):
    """Something handed in is malformed."""

    code = "bad-input"


class NotJson(CoterieError):
    """A body that is not sent as JSON."""

    code = "not-json"
    status = 415


class NotSignedIn(CoterieError):
    """No session, an ended one, or a sign-in that does not verify."""

    code = "not-signed-in"
    status = 401


class NotAllowed(CoterieError):
    """The policy or the chain says no; the message carries the reason."""

    code = "not-allowed"
    status = 403


class NotFound(CoterieError):
    """There is no such thing here."""

    code = "not-found"
    status = 404


class Conflict(CoterieError):
    """The act does not fit the state the thing is in."""

    code = "conflict"
    status = 409


class KeyReused(CoterieError):
    """A key that keeps an act from being done twice came with another act than before."""

    code = "key-reused"
    status = 422


class TooMany(CoterieError):
    """Asked more often than one may."""

    code = "too-many"
    status = 429


class Busy(CoterieError):
    """As many as there is room for are being served already."""

    code = "busy"
    status = 503


class ContributionRefused(CoterieError):
    """A contribution that may not be merged: wrong key set, shape, signature, base, or not finite."""

    code = "contribution-refused"
    status = 422


class ContentMismatch(CoterieError):
    """Bytes that are not what their hash or CID says."""

    code = "content-mismatch"
    status = 502


class Unreachable(CoterieError):
    """The chain, IPFS or the coordinator does not answer."""

    code = "unreachable"
    status = 503
