"""How far a log was read, and whether the next line fits what was read before. Pure, but for the file."""

import json
from dataclasses import dataclass
from pathlib import Path

from protocol.canonical import canonical
from protocol.errors import BadInput, ContentMismatch
from protocol.events import GENESIS, Event, is_whole
from protocol.private_file import write_private


class Retold(ContentMismatch):
    """The coordinator tells its history differently than it was written, or than it told it before."""


_TELL = "Keep what you have seen, and ask the DAO which of the two is true."


@dataclass(frozen=True)
class Seen:
    """The last line that was read; ``hash`` is None where only its number is known."""

    number: int
    hash: str | None

    @classmethod
    def until(cls, number: int) -> "Seen":
        """As if everything up to this line had been read."""
        return cls(number, None if number else GENESIS)

    def then(self, event: Event) -> "Seen":
        """With the next line read. Raises Retold when it is not the next, is changed, or follows another line."""
        if event.number != self.number + 1:
            raise Retold(f"After event {self.number} the coordinator tells event {event.number}.", _TELL)
        if not is_whole(event):
            raise Retold(f"Event {event.number} was changed: its hash is not that of what it says.", _TELL)
        if self.hash is not None and event.previous != self.hash:
            raise Retold(f"Event {event.number} follows another event {self.number} than the one seen here.", _TELL)
        return Seen(event.number, event.hash)

    def require_still(self, event: Event | None) -> None:
        """Raises Retold unless ``event`` is this very line; None stands for a log that ends before it."""
        if event is None or event.number != self.number:
            raise Retold(f"The coordinator's log ends before event {self.number}, which was seen earlier.", _TELL)
        if not is_whole(event) or event.hash != self.hash:
            raise Retold(f"Event {self.number} is not what it was when it was seen earlier.", _TELL)


def remembered(file: Path, url: str) -> Seen | None:
    """What ``remember`` wrote about this coordinator; None where there is no file.

    Raises:
        BadInput: the file holds something else, or another coordinator's history.
    """
    try:
        told = json.loads(file.read_bytes())
        known, seen = str(told["url"]), Seen(int(told["number"]), str(told["hash"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read as what was seen of a log.", "Name another file.") from error
    if known != url:
        raise BadInput(f"{file} is about {known}.", "Use a file of its own for every coordinator.")
    return seen


def remember(file: Path, url: str, seen: Seen) -> None:
    """Write down how far the log was read, whole or not at all."""
    write_private(file, canonical({"url": url, "number": seen.number, "hash": seen.hash}) + b"\n")
