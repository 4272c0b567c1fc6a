"""Whose turn it is to write to a file of SQLite's: one after another, whichever thread or process they are of.

SQLite has its writers look again and again whether the lock is free, the more seldom the longer they have waited, so
that under load some are never in luck. Here at most one of each process waits for the lock itself, and nobody who
comes later goes before it.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable

from protocol.errors import Busy

LOOK_SECONDS = 0.001


class Turns:
    """Those of one process at a database, which every process knows by the same path."""

    def __init__(self, database: str) -> None:
        """Beside the database lie two empty files: who writes has the one locked, and who is next the other."""
        self._here = threading.Lock()
        self._now, self._next = f"{database}-turn", f"{database}-next"

    def take(self, seconds: float) -> Callable[[], None]:
        """Wait for a turn, for ``seconds`` at most; what ends it. A process that dies ends its turn with that.

        Raises:
            Busy: it did not come in time.
        """
        deadline = time.monotonic() + seconds
        if not self._here.acquire(timeout=seconds):
            raise too_long()
        try:
            waits = _locked(self._next, deadline)
            try:
                writes = _locked(self._now, deadline)
            finally:
                os.close(waits)
        except BaseException:
            self._here.release()
            raise

        def leave() -> None:
            os.close(writes)
            self._here.release()

        return leave


def too_long() -> Busy:
    """What a writer is told who waited in vain."""
    return Busy("Others were writing to the database for too long to wait; nothing was done.", "Try again in a moment.")


def _locked(path: str, deadline: float) -> int:
    """The file, open and locked. Closing it unlocks it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise too_long() from None
            time.sleep(LOOK_SECONDS)
    except BaseException:
        os.close(file)
        raise
