"""``coterie watch``."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from client.coordinator_api import CoordinatorApi
from client.watch.follow import Follower
from client.watch.history import Retold, Seen, remember, remembered
from client.watch.lines import MAX_NUMBER, Log
from protocol.errors import BadInput
from protocol.events import Event

RETOLD = 3
"""The exit status when the history does not fit; 1 is any other error."""
SAVE_SECONDS = 1.0

Url = Annotated[str, typer.Argument(metavar="URL", help="Address of the DAO's coordinator, as the DAO publishes it.")]


def watch(
    url: Url,
    as_json: Annotated[bool, typer.Option("--json", help="One event a line, as JSON, for programs.")] = False,
    after: Annotated[
        int | None, typer.Option(min=0, max=MAX_NUMBER, help="Begin after this event; 0 is the whole history.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="PREFIX", help="Show only these, as round. or release.published.")
    ] = None,
    remember_in: Annotated[
        Path | None,
        typer.Option(
            "--remember", metavar="FILE", help="Keep the last event's hash here, and go on from it the next time."
        ),
    ] = None,
) -> None:
    """Show what happens in a DAO, as it happens, and check that its history is not rewritten.

    Every line of the coordinator's log holds a hash of the line before; each is checked, those too that --kind does not
    show. With --remember FILE the check goes over from one run to the next. When a line does not fit, the command ends
    with exit status 3. Ctrl-C ends it otherwise.
    """
    log = Log(CoordinatorApi(url).url)
    known = remembered(remember_in, log.url) if remember_in else None
    if known and after is not None:
        raise BadInput(f"{remember_in} says where to go on.", "Leave --after out, or name another file.")
    out, told = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
    seen = known if after is None else Seen.until(after)
    follower = Follower(log, seen, time.sleep, lambda said: told.print(f"[dim]{_plain(said)}[/]", highlight=False))
    told.print(f"[dim]Listening to {_plain(log.url)}. Ctrl-C ends.[/]", highlight=False)
    try:
        with _kept(follower, remember_in, log.url) as keep:
            for event in follower.events():
                if not kind or event.kind.startswith(tuple(kind)):
                    _show(out, event, as_json)
                keep()
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: nothing more to say
        raise typer.Exit(0) from None
    except Retold as error:
        told.print(Text(_plain(error.message), style="bold red"))
        told.print(Text(error.hint))
        raise typer.Exit(RETOLD) from error


class _Keeper:
    """Writes down how far the log was read: now and then, and at the end."""

    def __init__(self, follower: Follower, file: Path | None, url: str) -> None:
        self._follower, self._file, self._url = follower, file, url
        self._saved: Seen | None = follower.seen
        self._due = 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        seen = self._follower.seen
        if self._file and seen and seen.hash and seen != self._saved:
            remember(self._file, self._url, seen)
            self._saved = seen
        self._due = time.monotonic() + SAVE_SECONDS


@contextmanager
def _kept(follower: Follower, file: Path | None, url: str) -> Iterator[_Keeper]:
    keeper = _Keeper(follower, file, url)
    try:
        yield keeper
    finally:
        keeper.save()


def _show(out: Console, event: Event, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(event)), flush=True)
        return
    line = Text.assemble(
        (_moment(event.body.get("at")), "dim"), f"  {event.number:>5}  ", (_plain(event.kind), "cyan"), "  "
    )
    line.append(_plain(event.message))
    out.print(line)


def _moment(at: object) -> str:
    """Local time. What is no time of ours is said as it is."""
    try:
        return datetime.fromtimestamp(float(str(at))).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return _plain(str(at))[:19]


def _plain(text: str) -> str:
    """Without anything that could move a terminal's cursor, change its colours or turn the writing around."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
