"""How far this machine is, told to the coordinator beside the work: counters only, and never in its way."""

import contextlib
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from client.coordinator_api import CoordinatorApi
from client.journal import note_sent
from client.progress import OWN, Update
from protocol import node_key
from protocol.errors import CoterieError
from protocol.progress import Progress, Stage

PAUSE_SECONDS, END_PAUSE_SECONDS = 10.0, 6.0
"""Between two messages; and before one that says that a stage has ended."""


class Telling:
    """Tells the newest update now and then, from a thread of its own.

    What cannot be told is dropped without a word: the next message says more. Whatever is sent is in ``sent.jsonl``
    before it goes.
    """

    def __init__(
        self,
        api: CoordinatorApi,
        home: Path,
        key: Path,
        pause: float = PAUSE_SECONDS,
        end_pause: float = END_PAUSE_SECONDS,
    ) -> None:
        """``key`` is the node's private key; the pauses are in seconds."""
        self._api, self._home, self._key = api, home, key
        self._public = node_key.public_of(key)
        self._pause, self._end_pause = pause, end_pause
        self._changed = threading.Condition()
        self._newest: Update | None = None
        self._over = False
        self._at = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="progress", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it; a message that is on its way is not waited for."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def show(self, update: Update) -> None:
        """Tell this when it is time, unless a newer one comes before. Returns at once."""
        if update.round_id == OWN or update.stage not in set(Stage):
            return
        with self._changed:
            self._newest = update
            self._changed.notify()

    def _run(self) -> None:
        told = time.monotonic() - self._pause
        while update := self._next(told):
            told = time.monotonic()
            with contextlib.suppress(CoterieError, OSError, ValueError):
                self._tell(update)

    def _next(self, told: float) -> Update | None:
        """The newest update once it is due; None when there is nothing to tell any more."""
        with self._changed:
            while not self._over:
                newest = self._newest
                if newest is None:
                    self._changed.wait()
                    continue
                pause = self._end_pause if newest.step >= newest.steps else self._pause
                left = told + pause - time.monotonic()
                if left <= 0:
                    self._newest = None
                    return newest
                self._changed.wait(left)
        return None

    def _tell(self, update: Update) -> None:
        self._at = max(self._at + 1, round(time.time() * 1000))
        left = seconds_left(update)
        told = Progress(
            round_id=update.round_id,
            node_key=self._public,
            stage=Stage(update.stage),
            step=update.step,
            steps=update.steps,
            seconds_left=None if left is None else round(left),
            at=self._at,
        )
        message = told.canonical()
        note_sent(self._home, f"round {told.round_id}", {"progress": message})
        self._api.tell_progress(told, node_key.sign(self._key, message))


def seconds_left(update: Update) -> float | None:
    """To the stage's end: as the stage says itself, else as fast as it went so far."""
    if update.seconds_left is not None:
        return update.seconds_left
    return update.seconds / update.step * (update.steps - update.step) if update.step else None
