"""Going on with a log, whatever happens to the connection."""

import random
from collections.abc import Callable, Iterator

from client.watch.history import Retold, Seen
from client.watch.lines import MAX_NUMBER, Log, NoStream, Position
from protocol.errors import Unreachable
from protocol.events import Event

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
POLL_SECONDS = 5.0
POLLS = 60
"""How often the log is asked for, where there is no stream to be had, before one is tried again."""
SILENT_STREAMS = 2
"""After so many streams on end that brought nothing, something in between holds them back."""

Sleep = Callable[[float], None]
Note = Callable[[str], None]


class Follower:
    """Reads on from ``seen``, which moves with every line; None begins with whatever comes next."""

    def __init__(self, log: Log, seen: Seen | None, sleep: Sleep, note: Note) -> None:
        """``note`` is told, in a sentence, what happens to the connection."""
        self.seen = seen
        self._log, self._sleep, self._note = log, sleep, note
        self._failures = 0
        self._silent = 0

    def events(self) -> Iterator[Event]:
        """Every line, once, without end.

        Raises:
            Retold: a line does not fit the ones before it.
            Unreachable: the coordinator did not answer the very first time.
        """
        if self.seen and self.seen.hash and self.seen.number:
            self.seen.require_still(next(iter(self._log.after(self.seen.number - 1)), None))
        else:
            self._log.after(MAX_NUMBER - 1)  # nothing comes, but somebody answers
        while True:
            try:
                yield from self._connected()
            except Unreachable as error:
                self._note(error.message)
            self._pause()

    def _connected(self) -> Iterator[Event]:
        """By a stream, or by asking where there is none."""
        if self._silent < SILENT_STREAMS:
            try:
                yield from self._streamed()
            except NoStream:
                self._silent = SILENT_STREAMS
        if self._silent >= SILENT_STREAMS:
            yield from self._asked()

    def _streamed(self) -> Iterator[Event]:
        self._silent += 1
        for told in self._log.stream(self.seen.number if self.seen else None):
            self._failures = self._silent = 0
            if isinstance(told, Event):
                yield self._read(told)
            elif self.seen is None:
                self.seen = Seen.until(told.number)
            else:
                self._begins(told)

    def _begins(self, at: Position) -> None:
        if self.seen and at.number < self.seen.number:
            raise Retold(
                f"The coordinator's log ends at event {at.number}, and event {self.seen.number} was seen before.",
                "Keep what you have seen, and ask the DAO what became of it.",
            )

    def _asked(self) -> Iterator[Event]:
        """A few minutes of asking now and then."""
        if self.seen is None:
            self._skip()
        self._note(f"There is no stream to be had; asking every {POLL_SECONDS:.0f} seconds instead.")
        for _ in range(POLLS):
            while found := self._log.after(self.seen.number if self.seen else 0):
                for event in found:
                    yield self._read(event)
            self._failures = self._silent = 0
            self._sleep(POLL_SECONDS)

    def _skip(self) -> None:
        """To the end of the log, reading all of it: nothing else says where that is."""
        self.seen = Seen.until(0)
        while found := self._log.after(self.seen.number):
            for event in found:
                self._read(event)

    def _read(self, event: Event) -> Event:
        self.seen = (self.seen or Seen.until(event.number - 1)).then(event)
        return event

    def _pause(self) -> None:
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 (so that not all come back at one moment)
