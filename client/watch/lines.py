"""The log from a coordinator: as a stream of server-sent events, or in pieces that are asked for.

Nothing that comes is trusted: lines, pieces and waits are bounded, redirects are not followed, and what cannot be read
is an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import requests
import urllib3
from pydantic import TypeAdapter, ValidationError

from protocol.canonical import canonical
from protocol.errors import BadInput, Unreachable
from protocol.events import Event

TIMEOUT = (5.0, 25.0)
"""Seconds to connect, and between two signs of life: the coordinator gives one every 15 seconds."""
MAX_LINE = 1 << 20
"""Bytes of one event."""
MAX_PIECE = 16 << 20
MAX_NUMBER = 10**15
_CHUNK = 1 << 16
_EVENTS = TypeAdapter(list[Event])


class NoStream(Unreachable):
    """It answers, but not with a stream: it has no room, is of an older version, or a proxy is in between."""


@dataclass(frozen=True)
class Position:
    """Where a stream begins, as the coordinator says: at this line."""

    number: int


@dataclass
class Blocks:
    """Puts a stream's bytes together again, as far as a log uses the format (HTML, section 9.2)."""

    _rest: bytes = b""
    _id: str | None = None
    _data: list[bytes] = field(default_factory=list)
    _size: int = 0

    def take(self, piece: bytes) -> Iterator[Event | Position]:
        """What is complete with this piece. Raises Unreachable for what is no log's line, or has no end."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._size += len(line)
            if self._size > MAX_LINE:
                break
            yield from self._line(line.removesuffix(b"\r"))
        if self._size + len(self._rest) > MAX_LINE:
            raise Unreachable(f"The coordinator sent a line of more than {MAX_LINE} bytes.", "Tell the DAO.")

    def _line(self, line: bytes) -> Iterator[Event | Position]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            yield from self._whole()
        elif name == b"id":
            self._id = value.decode("ascii", "replace")
        elif name == b"data":
            self._data.append(value)
        elif not name:
            self._size = 0  # a comment is a sign of life and nothing else

    def _whole(self) -> Iterator[Event | Position]:
        data, told = b"\n".join(self._data), self._id
        self._data, self._id, self._size = [], None, 0
        if data:
            yield from events_of(b"[" + data + b"]")
        elif told is not None:
            if not (told.isascii() and told.isdigit() and len(told) <= len(str(MAX_NUMBER))):
                raise Unreachable("The coordinator does not say where its stream begins.", "Tell the DAO.")
            yield Position(int(told))


def events_of(data: bytes) -> list[Event]:
    """A piece of the log as the API gives it. Raises Unreachable for anything else."""
    try:
        found = _EVENTS.validate_json(data, strict=True)
        for event in found:
            canonical(event.body)
    except (ValidationError, RecursionError, BadInput) as error:
        raise Unreachable(
            "The coordinator sent something that is no log.", "Check the address. If it is right, update Coterie."
        ) from error
    return found


class Log:
    """One coordinator's log."""

    def __init__(self, url: str) -> None:
        """``url`` as ``CoordinatorApi.url`` has it: scheme and host."""
        self.url = url
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"

    def stream(self, after: int | None) -> Iterator[Event | Position]:
        """One connection, until it ends: first where it begins, then what is told after ``after``, or after now.

        Raises:
            NoStream: the coordinator answers with something else.
            Unreachable: it does not answer, fell silent, or sent what is no log.
        """
        headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
        try:
            with self._session.get(
                f"{self.url}/api/v1/events/stream", headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False
            ) as answer:
                kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                if answer.status_code != 200 or kind != "text/event-stream":
                    raise NoStream(f"The coordinator answered {answer.status_code} and no stream.")
                blocks = Blocks()
                while piece := answer.raw.read1(_CHUNK):
                    yield from blocks.take(piece)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _silent(self.url) from error

    def after(self, number: int) -> list[Event]:
        """The next piece of the log; empty where it ends. Raises Unreachable without a readable answer."""
        try:
            with self._session.get(
                f"{self.url}/api/v1/events",
                params={"after": number},
                stream=True,
                timeout=TIMEOUT,
                allow_redirects=False,
            ) as answer:
                text = b""
                while piece := answer.raw.read1(_CHUNK):
                    text += piece
                    if len(text) > MAX_PIECE:
                        raise Unreachable(f"The coordinator's answer is longer than {MAX_PIECE} bytes.")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _silent(self.url) from error
        if answer.status_code != 200:
            raise Unreachable(f"The coordinator at {self.url} answered {answer.status_code}.", "Check the address.")
        return events_of(text)


def _silent(url: str) -> Unreachable:
    return Unreachable(f"The coordinator at {url} does not answer.", "Check the address, or try again later.")
