"""The log as server-sent events (HTML, section 9.2): one long answer, which a client goes on with after a break."""

import re
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from flask import Blueprint, Response, request

from coordinator.identity.devices import source_of
from coordinator.web.feed import Feed
from coordinator.web.service import service
from protocol.errors import BadInput

HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 2000
PATIENCE_SECONDS = 10.0
"""How long a client may leave what it was sent unread, when there is no more room for the next line."""
UNSENT_MILLISECONDS = 30_000
"""How long the kernel tries to hand over what was written, before it takes the client for gone."""
MAX_KINDS = 16

stream = Blueprint("stream", __name__, url_prefix="/api/v1")
Alive = Callable[[], bool]


@stream.get("/events/stream")
def stream_events() -> Response:
    """From the newest event on, or after the one that Last-Event-ID or ``after`` names; ``kinds`` are prefixes."""
    feed, source = service().feed, source_of(request.remote_addr)
    after, kinds = _after(), _kinds()
    if request.method == "HEAD":
        return _answer(())
    place = _Place(feed, source)
    client: socket.socket | None = request.environ.get("gunicorn.socket")
    answer = _answer(lines(feed, feed.position(after), kinds, listening(client)))

    @answer.call_on_close
    def over() -> None:
        place.leave()
        if client:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RD)  # no more questions on this connection: it can go at once

    return answer


def lines(
    feed: Feed, position: int, kinds: tuple[str, ...], alive: Alive, heartbeat: float = HEARTBEAT_SECONDS
) -> Iterator[bytes]:
    """The stream's text, from the line after ``position`` until the feed ends or the client is gone.

    It begins with the position itself: a client that is cut off before its first event goes on from there, and one that
    has seen later lines than there are notices.
    """
    yield f"retry: {RETRY_MILLISECONDS}\nid: {position}\n\n".encode()
    while (found := feed.after(position, heartbeat)) is not None and alive():
        if not found:
            yield b": still here\n\n"
            continue
        position = found[-1].number
        if text := b"".join(one.text for one in found if not kinds or one.kind.startswith(kinds)):
            yield text


def listening(client: socket.socket | None) -> Alive:
    """Asks whether the client is still there and reads what it is sent; without a socket, it is taken to."""
    if client is None:
        return lambda: True
    with_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
    if with_timeout and client.family in (socket.AF_INET, socket.AF_INET6):
        client.setsockopt(socket.IPPROTO_TCP, with_timeout, UNSENT_MILLISECONDS)
    return lambda: not _hung_up(client) and _has_room(client)


def _hung_up(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _has_room(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    return bool(poll.poll(PATIENCE_SECONDS * 1000))


@dataclass
class _Place:
    """A place in the feed, given back once, by whichever way the answer ends. Raises Busy where there is none."""

    feed: Feed
    source: str
    taken: bool = False

    def __post_init__(self) -> None:
        self.feed.join(self.source)
        self.taken = True

    def leave(self) -> None:
        if self.taken:
            self.taken = False
            self.feed.leave(self.source)


def _answer(body: Iterator[bytes] | tuple[()]) -> Response:
    answer = Response(body, content_type="text/event-stream")
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Accel-Buffering"] = "no"  # nginx hands each piece on at once
    return answer


def _after() -> int | None:
    """The header goes first: a page's own address still says where it began."""
    told = request.headers.get("Last-Event-ID") or request.args.get("after") or None
    if told is not None and not re.fullmatch(r"[0-9]{1,15}", told):
        raise BadInput("after, or Last-Event-ID, is the number of an event.")
    return None if told is None else int(told)


def _kinds() -> tuple[str, ...]:
    told = tuple(filter(None, request.args.get("kinds", "").split(",")))
    if len(told) > MAX_KINDS:
        raise BadInput(f"At most {MAX_KINDS} kinds can be asked for.", "Ask for all, or by a shorter prefix.")
    return told
