"""Which revision a database's tables are at, and the way to the newest. All within the caller's transaction.

The revisions are alembic's; an upgrade of several is one transaction, on both kinds of database.
"""

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, inspect, text

from coordinator import migrations
from protocol.errors import BadInput

FIRST = "0001"
_VERSIONS = "alembic_version"
_one_at_a_time = threading.Lock()
"""Alembic keeps what it works on in globals."""


@dataclass(frozen=True)
class Standing:
    """How a database stands beside this version of the code."""

    revision: str | None
    """None: it has no number, because it is empty or was made before there were any."""
    empty: bool
    newest: str
    """The revision that this version needs."""

    @property
    def is_newest(self) -> bool:
        return self.revision == self.newest


def standing(connection: Connection) -> Standing:
    """Where the database is."""
    tables = set(inspect(connection).get_table_names())
    found = connection.scalar(text("SELECT version_num FROM alembic_version")) if _VERSIONS in tables else None
    return Standing(found, found is None and not tables - {_VERSIONS}, newest())


def require_newest(connection: Connection, tables: MetaData) -> None:
    """An empty database is brought to the newest revision; any other must be there.

    Raises:
        BadInput: it is of another version.
    """
    there = standing(connection)
    if there.empty:
        upgrade(connection)
    elif not there.is_newest:
        _require_known(connection, there)
        raise BadInput(
            f"The database is at revision {there.revision or 'none'}, and this version needs {there.newest}.",
            "Copy the database, then run: coterie-coordinator database upgrade.",
        )
    _require_columns(connection, tables)


def upgrade(connection: Connection, to: str | None = None) -> Standing:
    """Bring the database to the revision ``to``, the newest where none is named; how it stood before.

    One that was made before revisions were counted is taken over, if it has the first revision's columns.

    Raises:
        BadInput: it is of a version that is newer, or so old that there is no way from it.
    """
    there = standing(connection)
    _require_known(connection, there)
    if there.revision != (to or there.newest):
        _run(connection, to or there.newest)
    return there


@cache
def newest() -> str:
    """The last revision."""
    head = _scripts().get_current_head()
    assert head, "the package has no revisions"
    return head


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(Path(migrations.__file__).parent))


def _run(connection: Connection, to: str) -> None:
    scripts = _scripts()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # a large table takes as long as it takes
    context = MigrationContext.configure(
        connection, opts={"fn": lambda before, _context: scripts._upgrade_revs(to, before)}
    )
    with _one_at_a_time, Operations.context(context):
        context.run_migrations()


def _require_known(connection: Connection, there: Standing) -> None:
    if there.empty:
        return
    if there.revision is None:
        _require_columns(connection, _first_tables(), every=False)
    elif there.revision not in {one.revision for one in _scripts().walk_revisions()}:
        raise BadInput(
            f"The database was made by a newer version: revision {there.revision} is not known here.",
            "Install that version again, or go back to the copy from before its upgrade.",
        )


def _require_columns(connection: Connection, tables: MetaData, *, every: bool = True) -> None:
    """Raises BadInput when a table lacks a column; a table that is not there at all counts only for ``every``."""
    columns = inspect(connection).get_multi_columns()
    found = {name: {one["name"] for one in those} for (_, name), those in columns.items()}
    for table in tables.sorted_tables:
        there = found.get(table.name)
        if there is None and not every:
            continue
        if missing := sorted({column.name for column in table.columns} - (there or set())):
            raise BadInput(
                f"The database was made by an older version: {table.name} has no {missing[0]}.",
                "Move it away, or go back to the version that made it.",
            )


def _first_tables() -> MetaData:
    """The tables of the first revision, as it makes them."""
    tables = MetaData()
    with create_engine("sqlite://").begin() as connection:
        _run(connection, FIRST)
        tables.reflect(connection)
    tables.remove(tables.tables[_VERSIONS])
    return tables
