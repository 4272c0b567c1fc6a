"""One line of a DAO's log, as everybody can check it: each line's hash covers the line before."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from protocol.canonical import canonical, sha256

GENESIS = "0" * 64
"""What the first line names as the hash before its own."""


@dataclass(frozen=True)
class Event:
    """hash = SHA-256(previous hash as hex ‖ canonical JSON of the body)."""

    number: int
    previous: str
    hash: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """What happened, as programs know it: ``round.opened``."""
        return str(self.body.get("kind", ""))

    @property
    def message(self) -> str:
        """What happened, in a sentence."""
        return str(self.body.get("message", ""))


def chained(previous: str, body: bytes) -> str:
    """The hash of a line."""
    return sha256(previous.encode() + body)


def is_whole(event: Event) -> bool:
    """Whether the line's own hash is that of what it says."""
    return event.body.get("number") == event.number and event.hash == chained(event.previous, canonical(event.body))


def is_chain(events: Iterable[Event]) -> bool:
    """Whether consecutive events are linked and none was changed."""
    expected: str | None = None
    for event in events:
        if (expected is not None and event.previous != expected) or not is_whole(event):
            return False
        expected = event.hash
    return True
