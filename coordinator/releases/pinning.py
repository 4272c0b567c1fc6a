"""When a release is brought to which place, and looked at again. The local store has it before any of this begins.

The table ``pins`` has a row for each release and place; killed anywhere, the next look goes on from it.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from coordinator.database import ContributionRow, Database, PinRow, ReleaseRow
from coordinator.releases.places import Place, Standing, State
from coordinator.releases.store import CarStore
from protocol.errors import CoterieError
from protocol.manifest import Manifest
from protocol.unixfs import Cid

FIRST_RETRY_SECONDS = 5.0
"""Doubled with each try, up to the time between two checks."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pin:
    """One release at one place."""

    cid: str
    place: str
    state: State
    reason: str
    checked_at: int | None
    """Unix seconds; None before the first look."""


class Pinning:
    """Keeps every release whose contributions are live at every place."""

    def __init__(
        self,
        database: Database,
        store: CarStore,
        places: Sequence[Place],
        check_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._store = store
        self._places = {place.name: place for place in places}
        self._check_seconds = check_seconds
        self._clock = clock
        self._thread: threading.Thread | None = None

    def tick(self) -> None:
        """Begin, on a thread of its own, with what is due; returns at once, for an upload may take an hour."""
        if not self._places or (self._thread and self._thread.is_alive()) or not self._due():
            return
        self._thread = threading.Thread(target=self.step, name="pinning", daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Everything that is due, once; less where the database does not answer, or is another worker's by now."""
        try:
            for cid, place in self._due():
                self._settle(cid, self._places[place])
        except CoterieError as error:
            log.warning("pinning rests", reason=str(error))

    def _due(self) -> list[tuple[str, str]]:
        """(release, place), the newest release first; rows are made for what is new."""
        with self._database.reading() as session:
            releases = session.scalars(select(ReleaseRow.cid).order_by(ReleaseRow.number.desc())).all()
            rows = session.execute(select(PinRow.cid, PinRow.place, PinRow.due_at)).all()
        due_at = {(cid, place): due for cid, place, due in rows}
        wanted = [(cid, place) for cid in dict.fromkeys(releases) for place in self._places]
        if new := [key for key in wanted if key not in due_at]:
            with self._database.writing() as session:
                session.add_all(PinRow(cid=cid, place=place, state=State.WAITING, due_at=0) for cid, place in new)
        now = self._clock()
        due = {key for key, at in due_at.items() if at is not None and at <= now}.union(new)
        return [key for key in wanted if key in due]

    def _settle(self, cid: str, place: Place) -> None:
        with self._database.reading() as session:
            row = session.get_one(PinRow, (cid, place.name))
            request, tries, over = row.request, row.tries, _has_ended(session, cid)
        standing = self._try(cid, place, request, over)
        tries = tries + 1 if standing.state in (State.WAITING, State.PINNING) else 0
        now = self._clock()
        with self._database.writing() as session:
            row = session.get_one(PinRow, (cid, place.name))
            row.state, row.reason, row.request = standing.state, standing.reason, standing.request
            row.tries, row.checked_at = tries, int(now)
            row.due_at = None if standing.state is State.LET_GO else int(now + pause(tries, self._check_seconds))
        log.info("pin", cid=cid, place=place.name, state=standing.state.value, reason=standing.reason)

    def _try(self, cid: str, place: Place, request: str, over: bool) -> Standing:
        root = Cid.parse(cid)
        try:
            if over:
                place.let_go(root, request)
                return Standing(State.LET_GO, "A contribution in it has ended.")
            return place.settle(root, self._store.car(root), request)
        except CoterieError as error:
            return Standing(State.WAITING, str(error), request if over else "")
        except Exception as error:  # one place must not keep the others from being looked after
            log.exception("pinning", cid=cid, place=place.name)
            return Standing(
                State.WAITING, f"It failed unexpectedly ({type(error).__name__}); the worker's log has more."
            )


def pause(tries: int, check_seconds: float) -> float:
    """Seconds until the next look: soon after a failure, later after each more, and never later than a check."""
    return min(check_seconds, FIRST_RETRY_SECONDS * 2.0 ** min(tries - 1, 30)) if tries else check_seconds


def pins(session: Session) -> list[Pin]:
    """How every release stands everywhere, newest releases first."""
    newest = func.max(ReleaseRow.number)
    rows = session.execute(
        select(PinRow, newest)
        .join(ReleaseRow, ReleaseRow.cid == PinRow.cid)
        .group_by(PinRow.cid, PinRow.place)
        .order_by(newest.desc(), PinRow.place)
    )
    return [Pin(row.cid, row.place, State(row.state), row.reason, row.checked_at) for row, _ in rows]


def check_all(session: Session) -> None:
    """Make everything due now that has not been let go."""
    session.execute(update(PinRow).where(PinRow.due_at.is_not(None)).values(due_at=0))


def _has_ended(session: Session, cid: str) -> bool:
    """Whether a contribution that every release of this CID was made from is dead."""
    dead = set(session.scalars(select(ContributionRow.contribution_id).where(ContributionRow.state == "dead")))
    manifests = session.scalars(select(ReleaseRow.manifest).where(ReleaseRow.cid == cid))
    made_from = [Manifest.model_validate_json(manifest).contributions for manifest in manifests]
    return all(any(one.contribution_id in dead for one in contributions) for contributions in made_from)
