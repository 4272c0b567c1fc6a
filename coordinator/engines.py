"""How the two kinds of database are opened, and what holds in a transaction of each.

A writer has the one write lock from its beginning to its end: SQLite's own, or an advisory lock of PostgreSQL's. So on
both what it read first still holds when it commits. A reader sees one moment.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from coordinator.turns import Turns, too_long
from protocol.errors import BadInput, Unreachable

POSTGRESQL = "postgresql+psycopg"
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": POSTGRESQL,
    "postgresql": POSTGRESQL,
    POSTGRESQL: POSTGRESQL,
}
LOCK_SECONDS = 15
"""How long a writer waits for another."""
_SESSION = {
    "lock_timeout": f"{LOCK_SECONDS}s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",  # a writer whose machine is gone does not keep the lock
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""What every connection to PostgreSQL asks of the server; ``options`` in the URL goes before it."""
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A server that is gone is noticed within half a minute."""
_POOL = {"pool_pre_ping": True, "pool_size": 8, "max_overflow": 8, "pool_timeout": LOCK_SECONDS, "pool_recycle": 1800}
"""As many connections as a web process has threads, and as many again for a while."""

WRITER = 0x436F7401
WORKER = 0x436F7402
"""The two advisory locks, beside each a hash of the schema: a database may hold several coordinators."""
LOCK_NAME = "%d, hashtext(coalesce(current_schema(), ''))"

_SQLITE_UNUSABLE = frozenset({8, 10, 13, 14})  # read-only, I/O error, full, cannot be opened
_LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's, after lock_timeout


def place(address: str) -> URL:
    """Where the database is; ``postgresql://`` means the driver psycopg.

    Raises:
        BadInput: it is no address of SQLite or PostgreSQL. The message does not repeat it, for its password.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in _DRIVERS:
        raise BadInput(
            "The setting database_url is no address of SQLite or PostgreSQL.",
            "Write postgresql://user:password@host/database, or leave it empty for a file in the data folder.",
        )
    return url.set(drivername=_DRIVERS[url.drivername])


def opened(url: URL, *, alters: bool = False) -> Engine:
    """An engine for a ``place``. One that ``alters`` tables checks no foreign keys on SQLite, where tables are swapped.

    ``execution_options(writes=True)`` makes its transactions writers.
    """
    if url.drivername == POSTGRESQL:
        return _open_postgresql(url)
    return _open_sqlite(url, alters)


@contextmanager
def telling(url: URL) -> Iterator[None]:
    """A database that cannot be reached or used is Unreachable, in a sentence without its password.

    One that others write to for longer than a writer waits is Busy.
    """
    try:
        yield
    except OperationalError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        kind = None if code is None else code & 0xFF
        if kind == sqlite3.SQLITE_BUSY or getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise too_long() from error
        if kind is not None and kind not in _SQLITE_UNUSABLE:
            raise
        raise Unreachable(
            f"The database {_name(url)} does not answer: {_reason(url, error)}.",
            "Look whether it runs, and at database_url in the settings.",
        ) from error


def _open_sqlite(url: URL, alters: bool) -> Engine:
    """WAL, so that readers never wait; FULL, so that what is acknowledged survives a power cut."""
    turns = None
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        turns = Turns(url.database)
    engine = create_engine(url)
    foreign_keys = "OFF" if alters else "ON"

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver opens no transactions of its own
        pragmas = (f"busy_timeout={LOCK_SECONDS * 1000}", "journal_mode=WAL", "synchronous=FULL")
        for pragma in (*pragmas, f"foreign_keys={foreign_keys}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        writes = connection.get_execution_options().get("writes")
        if writes and turns:
            connection.info["leave"] = turns.take(LOCK_SECONDS)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @event.listens_for(engine, "checkin")
    def _(_connection: Any, record: Any) -> None:
        """A transaction has ended, in whichever way, when its connection is back."""
        if leave := record.info.pop("leave", None):
            leave()

    return engine


def _open_postgresql(url: URL) -> Engine:
    asked = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    own = url.query.get("options", "")
    options = " ".join((asked, *([own] if isinstance(own, str) else own)))
    engine = create_engine(
        url.difference_update_query(["options"]),
        connect_args={**_NETWORK, "options": options.strip()},
        isolation_level="READ COMMITTED",
        **_POOL,
    )

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        """Each statement sees what was committed before it, so a writer all that was before it had the lock."""
        if connection.get_execution_options().get("writes"):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_NAME % WRITER})")

    return engine


def _name(url: URL) -> str:
    if url.drivername != POSTGRESQL:
        return str(url.database)
    host = url.host or url.query.get("host") or "on this machine"
    return f"{url.database} at {host}{f':{url.port}' if url.port else ''}"


def _reason(url: URL, error: DBAPIError) -> str:
    """The driver's first line. It names no passwords; that is made sure of."""
    said = str(error.orig).strip().partition("\n")[0]
    reason = said.removeprefix("connection failed: ").rstrip(".") or "no reason given"
    for secret in (url.password, url.query.get("password")):
        if isinstance(secret, str) and secret:
            reason = reason.replace(secret, "…")
    return reason
