"""For developers: `alembic revision --autogenerate -m "What is new"` compares the tables with all revisions so far.

It asks a database in memory, never a coordinator's.
"""

from typing import Any, Literal

from alembic import context
from sqlalchemy import create_engine

from coordinator.database import Base, Words
from coordinator.schema import upgrade


def rendered(kind: str, thing: Any, _context: Any) -> str | Literal[False]:
    """A revision names the types of today, not our names for them."""
    if kind == "type" and isinstance(thing, Words):
        return 'sa.Text().with_variant(sa.Text(collation="C"), "postgresql")'
    return False


with create_engine("sqlite://").begin() as connection:
    upgrade(connection)
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, render_item=rendered)
    context.run_migrations()
