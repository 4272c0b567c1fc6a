"""The right to be the one worker of a PostgreSQL database that several machines share.

The server gives it to one connection and takes it back when that connection ends, however it ends.
"""

import contextlib

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from coordinator.engines import LOCK_NAME, WORKER
from protocol.errors import Conflict

TRY_SECONDS = 1.0
"""How often a worker that stands by tries to become the one."""
_TAKE = text(f"SELECT pg_backend_pid(), pg_try_advisory_lock({LOCK_NAME % WORKER})")
_HELD = text("""
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND pid = :backend AND classid = :worker AND objsubid = 2
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
""").bindparams(worker=WORKER)


class Lease:
    """Held by a connection of its own. For one thread, but for ``require``."""

    def __init__(self, engine: Engine) -> None:
        """Raises the driver's error when the server does not answer."""
        self._connection: Connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._connection.detach()
        self._backend = 0

    def take(self) -> bool:
        """Whether the lease is ours now."""
        backend, ours = self._connection.execute(_TAKE).one()
        self._backend = backend if ours else 0
        return bool(ours)

    def held(self) -> bool:
        """Whether the connection that holds it still stands."""
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def require(self, session: Session) -> None:
        """Within a transaction: raises Conflict when the lease is lost, so that nothing is done twice."""
        if not session.scalar(_HELD, {"backend": self._backend}):
            raise Conflict("This worker has lost its lease: another may have gone on.", "It stands by from now on.")

    def close(self) -> None:
        with contextlib.suppress(DBAPIError):
            self._connection.close()
