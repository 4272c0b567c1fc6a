"""Each event to each receiver, in order and at least once. How far each was told is in the database.

A receiver has a thread of its own: one that hangs keeps nobody else waiting. Killed between an answer and the row that
notes it, that one event is sent again, under the same id.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import requests
import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from coordinator.database import Database, WebhookRow
from coordinator.rounds import events
from coordinator.webhooks.bodies import body_of, headers_of, message_id
from coordinator.webhooks.hooks import Webhook
from protocol.events import Event

TIMEOUT_S = (5.0, 15.0)
"""To connect, and to answer."""
POLL_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0
"""Seconds between two tries: doubled each time."""
GIVE_UP_SECONDS = 86_400
PIECE = 100
GONE = 410

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What came of one try: no ``reason`` means that it was taken."""

    reason: str = ""
    gone: bool = False
    """Whether it said that it wants nothing more, ever."""
    wait: float = 0.0
    """How long it asked to be left alone, seconds."""


@dataclass(frozen=True)
class Standing:
    """How a receiver stands. ``position`` is the last event that it was told or had not asked for."""

    name: str
    position: int
    tries: int
    reason: str
    """Why the next event has not been taken yet."""
    ended: bool
    """Whether it is told nothing more, until somebody resumes it."""


class Webhooks:
    """Tells all receivers; one for each data folder, beside its worker."""

    def __init__(
        self, database: Database, hooks: Sequence[Webhook], dao: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._hooks, self._dao, self._clock = database, hooks, dao, clock

    @contextmanager
    def running(self) -> Iterator[None]:
        """Deliver for as long as the block lasts; nothing that is under way then is waited for."""
        stop = threading.Event()
        if self._hooks:
            self.settle()
        for hook in self._hooks:
            threading.Thread(target=self._run, args=(hook, stop), name=f"webhook {hook.name}", daemon=True).start()
        try:
            yield
        finally:
            stop.set()

    def settle(self) -> None:
        """Rows for all receivers, and for no other; a new one is told what happens from now on."""
        names = [hook.name for hook in self._hooks]
        with self._database.writing() as session:
            session.execute(delete(WebhookRow).where(WebhookRow.name.not_in(names)))
            newest = events.newest(session)
            for name in names:
                if session.get(WebhookRow, name) is None:
                    session.add(WebhookRow(name=name, position=newest))

    def step(self, hook: Webhook) -> float:
        """Deliver what is next, if anything is and it is time; how many seconds there is nothing to do after that."""
        now = self._clock()
        with self._database.reading() as session:
            row = session.get_one(WebhookRow, hook.name)
            position, due_at, ended = row.position, row.due_at, row.ended
            found = [] if ended or due_at > now else events.after(session, position, PIECE)
        wanted = next((one for one in found if hook.wants(one.kind)), None)
        if wanted is None:
            if found:
                self._note(hook, found[-1].number)
            return 0.0 if len(found) == PIECE else POLL_SECONDS
        outcome = send(hook, wanted, self._dao, int(now))
        if outcome.reason:
            self._failed(hook, outcome)
            return POLL_SECONDS
        self._note(hook, wanted.number)
        return 0.0

    def _run(self, hook: Webhook, stop: threading.Event) -> None:
        pause = 0.0
        while not stop.wait(pause):
            try:
                pause = self.step(hook)
            except Exception as error:  # its text may hold the address, which is a secret
                log.error("webhook", name=hook.name, reason=type(error).__name__)
                pause = FIRST_PAUSE

    def _note(self, hook: Webhook, position: int) -> None:
        with self._database.writing() as session:
            row = session.get_one(WebhookRow, hook.name)
            row.position, row.tries, row.due_at, row.failing_since, row.reason = position, 0, 0, None, ""

    def _failed(self, hook: Webhook, outcome: Outcome) -> None:
        """Again later; or never, which the log says."""
        now = int(self._clock())
        with self._database.writing() as session:
            row = session.get_one(WebhookRow, hook.name)
            row.tries += 1
            row.failing_since = row.failing_since or now
            row.reason = outcome.reason
            row.due_at = now + round(max(pause_after(row.tries), outcome.wait))
            row.ended = outcome.gone or now - row.failing_since >= GIVE_UP_SECONDS
            if row.ended:
                why = outcome.reason if outcome.gone else f"for a day, {outcome.reason}"
                events.append(
                    session, now, "webhook.ended", f"Webhook {hook.name} is told no more: {why}.", webhook=hook.name
                )
        log.warning("webhook", name=hook.name, reason=outcome.reason)


def send(hook: Webhook, event: Event, dao: str, now: int) -> Outcome:
    """One try. The receiver's answer is not read beyond its headers, and it is not followed elsewhere."""
    body = body_of(hook.format, event, dao)
    headers = headers_of(hook, message_id(event), body, now)
    try:
        with requests.post(
            hook.url.get_secret_value(),
            data=body,
            headers=headers,
            timeout=TIMEOUT_S,
            allow_redirects=False,
            stream=True,
        ) as answer:
            status, wait = answer.status_code, _seconds(answer.headers.get("Retry-After", ""))
    except requests.Timeout:
        return Outcome("it did not answer in time")
    except (requests.RequestException, OSError, ValueError):
        return Outcome("it cannot be reached")
    if 200 <= status < 300:
        return Outcome()
    return Outcome(f"it answered {status}", gone=status == GONE, wait=wait)


def pause_after(tries: int) -> float:
    """Seconds until the next try, after so many in vain."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 30))


def standings(session: Session) -> list[Standing]:
    """How all receivers stand, by name."""
    rows = session.scalars(select(WebhookRow).order_by(WebhookRow.name))
    return [Standing(row.name, row.position, row.tries, row.reason, row.ended) for row in rows]


def resume(session: Session, name: str) -> bool:
    """Tell a receiver again, from where it stopped, and at once. Whether there is such a one."""
    row = session.get(WebhookRow, name)
    if row is None:
        return False
    row.ended, row.tries, row.due_at, row.failing_since = False, 0, 0, None
    return True


def _seconds(text: str) -> float:
    """A Retry-After in seconds, within reason."""
    try:
        return min(LONGEST_PAUSE, max(0.0, float(text)))
    except ValueError:
        return 0.0
