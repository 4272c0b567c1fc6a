"""``python -m bench.web``: how fast pages are, and whether listeners and sign-ins go well, all at once on loopback."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.web.filled import Size, fill
from bench.web.served import Served, prepared, served
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.rounds import events

PAGES = ("/", "/releases", "/log")
PAGE_P95_MS, SIGN_INS_EACH_SECOND = 50.0, 50.0
EVENTS_EACH_SECOND = 1.0
"""As in a round at its liveliest: somebody contributes every second."""
UNLIMITED = {f"limit_{kind}": "1000000/minute" for kind in ("reads", "files", "sign_in", "streams")}
"""The whole crowd has one address here."""


def main() -> None:
    """Fill, serve, load, and print a table and a line for each bar; a missed bar is no error."""
    parser = argparse.ArgumentParser(description="Time the web server under a crowd.")
    parser.add_argument("--members", type=int, default=1000, help="registered, each with a grant")
    parser.add_argument("--releases", type=int, default=200, help="published")
    parser.add_argument("--contributors", type=int, default=40, help="members in each release")
    parser.add_argument("--listeners", type=int, default=500, help="open streams of events")
    parser.add_argument(
        "--sign-ins", type=float, default=51.0, help="a second; one more than asked for, as the last take a moment"
    )
    parser.add_argument("--pages", type=float, default=10.0, help="a second")
    parser.add_argument("--page", action="append", help=f"to read in turn with the others; {', '.join(PAGES)}")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long")
    told = parser.parse_args()
    size = Size(told.members, told.releases, told.contributors)
    with tempfile.TemporaryDirectory() as folder:
        file = prepared(
            Path(folder) / "dao", {"streams": told.listeners + 12, "streams_each": told.listeners, **UNLIMITED}
        )
        settings = CoordinatorSettings.load(file)
        database = _filled(settings, Path(folder), size)
        with served(file) as server:
            order = {
                "listeners": told.listeners,
                "sign_ins_each_second": told.sign_ins,
                "pages_each_second": told.pages,
                "pages": told.page or PAGES,
                "members": size.members,
                "seconds": told.seconds,
            }
            found = _loaded(server, database, order)
        database.close()
    _print(found)


def _filled(settings: CoordinatorSettings, folder: Path, size: Size) -> Database:
    began = time.perf_counter()
    database = Database(settings.database)
    keys = folder / "keys"
    keys.mkdir()
    fill(database, settings.base_hash, keys, size)
    megabytes = (settings.data / "coordinator.sqlite").stat().st_size / 1e6
    print(
        f"{size.members} members, {size.releases} releases of {size.contributors}: {megabytes:.0f} MB, filled in "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return database


def _loaded(server: Served, database: Database, order: Mapping[str, object]) -> dict[str, Any]:
    """Let the crowd do its work while events are written; what it found, and how the machine was.

    Pages are read by a process of their own, so that what the other has to do for its listeners is not in their times.
    """
    with ExitStack() as ending:
        crowd, reader = (ending.enter_context(_Process(server.url)) for _ in range(2))
        crowd.tell({**order, "pages_each_second": 0.0})
        reader.tell({**order, "listeners": 0, "sign_ins_each_second": 0.0, "members": 0})
        for one in (crowd, reader):
            one.expect("ready")
        memory, cpu = _memory(server), _cpu_seconds(server)
        with _telling(database):
            for one in (crowd, reader):
                one.tell("begin")
            for one in (crowd, reader):
                one.expect("done")
        cpu = _cpu_seconds(server) - cpu
        with database.reading() as session:
            last = events.newest(session)
        found, read = crowd.found(last), reader.found(last)
    return {
        **found,
        "pages": read["pages"],
        "page_errors": read["page_errors"],
        "reader_cpu_seconds": read["own_cpu_seconds"],
        "memory": memory,
        "cpu": cpu,
        "last": max(found["numbers"], default=0),
    }


class _Process:
    """``bench.web.load`` at a server, and what is said between us."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "bench.web.load", url]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def tell(self, what: object) -> None:
        assert self._child.stdin
        print(json.dumps(what), file=self._child.stdin, flush=True)

    def expect(self, word: str) -> None:
        said = self._heard()
        if said.strip() != word:
            raise RuntimeError(f"A process of the crowd said {said!r}, not {word}.")

    def found(self, last: int) -> dict[str, Any]:
        """What it found; it waits until its listeners have event ``last``."""
        self.tell(last)
        found: dict[str, Any] = json.loads(self._heard())
        return found

    def _heard(self) -> str:
        assert self._child.stdout
        return self._child.stdout.readline()


@contextmanager
def _telling(database: Database) -> Iterator[None]:
    """Events are appended on a thread, as worker and members cause them."""
    stop = threading.Event()

    def tell() -> None:
        while not stop.wait(1 / EVENTS_EACH_SECOND):
            with database.writing() as session:
                events.append(session, int(time.time()), "contribution.received", "Somebody contributed.")

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _workers(server: Served) -> list[int]:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [pid, *map(int, children.split())]


def _memory(server: Served) -> float:
    """Resident megabytes of the server's processes."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in _workers(server))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_seconds(server: Served) -> float:
    ticks = 0
    for pid in _workers(server):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _print(found: Mapping[str, Any]) -> None:
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"\n{platform.platform()}, {os.cpu_count()} cores; load {load} (this and whatever else runs here)")
    print(f"server: {found['memory']:.0f} MB with all listeners, {found['cpu'] / found['seconds']:.2f} cores busy;")
    print(f"the crowd's process {found['own_cpu_seconds'] / found['seconds']:.2f} cores, ", end="")
    print(f"the readers' {found['reader_cpu_seconds'] / found['seconds']:.2f}\n")
    print("| what | count | median ms | p95 ms | worst ms | errors |\n|---|---|---|---|---|---|")
    pages = [one for times in found["pages"].values() for one in times]
    for path, times in found["pages"].items():
        _row(f"page {path}", times, sum(said.startswith(f"{path}: ") for said in found["page_errors"]))
    _row("sign-in (nonce, signature, session)", found["sign_ins"], len(found["sign_in_errors"]))
    print(f"| listeners | {found['listening']} | | | | {len(found['stream_errors'])} |")
    for said in (*found["stream_errors"][:3], *found["sign_in_errors"][:3], *found["page_errors"][:3]):
        print(f"  {said}")
    behind = sum(found["last"] - number for number in found["numbers"])
    rate = len(found["sign_ins"]) / found["seconds"]
    print()
    _bar("page-p95-ms", _quantile(pages, 0.95) if not found["page_errors"] else float("inf"), PAGE_P95_MS)
    _bar("sse-errors", len(found["stream_errors"]), 0)
    _bar("sse-lost", behind + found["skipped"] + found["repeated"], 0)
    _bar("sign-ins-per-second", rate, SIGN_INS_EACH_SECOND, at_least=True)
    _bar("sign-in-errors", len(found["sign_in_errors"]), 0)


def _row(what: str, times: Sequence[float], errors: int) -> None:
    quantiles = " | ".join(f"{_quantile(times, share):.0f}" for share in (0.5, 0.95, 1.0))
    print(f"| {what} | {len(times)} | {quantiles} | {errors} |")


def _quantile(times: Sequence[float], share: float) -> float:
    if not times:
        return float("nan")
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _bar(name: str, measured: float, limit: float, at_least: bool = False) -> None:
    met = measured >= limit if at_least else measured <= limit
    print(f"bar {name} {measured:.4g} {limit:g} {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
