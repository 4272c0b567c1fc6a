"""A real PostgreSQL for tests, and where a test keeps its database: in a file, or there.

The server is Debian's, in a temporary folder, on a socket and a free port of the loopback. Its texts are ordered as in
English by default, so that an order by bytes is the tables' own doing.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from coordinator.database import Database

ROLE, PASSWORD = "coterie", "wagmi/and?so=on"
START_SECONDS = 30.0
_UNTIL_THE_PIPE_ENDS = '"$@" & server=$!; read -r _; kill -QUIT $server; wait $server'
"""The server ends with the tests, however they end."""


class Postgres:
    """A running server. ``new`` makes a database with the coordinator's tables, empty."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._made, self._has_pattern = 0, False

    def url(self, name: str = "postgres") -> str:
        """Over the socket, where nobody is asked for a password."""
        return f"postgresql://{ROLE}@/{name}?host={self.folder}&port={self.port}"

    def network_url(self, name: str = "postgres", password: str = PASSWORD) -> str:
        """Over the loopback."""
        return f"postgresql://{ROLE}:{quote(password, safe='')}@127.0.0.1:{self.port}/{name}"

    def run(self, statement: str, name: str = "postgres") -> list[tuple[object, ...]]:
        """As the server's owner, outside any transaction."""
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            done = connection.execute(statement)  # type: ignore[call-overload]
            return done.fetchall() if done.description else []

    def empty(self) -> str:
        """The name of a new database without tables."""
        self._made += 1
        self.run(f"CREATE DATABASE test_{self._made}")
        return f"test_{self._made}"

    @contextmanager
    def new(self) -> Iterator[str]:
        """The URL of a database that is gone afterwards; a copy of one that was made once."""
        self._made += 1
        if not self._has_pattern:
            self.run("CREATE DATABASE pattern")
            Database(self.url("pattern")).close()
            self._has_pattern = True
        name = f"copy_{self._made}"
        self.run(f"CREATE DATABASE {name} TEMPLATE pattern STRATEGY FILE_COPY")
        try:
            yield self.url(name)
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Skips where there is no PostgreSQL to start, with the reason; fails there in CI."""
    programs = _programs()
    owner = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="coterie-postgres-"))
    if owner:
        shutil.chown(folder, owner, owner)
    try:
        locale = ["--locale=C", "--locale-provider=icu", "--icu-locale=en-US", "--encoding=UTF8"]
        quick = ["--no-sync", "--no-instructions", "--auth-local=trust", "--auth-host=scram-sha-256"]
        log = folder / "log"
        made = _start([programs / "initdb", "-D", folder / "data", "-U", ROLE, *quick, *locale], owner, log)
        assert made.wait() == 0, log.read_text()
        port = _free_port()
        options = ["-F", "-k", str(folder), "-h", "127.0.0.1", "-p", str(port), "-c", "autovacuum=off"]
        server = _start(
            ["sh", "-c", _UNTIL_THE_PIPE_ENDS, "sh", programs / "postgres", "-D", folder / "data", *options], owner, log
        )
        try:
            there = Postgres(folder, port)
            _wait(there, server)
            there.run(f"ALTER ROLE {ROLE} PASSWORD '{PASSWORD}'")
            yield there
        finally:
            server.communicate()  # closes the pipe
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Place:
    """Where databases of the running test are."""

    server: Postgres | None = None
    urls: dict[Path, str]
    first: str | None
    gone_with_the_test: ExitStack


_place = _Place()


@contextmanager
def kept_on(server: Postgres) -> Iterator[str]:
    """Within, ``database_in`` means databases of this server; the URL of the first."""
    with ExitStack() as stack, server.new() as url:
        _place.server, _place.urls, _place.first, _place.gone_with_the_test = server, {}, url, stack
        try:
            yield url
        finally:
            _place.server = None


def database_in(folder: Path) -> str:
    """The URL of a test's database: a file in the folder or, on a server, one of its own for each folder."""
    if _place.server is None:
        return f"sqlite:///{folder}/coordinator.sqlite"
    if folder not in _place.urls:
        _place.urls[folder] = _place.first or _place.gone_with_the_test.enter_context(_place.server.new())
        _place.first = None
    return _place.urls[folder]


def _programs() -> Path:
    found = shutil.which("initdb")
    newest_last = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: float(one.parts[-3]))
    known = [Path(found).resolve()] if found else newest_last[-1:]
    if known and (os.geteuid() != 0 or _has_postgres_user()):
        return known[0].parent
    why = "There is no PostgreSQL here to test with: apt-get install postgresql."
    if os.environ.get("COTERIE_CI") or os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def _has_postgres_user() -> bool:
    return any(one.pw_name == "postgres" for one in pwd.getpwall())


def _start(command: Sequence[str | Path], owner: str | None, log: Path) -> subprocess.Popen[bytes]:
    """The server refuses to run as root."""
    as_owner = {"user": owner, "group": owner, "extra_groups": []} if owner else {}
    with log.open("ab") as said:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
            **as_owner,  # type: ignore[call-overload]
        )


def _wait(server: Postgres, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.run("SELECT 1")
            return
        except psycopg.OperationalError:
            assert process.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
