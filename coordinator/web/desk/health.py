"""How everything that the coordinator stands on is: database, chain, SuperLink, worker, places, disk, versions."""

import importlib.metadata
import platform
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from contracts_abi.readers import latest_snapshot
from coordinator.database import PinRow, RoundRow, WrongCodeRow
from coordinator.eligibility.verdicts import take_snapshot
from coordinator.releases.pinning import Pin, pins
from coordinator.releases.places import State
from coordinator.rounds.transitions import RoundState
from coordinator.web.service import Service
from protocol.errors import CoterieError

CONNECT_SECONDS = 2.0
TICK_SECONDS = 60.0
"""A worker that has not looked at its rounds for so long is at work on one, or has stopped."""
BLOCK_SECONDS = 15 * 60.0
"""A chain whose newest block is older than this lags behind, or stands still."""
LEAST_ROOM = 2_000_000_000
"""Bytes on the disk below which the next release may not fit."""
DAY_SECONDS = 24 * 3600
PACKAGES = ("coterie", "flwr", "sqlalchemy", "flask", "web3", "torch", "diffusers")
_AT_WORK = frozenset({RoundState.MERGING, RoundState.PUBLISHING})


class Good(StrEnum):
    """How a part is."""

    GOOD = "good"
    WATCH = "watch"
    BAD = "bad"


@dataclass(frozen=True)
class Check:
    """One part, in a sentence, and what to do where something is to be done."""

    name: str
    state: Good
    words: str
    hint: str = ""


@dataclass(frozen=True)
class PinStanding:
    """A release at a place: how often it was tried in vain, and when it is looked at again."""

    pin: Pin
    tries: int
    due_at: int | None

    @property
    def failed(self) -> bool:
        return self.pin.state is State.WAITING and bool(self.pin.reason)


@dataclass(frozen=True)
class Health:
    """Everything at one look. Times are Unix seconds."""

    at: int
    checks: tuple[Check, ...]
    pins: tuple[PinStanding, ...]
    versions: tuple[tuple[str, str], ...]

    @property
    def state(self) -> Good:
        """The worst of all."""
        found = {one.state for one in self.checks}
        return next((one for one in (Good.BAD, Good.WATCH) if one in found), Good.GOOD)


def health(here: Service) -> Health:
    """Ask every part; none of them keeps the others from being asked."""
    parts: tuple[tuple[str, Callable[[Service], Check]], ...] = (
        ("Database", _database),
        ("Chain", _chain),
        ("SuperLink", _superlink),
        ("Worker", _worker),
        ("Places", _places),
        ("Disk", _disk),
        ("Machines", _machines),
    )
    standing: tuple[PinStanding, ...] = ()
    try:
        with here.database.reading() as session:
            standing = pin_standings(session)
    except SQLAlchemyError:
        pass
    return Health(
        at=here.now(),
        checks=tuple(_asked(name, part, here) for name, part in parts),
        pins=standing,
        versions=_versions(),
    )


def pin_standings(session: Session) -> tuple[PinStanding, ...]:
    """Every release at every place, newest releases first."""
    rows = {(row.cid, row.place): row for row in session.scalars(select(PinRow))}
    return tuple(
        PinStanding(one, rows[one.cid, one.place].tries, rows[one.cid, one.place].due_at) for one in pins(session)
    )


def _asked(name: str, part: Callable[[Service], Check], here: Service) -> Check:
    try:
        return part(here)
    except CoterieError as error:
        return Check(name, Good.BAD, error.message, error.hint)
    except (SQLAlchemyError, OSError) as error:
        return Check(name, Good.BAD, f"It does not answer ({type(error).__name__}).", "Read the coordinator's log.")


def _database(here: Service) -> Check:
    began = time.monotonic()
    with here.database.reading() as session:
        session.execute(text("SELECT 1"))
        rounds = session.scalar(select(func.count()).select_from(RoundRow))
    took = (time.monotonic() - began) * 1000
    kind = make_url(here.settings.database).get_backend_name()
    return Check("Database", Good.GOOD, f"{kind} answers in {took:.0f} ms and holds {rounds} rounds.")


def _chain(here: Service) -> Check:
    rpc = here.rpc
    final, newest = take_snapshot(rpc, here.policy), latest_snapshot(rpc)
    age = max(0, here.now() - newest.timestamp)
    words = (
        f"{urlsplit(here.settings.rpc_url).hostname} is on chain {newest.chain_id} at block {newest.number}, made "
        f"{age} seconds ago; block {final.number} is final, {newest.number - final.number} behind."
    )
    if age > BLOCK_SECONDS:
        return Check("Chain", Good.WATCH, words, "The node lags behind, or the chain stands still: ask its operator.")
    return Check("Chain", Good.GOOD, words)


def _superlink(here: Service) -> Check:
    address = here.superlink().address
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return Check(
            "SuperLink",
            Good.BAD,
            f"Nothing answers at {address}: no member's machine can be reached.",
            "Start it: coterie-coordinator up.",
        )
    return Check("SuperLink", Good.GOOD, f"It answers at {address}.")


def _worker(here: Service) -> Check:
    try:
        ticked = here.settings.tick_file.stat().st_mtime
    except FileNotFoundError:
        return Check("Worker", Good.BAD, "No worker has run here.", "Start it: coterie-coordinator up.")
    age = max(0.0, time.time() - ticked)
    if age <= TICK_SECONDS:
        return Check("Worker", Good.GOOD, f"It looked at its rounds {age:.0f} seconds ago.")
    with here.database.reading() as session:
        busy = session.scalar(select(func.count()).select_from(RoundRow).where(RoundRow.state.in_(_AT_WORK)))
    said = f"It last looked at its rounds {age / 60:.0f} minutes ago"
    if busy:
        return Check("Worker", Good.WATCH, f"{said}; a round is being merged or published, which takes its time.")
    return Check("Worker", Good.BAD, f"{said}, and has nothing that would take so long.", "Look whether it runs.")


def _places(here: Service) -> Check:
    with here.database.reading() as session:
        standing = pin_standings(session)
    if not standing:
        return Check("Places", Good.GOOD, "Releases are kept in the local store alone, or there is none yet.")
    failed = sum(one.failed for one in standing)
    if failed:
        words = f"{failed} of {len(standing)} pins are not where they belong; they are tried again."
        return Check("Places", Good.WATCH, words, "The list below says why.")
    return Check("Places", Good.GOOD, f"All {len(standing)} pins stand as they should.")


def _disk(here: Service) -> Check:
    room = shutil.disk_usage(here.settings.data)
    cars = sum(file.stat().st_size for file in here.settings.store.glob("**/*") if file.is_file())
    words = f"{room.free / 1e9:.1f} GB of {room.total / 1e9:.1f} GB are free; releases take {cars / 1e6:.1f} MB of it."
    if room.free < LEAST_ROOM:
        return Check("Disk", Good.BAD, words, "Make room: the next release may not fit.")
    return Check("Disk", Good.GOOD, words)


def _machines(here: Service) -> Check:
    with here.database.reading() as session:
        wrong = session.scalar(
            select(func.count()).select_from(WrongCodeRow).where(WrongCodeRow.at > here.now() - DAY_SECONDS)
        )
    if wrong:
        words = f"{wrong} codes were typed in the last day that belong to no machine."
        return Check("Machines", Good.WATCH, words, "A few are slips; hundreds are somebody who guesses.")
    return Check("Machines", Good.GOOD, "Nobody typed a wrong code in the last day.")


def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)
