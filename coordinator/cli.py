"""``coterie-coordinator``: run a DAO's coordinator, start rounds, ask the policy."""

import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import click
import requests
import structlog
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from coordinator.base_commands import base_app, require_usable
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.database_commands import database_app
from coordinator.flower.superlink import SuperLinkProcess
from coordinator.order_commands import (
    DEFAULT_CONFIG,
    Admin,
    Config,
    OutFile,
    Reason,
    add_to_contributions,
    add_to_rounds,
    give,
    order_of,
)
from coordinator.orders import admin_and_end, call, read_order
from coordinator.policy_commands import policy_app
from coordinator.release_commands import announce, rewards
from coordinator.webhook_commands import webhook_app
from coordinator.wiring import CONFIG_VARIABLE, EXCHANGE, SuperLinkAddress, superlink_control, tell_superlink
from processes.children import PARENT, Child, end_with_parent
from protocol.acts import CancelRound, RemoveContribution
from protocol.errors import BadInput, CoterieError, Unreachable
from protocol.grant import RoundPlan, StartRound

START_SECONDS = 60.0
MAX_RESTARTS = 5


class OneSentence(TyperGroup):
    """An error that a person can be told is one sentence and what to do next, not a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except CoterieError as error:
            told = Console(stderr=True, soft_wrap=True)
            told.print(f"[bold red]{escape(error.message)}[/]", highlight=False)
            if error.hint:
                told.print(escape(error.hint), highlight=False)
            raise typer.Exit(1) from error


app = typer.Typer(
    help="Run a DAO's coordinator, start rounds, ask the policy.",
    cls=OneSentence,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)
round_app = typer.Typer(help="Start rounds, steer them and look at them.", no_args_is_help=True)
contribution_app = typer.Typer(help="End single contributions, or set them aside.", no_args_is_help=True)
app.add_typer(round_app, name="round")
app.add_typer(contribution_app, name="contribution")
app.add_typer(policy_app, name="policy")
app.add_typer(webhook_app, name="webhook")
app.add_typer(database_app, name="database")
app.add_typer(base_app, name="base")
add_to_rounds(round_app)
add_to_contributions(contribution_app)
app.command()(rewards)
app.command()(announce)

out = Console()
log = structlog.get_logger(__name__)


@app.command()
def up(config: Config = DEFAULT_CONFIG) -> None:
    """Run everything: web, worker and SuperLink, until Ctrl-C."""
    settings = _settings(config)
    require_usable(settings)
    stop = _stop_on_signals()
    with _superlink(settings) as superlink, _children(settings) as children:
        _wait_until_served(settings, stop)
        out.print(f"{settings.loaded_policy.dao} is served at {settings.public_uri}", highlight=False)
        restarts = 0
        while not stop.wait(0.5):
            ended = [name for name, child in children.items() if not child.alive]
            if not superlink.alive:
                superlink.start()
                restarts += 1
            for name in ended:
                log.warning("a process ended and is started again", process=name)
                children[name].stop()
                children[name] = _child(settings, name)
                restarts += 1
            if restarts > MAX_RESTARTS:
                raise Unreachable("The coordinator's processes keep ending.", f"Read {settings.data}/logs.")


@app.command()
def serve(config: Config = DEFAULT_CONFIG) -> None:
    """Run the web server alone: API, gateway and page."""
    from coordinator.web.server import serve as serve_web

    settings = _settings(config)
    Database(settings.database).close()  # one of another version is refused here, before the server's processes fork
    serve_web(settings)


@app.command()
def worker(config: Config = DEFAULT_CONFIG) -> None:
    """Run the worker alone: it moves rounds on and watches the chain."""
    from coordinator.rounds.worker import Worker

    settings = _settings(config)
    require_usable(settings)
    Worker(settings, lambda: superlink_control(settings)).run(_stop_on_signals())


@app.command("pins")
def show_pins(
    config: Config = DEFAULT_CONFIG,
    now: Annotated[bool, typer.Option("--now", help="Have the worker look at everything at once.")] = False,
) -> None:
    """Show where every release is kept beside the local store, and how it stands there."""
    from coordinator.releases.pinning import check_all, pins

    database = Database(_settings(config).database)
    if now:
        with database.writing() as session:
            check_all(session)
    table = Table("release", "place", "state", "checked (UTC)", "why")
    with database.reading() as session:
        for one in pins(session):
            checked = datetime.fromtimestamp(one.checked_at, UTC).strftime("%Y-%m-%d %H:%M") if one.checked_at else ""
            table.add_row(one.cid, one.place, one.state, checked, escape(one.reason))
    out.print(table if table.row_count else "Releases are in the local store and nowhere else.")


@round_app.command("start")
def start_round(
    config: Config = DEFAULT_CONFIG,
    plan: Annotated[Path | None, typer.Option(help="A plan in TOML; what it leaves out has defaults.")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="One value of the plan, as steps=40.")] = None,
    admin: Admin = None,
    out_file: OutFile = None,
) -> None:
    """Sign a StartRound with the admin's wallet and send it. The key is read from COTERIE_WALLET_KEY."""
    settings = _settings(config)
    policy = settings.loaded_policy
    actor, expires = admin_and_end(admin, out_file)
    order = StartRound(
        dao=policy.dao,
        chain_id=policy.chain_id,
        admin=actor,
        plan=_plan(plan, change or []),
        policy_hash=policy.digest(),
        base_hash=settings.base_hash,
        nonce=secrets.token_hex(16),
        expires=expires,
    )
    give(settings, "rounds", "start_round", order, out_file)


