"""``coterie-coordinator database``: how the database stands, the way to a new version, and whether its log is whole."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator.config import CoordinatorSettings
from coordinator.database import Database, database_standing, upgrade_database
from coordinator.rounds import events
from coordinator.schema import Standing
from protocol.errors import ContentMismatch

Config = Annotated[Path, typer.Option("--config", help="The coordinator's settings, TOML.")]
DEFAULT_CONFIG = Path("coordinator.toml")
database_app = typer.Typer(help="Look at the database and bring it to a new version.", no_args_is_help=True)
out = Console()


@database_app.command("status")
def show_status(config: Config = DEFAULT_CONFIG) -> None:
    """Show which revision the database is at, and which this version needs."""
    there = database_standing(CoordinatorSettings.load(config).database)
    advice = "" if there.is_newest or there.empty else " Run: coterie-coordinator database upgrade."
    _say(f"The database is {_at(there)}; this version needs {there.newest}.{advice}")


@database_app.command("upgrade")
def upgrade(config: Config = DEFAULT_CONFIG) -> None:
    """Bring the database to the revision that this version needs, all of it or nothing."""
    before = upgrade_database(CoordinatorSettings.load(config).database)
    if before.is_newest:
        _say(f"The database is at revision {before.newest} already.")
    else:
        _say(f"The database was {_at(before)}; it is at revision {before.newest} now.")


@database_app.command("check")
def check(config: Config = DEFAULT_CONFIG) -> None:
    """Compute every line of the log again: whether one was changed, taken out or put in."""
    with Database(CoordinatorSettings.load(config).database).reading() as session:
        lines, broken = events.checked(session)
    if broken is not None:
        raise ContentMismatch(
            f"Event {broken} does not follow from the one before it: the log was changed.",
            "Compare with the copies of the database from before.",
        )
    _say(f"The log is whole: {lines} events, each following from the one before.")


def _at(there: Standing) -> str:
    if there.revision:
        return f"at revision {there.revision}"
    return "empty" if there.empty else "from before revisions were counted"


def _say(sentence: str) -> None:
    out.print(sentence, highlight=False, soft_wrap=True)
