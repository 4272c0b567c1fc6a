"""The check of the whole log: every line once, the new ones as they come, and all of them again now and then."""

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from coordinator.database import EventRow
from protocol.events import GENESIS, chained

AGAIN_SECONDS = 600
_AT_ONCE = 2000
_KIND = re.compile(r'"kind":"([^"\\]+)"')


@dataclass(frozen=True)
class Checked:
    """What the log is worth. ``lines`` hang together, the newest of them has this fingerprint."""

    lines: int
    fingerprint: str
    wrong: int | None
    """The first line that does not follow from the one before; None where all do."""
    kinds: Mapping[str, int]
    """What happened, and how often."""


class Audit:
    """Remembers the newest line that it checked, so that it sees when the past is told differently later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all_checked_at = 0
        self._kinds: Counter[str] = Counter()
        self._at = (0, GENESIS)
        self._replaced: int | None = None

    def check(self, session: Session, now: int) -> Checked:
        """Look at the lines that came since, or at all of them where that is due. ``now`` is in Unix seconds."""
        with self._lock:
            number, fingerprint = self._at
            if number and session.scalar(select(EventRow.hash).where(EventRow.number == number)) != fingerprint:
                self._replaced = self._replaced or number
            if now - self._all_checked_at >= AGAIN_SECONDS or self._replaced:
                self._at, self._kinds, self._all_checked_at = (0, GENESIS), Counter(), now
            wrong = self._go_on(session)
            if wrong:
                self._all_checked_at = 0
            return Checked(*self._at, wrong or self._replaced, dict(self._kinds.most_common()))

    def _go_on(self, session: Session) -> int | None:
        rows = session.execute(
            select(EventRow.number, EventRow.previous, EventRow.hash, EventRow.body)
            .where(EventRow.number > self._at[0])
            .order_by(EventRow.number)
            .execution_options(yield_per=_AT_ONCE)
        )
        for number, previous, fingerprint, body in rows:
            before, expected = self._at
            if (number, previous) != (before + 1, expected) or fingerprint != chained(expected, body.encode()):
                return before + 1
            self._at = number, fingerprint
            self._kinds.update(_KIND.findall(body)[:1])
        return None