@round_app.command("cancel")
def cancel_round(
    round_id: Annotated[str, typer.Argument(help="The round, as `round show` names it.")],
    reason: Reason,
    config: Config = DEFAULT_CONFIG,
    admin: Admin = None,
    out_file: OutFile = None,
) -> None:
    """Sign the end of a training round without a release and send it."""
    settings = _settings(config)
    actor, expires = admin_and_end(admin, out_file)
    order = order_of(CancelRound, settings, admin=actor, round_id=round_id, reason=reason, expires=expires)
    give(settings, f"rounds/{round_id}/cancellation", "cancel_round", order, out_file)


@contribution_app.command("remove")
def remove_contribution(
    contribution_id: Annotated[str, typer.Argument(help="The contribution, as a release's manifest names it.")],
    reason: Reason,
    config: Config = DEFAULT_CONFIG,
    admin: Admin = None,
    out_file: OutFile = None,
) -> None:
    """Sign the end of one contribution and send it; if it is in the newest release, one without it follows."""
    settings = _settings(config)
    actor, expires = admin_and_end(admin, out_file)
    order = order_of(
        RemoveContribution, settings, admin=actor, contribution_id=contribution_id, reason=reason, expires=expires
    )
    give(settings, f"contributions/{contribution_id}/removal", "remove_contribution", order, out_file)


@app.command("send")
def send_order(
    file: Annotated[Path, typer.Argument(help="An order that --out has written.")],
    signature: Annotated[str, typer.Option(help="What the Safe's owners, or another wallet, signed: 0x….")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Send an order that was signed elsewhere, by a Safe's owners for example."""
    order = read_order(file)
    out.print_json(json.dumps(call(_settings(config), "POST", order.path, {**order.body, "signature": signature})))


@round_app.command("show")
def show_round(
    round_id: Annotated[str | None, typer.Argument(help="One round, as JSON; all of them as a table.")] = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Show the rounds, newest first."""
    settings = _settings(config)
    if round_id:
        out.print_json(json.dumps(call(settings, "GET", f"rounds/{round_id}")))
        return
    table = Table("round", "kind", "state", "contributions", "release", "reason")
    for one in call(settings, "GET", "rounds"):
        count = f"{one['contributed']} of {one['expected']}"
        table.add_row(one["round_id"], one["kind"], one["state"], count, one["cid"] or "", one["reason"])
    out.print(table)


def _settings(config: Path) -> CoordinatorSettings:
    end = os.environ.get(PARENT)
    if end:
        end_with_parent()
    os.environ[CONFIG_VARIABLE] = str(config.resolve())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if end else structlog.dev.ConsoleRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # Whatever standard error is when something is said, not what it was when the command began.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    return CoordinatorSettings.load(config)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    return stop


@contextmanager
def _superlink(settings: CoordinatorSettings) -> Iterator[SuperLinkProcess]:
    """The SuperLink runs within, and the other processes know how to reach it."""
    with SuperLinkProcess(settings.data, EXCHANGE, settings.superlink_port) as process:
        link = SuperLinkAddress(process.address, process.root_certificate.read_text())
        tell_superlink(settings.superlink_file, link)
        try:
            yield process
        finally:
            settings.superlink_file.unlink(missing_ok=True)


@contextmanager
def _children(settings: CoordinatorSettings) -> Iterator[dict[str, Child]]:
    """Web server and worker, ended on the way out."""
    Database(settings.database).close()  # the tables are there before two processes want to make them
    children: dict[str, Child] = {}
    try:
        for name in ("serve", "worker"):
            children[name] = _child(settings, name)
        yield children
    finally:
        for child in children.values():
            child.stop()


def _child(settings: CoordinatorSettings, name: str) -> Child:
    logs = settings.data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "coordinator", name, "--config", os.environ[CONFIG_VARIABLE]]
    return Child(command, logs / f"{name}.log", os.environ)


def _wait_until_served(settings: CoordinatorSettings, stop: threading.Event) -> None:
    """Raises Unreachable when the web server does not answer within a minute."""
    deadline = time.monotonic() + START_SECONDS
    while not stop.wait(0.1):
        try:
            if requests.get(f"http://{settings.host}:{settings.port}/healthz", timeout=5).ok:
                return
        except requests.RequestException:
            if time.monotonic() > deadline:
                raise Unreachable("The web server did not start.", f"Read {settings.data}/logs/serve.log.") from None


def _plan(file: Path | None, changes: list[str]) -> RoundPlan:
    """The defaults, under the file, under single values. Raises BadInput naming what is wrong."""
    try:
        values: dict[str, Any] = tomllib.loads(file.read_text()) if file else {}
    except (OSError, ValueError) as error:
        raise BadInput(f"The plan {file} cannot be read as TOML: {error}.") from error
    for change in changes:
        name, given, value = change.partition("=")
        if not given:
            raise BadInput(f"{change} changes nothing.", "Write it as steps=40.")
        values[name] = _value(value)
    try:
        return RoundPlan.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"The plan: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"{text} is no value.", "Write numbers as 40 or 2e-3, lists as [0, 1].") from error
