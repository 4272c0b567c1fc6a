"""``coterie-coordinator webhook``: who is told what happens, and whether they take it."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.rounds import events
from coordinator.webhooks.delivery import resume, send, standings
from coordinator.webhooks.hooks import hook_named, load_hooks
from protocol.canonical import canonical
from protocol.errors import NotFound, Unreachable
from protocol.events import GENESIS, Event, chained

webhook_app = typer.Typer(help="Programs that are told what happens.", no_args_is_help=True)
out = Console()
Config = Annotated[Path, typer.Option("--config", help="The coordinator's settings, TOML.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the file calls it.")]
DEFAULT_CONFIG = Path("coordinator.toml")


@webhook_app.command("list")
def list_webhooks(config: Config = DEFAULT_CONFIG) -> None:
    """Show who is told what, and how far. Addresses and secrets are not shown."""
    settings = CoordinatorSettings.load(config)
    hooks, database = load_hooks(settings.webhooks), Database(settings.database)
    with database.reading() as session:
        known, newest = {one.name: one for one in standings(session)}, events.newest(session)
    table = Table("webhook", "host", "format", "kinds", "told until", "state")
    for hook in hooks:
        one = known.get(hook.name)
        state = "new" if one is None else "ended" if one.ended else "tried again" if one.reason else "told"
        why = f": {one.reason}" if one and one.reason else ""
        told = "" if one is None else f"{one.position} of {newest}"
        table.add_row(hook.name, escape(hook.host), hook.format, " ".join(hook.kinds) or "all", told, state + why)
    out.print(table if hooks else "Nobody is told: the setting webhooks names no file, or an empty one.")


@webhook_app.command("test")
def try_webhook(name: Name, config: Config = DEFAULT_CONFIG) -> None:
    """Send one a message of its own, webhook.test, which is in no log."""
    settings = CoordinatorSettings.load(config)
    hook, now = hook_named(load_hooks(settings.webhooks), name), int(time.time())
    body = {"number": 0, "at": now, "kind": "webhook.test", "message": "This is a test. All is well."}
    event = Event(0, GENESIS, chained(GENESIS, canonical(body)), body)
    outcome = send(hook, event, settings.loaded_policy.dao, now)
    if outcome.reason:
        raise Unreachable(f"Webhook {name} did not take the message: {outcome.reason}.", "Look at its side, and again.")
    out.print(f"{name} took the message.", highlight=False)


@webhook_app.command("resume")
def resume_webhook(name: Name, config: Config = DEFAULT_CONFIG) -> None:
    """Tell one again that was given up, from where it stopped."""
    with Database(CoordinatorSettings.load(config).database).writing() as session:
        if not resume(session, name):
            raise NotFound(f"No webhook {name[:40]} has been told anything yet.", "The worker begins with it.")
    out.print(f"{name} is told again.", highlight=False)
