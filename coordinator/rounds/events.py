"""The append-only log: what happened, in a sentence and in fields, each line's hash covering the line before."""

from pydantic import JsonValue, TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from coordinator.database import EventRow
from protocol.canonical import canonical
from protocol.events import GENESIS, Event, chained, is_chain

__all__ = ["Event", "after", "append", "is_chain", "lines_after", "newest", "newest_lines", "tail"]
_BODY = TypeAdapter(dict[str, JsonValue])


def append(session: Session, at: int, kind: str, message: str, **facts: JsonValue) -> None:
    """Write an event in the transaction of what it tells. ``kind`` is stable; ``message`` is for people."""
    last = session.scalar(select(EventRow).order_by(EventRow.number.desc()).limit(1))
    number, previous = (last.number + 1, last.hash) if last else (1, GENESIS)
    body = canonical({"number": number, "at": at, "kind": kind, "message": message, **facts})
    session.add(EventRow(number=number, previous=previous, hash=chained(previous, body), body=body.decode()))
    session.flush()


def after(session: Session, number: int, limit: int = 200) -> list[Event]:
    """The next events after ``number``, in order."""
    rows = session.scalars(select(EventRow).where(EventRow.number > number).order_by(EventRow.number).limit(limit))
    return [_event(row) for row in rows]


def tail(session: Session, limit: int) -> list[Event]:
    """The newest events, newest first."""
    return [_event(row) for row in session.scalars(select(EventRow).order_by(EventRow.number.desc()).limit(limit))]


def newest_lines(session: Session, limit: int, before: int | None = None, kind: str = "") -> list[Event]:
    """The newest events below number ``before``, newest first; only those of one kind where it is named."""
    query = select(EventRow).order_by(EventRow.number.desc()).limit(limit)
    if before is not None:
        query = query.where(EventRow.number < before)
    if kind:  # Bodies are canonical, so a quote within a text is escaped and cannot be taken for this.
        query = query.where(EventRow.body.contains(f'"kind":"{kind}"', autoescape=True))
    return [_event(row) for row in session.scalars(query)]


def lines_after(session: Session, number: int, limit: int) -> list[tuple[str, str]]:
    """The next lines after ``number``, in order: (hash, body as it was hashed)."""
    query = select(EventRow.hash, EventRow.body).where(EventRow.number > number).order_by(EventRow.number).limit(limit)
    return [(fingerprint, body) for fingerprint, body in session.execute(query)]


def newest(session: Session) -> int:
    """The number of the last event; 0 before the first."""
    return session.scalar(select(func.max(EventRow.number))) or 0


def checked(session: Session) -> tuple[int, int | None]:
    """How many lines the log has up to the first that does not follow, and the number of that; None: it is whole."""
    previous, number = GENESIS, 0
    for row in session.scalars(select(EventRow).order_by(EventRow.number).execution_options(yield_per=500)):
        body = row.body.encode()
        links = row.number == number + 1 and row.previous == previous and row.hash == chained(previous, body)
        if not links or _BODY.validate_json(body).get("number") != row.number:
            return number, row.number
        previous, number = row.hash, row.number
    return number, None


def _event(row: EventRow) -> Event:
    return Event(row.number, row.previous, row.hash, _BODY.validate_json(row.body))
