"""The log as it grows, for all streams of one process: one thread reads the database, the streams wait for it.

A stream costs a sleeping thread and a number: how far it has come. What it missed it gets from the newest lines in
memory, or from the database when it has fallen behind those.
"""

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from coordinator.database import Database
from coordinator.rounds import events
from coordinator.web.views import as_json
from protocol.errors import Busy
from protocol.events import Event

POLL_SECONDS = 0.5
"""How often the one reader looks for new lines; each look is one search for the end of an index."""
KEPT = 256
"""Newest lines in memory."""
WOKEN_AT_ONCE, WOKEN_APART = 4, 0.003
"""Streams that are told of new lines at the same time, and the seconds between: hundreds of threads that wake together
keep everybody else's request waiting for its turn."""
PAGE = 200
"""Lines that a stream which is behind reads at a time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Message:
    """One event as all streams send it; ``text`` is made once."""

    number: int
    kind: str
    text: bytes


class Feed:
    """Safe to share between threads, not over a fork. Ends when its process does."""

    def __init__(self, database: Database, streams: int, streams_each: int) -> None:
        """At most ``streams`` at a time, and ``streams_each`` from one address."""
        self._database = database
        self._room, self._room_each = streams, streams_each
        self._changed = threading.Condition()
        self._kept: deque[Message] = deque(maxlen=KEPT)
        self._newest = -1
        self._sources: Counter[str] = Counter()
        self._reader: threading.Thread | None = None
        self._ended = False

    @property
    def streams(self) -> int:
        """How many there are."""
        return self._sources.total()

    def join(self, source: str) -> None:
        """Take a place for a stream from this address; ``leave`` gives it back.

        Raises:
            Busy: there is none left, or this address has enough.
        """
        with self._changed:
            if self._ended or self.streams >= self._room or self._sources[source] >= self._room_each:
                raise Busy("There are too many streams of events here.", "Ask /api/v1/events?after=N now and then.")
            self._begin()
            self._sources[source] += 1

    def leave(self, source: str) -> None:
        """Give a place back."""
        with self._changed:
            self._sources[source] -= 1
            self._sources += Counter()  # forgets those at zero

    def position(self, after: int | None) -> int:
        """Where a stream begins: at the newest line, or at an older one that it names."""
        with self._changed:
            return self._newest if after is None else min(after, self._newest)

    def after(self, number: int, seconds: float) -> Sequence[Message] | None:
        """The next lines after ``number``; none of them when none comes in time; None when the feed has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._newest > number, seconds)
            if self._ended:
                return None
            if self._newest <= number:
                return ()
            if self._kept[0].number <= number + 1:
                return [one for one in self._kept if one.number > number]
        return [_message(one) for one in self._read(number)]

    def end(self) -> None:
        """End all streams. Safe in a signal's handler: it takes no lock, and the reader tells the streams."""
        self._ended = True

    def _begin(self) -> None:
        """With the first stream: the newest lines, and the thread that reads on."""
        if self._reader:
            return
        with self._database.reading() as session:
            newest = events.tail(session, KEPT)
        self._take(newest[::-1])
        self._newest = max(self._newest, 0)
        self._reader = threading.Thread(target=self._read_on, name="events", daemon=True)
        self._reader.start()

    def _read_on(self) -> None:
        while not self._ended:
            with self._changed:
                self._changed.wait_for(lambda: self._ended, POLL_SECONDS)
            try:
                found = self._read(self._newest) if self.streams else []
            except Exception as error:  # the database may be away for a while; the streams wait
                log.warning("the log could not be read", reason=str(error))
                continue
            if found:
                with self._changed:
                    self._take(found)
                self._wake()
        with self._changed:
            self._changed.notify_all()

    def _wake(self) -> None:
        """A few at a time, whoever has waited longest first."""
        for _ in range(0, self.streams, WOKEN_AT_ONCE):
            with self._changed:
                self._changed.notify(WOKEN_AT_ONCE)
            time.sleep(WOKEN_APART)

    def _take(self, found: Sequence[Event]) -> None:
        self._kept.extend(_message(one) for one in found)
        if found:
            self._newest = found[-1].number

    def _read(self, number: int) -> list[Event]:
        with self._database.reading() as session:
            return events.after(session, number, PAGE)


def _message(event: Event) -> Message:
    data = json.dumps(as_json(event), separators=(",", ":"))
    return Message(event.number, event.kind, f"id: {event.number}\nevent: {event.kind}\ndata: {data}\n\n".encode())
