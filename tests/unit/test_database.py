"""The coordinator's database, as a file and at a server: its revisions, its transactions, and how it is refused."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres_parts import PASSWORD, Postgres
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import InternalError
from typer.testing import CliRunner

from coordinator import engines
from coordinator.cli import app
from coordinator.config import CoordinatorSettings
from coordinator.database import Base, Database, EventRow, NonceRow, database_standing, upgrade_database
from coordinator.engines import opened, place
from coordinator.rounds import events
from coordinator.schema import FIRST, newest, upgrade
from coordinator.wiring import CONFIG_VARIABLE
from protocol.errors import BadInput, Busy, Conflict, Unreachable

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An empty database: a file, then one at a server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/coordinator.sqlite"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(server.empty())


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = opened(place(url), alters=True)
    yield engine
    engine.dispose()


@pytest.fixture
def first(engine: Engine) -> Engine:
    """A database of the first revision that holds something."""
    with engine.begin() as connection:
        upgrade(connection, FIRST)
        connection.execute(text("INSERT INTO nonces (value, expires, used) VALUES ('one', 7, false)"))
        connection.execute(text("INSERT INTO sessions (token_sha256, wallet, expires) VALUES ('two', '0xA', 8)"))
    return engine


def differences(engine: Engine) -> list[object]:
    """Between what the revisions make and what the code expects."""
    with engine.connect() as connection:
        return compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True}),
            Base.metadata,
        )


# Revisions ------------------------------------------------------------------------------------------------------------


def test_a_database_of_an_older_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/coterie.sqlite"
    Database(url).close()
    with sqlite3.connect(tmp_path / "coterie.sqlite") as old:
        old.execute("ALTER TABLE releases DROP COLUMN published_at")
    with pytest.raises(BadInput, match=r"older version: releases has no published_at"):
        Database(url)


def test_a_database_of_this_version_opens_again(tmp_path: Path) -> None:
    for _ in range(2):
        Database(f"sqlite:///{tmp_path}/coterie.sqlite").close()


def test_the_revisions_make_the_tables_that_the_code_expects(url: str, engine: Engine) -> None:
    assert database_standing(url).empty
    Database(url).close()
    assert differences(engine) == []
    assert database_standing(url).is_newest


def test_many_that_open_an_empty_database_at_once_make_it_once(url: str) -> None:
    failed: list[BaseException] = []

    def open_it() -> None:
        try:
            Database(url).close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failed == [] and database_standing(url).is_newest


def test_a_database_of_the_first_revision_waits_for_its_upgrade_and_keeps_its_rows(url: str, first: Engine) -> None:
    with pytest.raises(BadInput, match=r"at revision 0001, and this version needs .*database upgrade\.$"):
        Database(url)
    assert upgrade_database(url).revision == FIRST
    assert differences(first) == []
    with Database(url).reading() as session:
        assert session.get_one(NonceRow, "one").expires == 7
        assert session.scalar(text("SELECT wallet FROM sessions")) == "0xA"
    assert upgrade_database(url).is_newest


def test_a_database_from_before_revisions_is_taken_over(url: str, first: Engine) -> None:
    with first.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
        connection.execute(text("DROP TABLE wrong_codes"))
    with pytest.raises(BadInput, match="at revision none, and this version needs"):
        Database(url)
    assert upgrade_database(url).revision is None
    assert differences(first) == []
    with Database(url).reading() as session:
        assert session.get_one(NonceRow, "one").expires == 7


def test_a_database_from_before_revisions_with_other_columns_is_left_as_it_is(url: str, first: Engine) -> None:
    with first.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
        connection.execute(text("ALTER TABLE releases DROP COLUMN kind"))
    for opening in (Database, upgrade_database):
        with pytest.raises(BadInput, match="made by an older version: releases has no kind"):
            opening(url)
    assert database_standing(url).revision is None


def test_a_database_of_a_newer_version_is_refused(url: str, first: Engine) -> None:
    with first.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for opening in (Database, upgrade_database):
        with pytest.raises(BadInput, match=r"newer version: revision 9999 .*Install that version again"):
            opening(url)


KILLED = """
import sys
from pathlib import Path
from alembic.script import ScriptDirectory
from coordinator import migrations, schema
from coordinator.database import upgrade_database

own = Path(migrations.__file__).parent
scripts = ScriptDirectory(str(own), version_locations=[str(own / "versions"), sys.argv[2]])
schema._scripts = lambda: scripts
upgrade_database(sys.argv[1])
"""
THIRD = """
import os, signal
from alembic import op

revision, down_revision = "third", "{newest}"

def upgrade():
    op.execute("CREATE TABLE half_done (number INTEGER)")
    op.execute("DELETE FROM nonces")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_upgrade_that_is_killed_has_changed_nothing(url: str, first: Engine, tmp_path: Path) -> None:
    (tmp_path / "third.py").write_text(THIRD.format(newest=newest()))
    killed = subprocess.run([sys.executable, "-c", KILLED, url, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert database_standing(url).revision == FIRST
    with first.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM nonces")) == 1
    upgrade_database(url)
    assert differences(first) == []


# Transactions ---------------------------------------------------------------------------------------------------------


def test_what_a_writer_read_first_still_holds_when_it_commits(url: str) -> None:
    database = Database(url)

    def write() -> None:
        for number in range(5):
            with database.writing() as session:
                events.append(session, number, "told", "A writer wrote.")

    threads = [threading.Thread(target=write) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    with database.reading() as session:
        assert events.checked(session) == (30, None)
    database.close()


def test_a_reader_sees_one_moment_and_does_not_keep_writers_waiting(url: str) -> None:
    database = Database(url)
    with database.reading() as reader:
        assert reader.scalars(select(EventRow)).all() == []
        with database.writing() as writer:
            events.append(writer, 1, "told", "A writer wrote.")
        assert reader.scalars(select(EventRow)).all() == []
    with database.reading() as reader:
        assert len(reader.scalars(select(EventRow)).all()) == 1
    database.close()


def test_text_is_ordered_by_its_bytes_and_holds_no_zero(url: str) -> None:
    database = Database(url)
    values = ["b", "B", "a/2", "a-10", "0xAb", "0xaB", "é", "_", "zero\0byte"]
    with database.writing() as session:
        session.add_all(NonceRow(value=value, expires=1) for value in values)
    with database.reading() as session:
        found = session.scalars(select(NonceRow.value).order_by(NonceRow.value)).all()
        assert session.get(NonceRow, "zero\0byte") is not None
    assert list(found) == sorted(value.replace("\0", "\ufffd") for value in values)
    database.close()


def test_a_log_that_was_changed_is_found_out_at_the_line(url: str) -> None:
    database = Database(url)
    with database.writing() as session:
        for number in range(4):
            events.append(session, number, "told", f"Line {number}.")
        assert events.checked(session) == (4, None)
        session.execute(text("UPDATE events SET body = replace(body, 'Line 1', 'Line 7')"))
        session.expire_all()
        assert events.checked(session) == (1, 2)
        session.execute(text("DELETE FROM events WHERE number = 1"))
        session.expire_all()
        assert events.checked(session) == (0, 2)
    database.close()


def test_a_writer_that_waits_too_long_for_another_is_told_to_try_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(url)
    monkeypatch.setattr(engines, "LOCK_SECONDS", 0)
    hasty = Database(url if url.startswith("sqlite") else f"{url}&options=-c%20lock_timeout%3D100ms")
    with database.writing() as writer:
        writer.connection()
        with pytest.raises(Busy, match="writing to the database for too long"), hasty.writing() as waits:
            waits.connection()
    with hasty.writing() as session:
        events.append(session, 1, "told", "It is free again.")
    database.close()
    hasty.close()


# A server -------------------------------------------------------------------------------------------------------------


def test_a_reader_at_a_server_cannot_write(postgres: Postgres) -> None:
    with postgres.new() as url:
        database = Database(url)
        with pytest.raises(InternalError, match="read-only"), database.reading() as session:
            session.add(NonceRow(value="one", expires=1))
            session.flush()
        database.close()


def test_a_server_is_reached_with_a_password_and_a_wrong_one_is_not_told(postgres: Postgres) -> None:
    name = postgres.empty()
    Database(postgres.network_url(name)).close()
    with pytest.raises(Unreachable, match=f'{name} at 127.+authentication failed for user "coterie"') as refused:
        Database(postgres.network_url(name, "hunter22"))
    assert "hunter22" not in f"{refused.value!r} {refused.value.__cause__}"


def test_a_server_that_is_not_there_is_told_in_a_sentence_without_the_password() -> None:
    with pytest.raises(Unreachable, match=r"The database dao at 127\.0\.0\.1:1 does not answer: .*refused") as refused:
        Database("postgresql://us:hunter22@127.0.0.1:1/dao")
    assert "hunter22" not in f"{refused.value!r} {refused.value.__cause__}"


@pytest.mark.parametrize("address", ["mysql://us:hunter22@host/dao", "no address", "postgresql://us:hunter22@host:x/d"])
def test_what_is_no_address_of_a_database_is_told_without_repeating_it(address: str) -> None:
    with pytest.raises(BadInput, match="no address of SQLite or PostgreSQL") as refused:
        Database(address)
    assert "hunter22" not in str(refused.value)


def test_settings_that_are_shown_do_not_show_the_password(tmp_path: Path) -> None:
    settings = CoordinatorSettings(
        rpc_url="http://127.0.0.1:9",
        policy=tmp_path,
        base=tmp_path,
        base_name="none",
        database_url=f"postgresql://coterie:{PASSWORD}@host/dao",  # type: ignore[arg-type]
    )
    assert PASSWORD not in f"{settings!r} {settings.model_dump_json()}"


def test_a_database_goes_on_when_its_server_has_ended_the_connections(postgres: Postgres) -> None:
    with postgres.new() as url:
        database = Database(url)
        end_connections(postgres, url)
        with database.writing() as session:
            events.append(session, 1, "told", "It goes on.")
        database.close()


def test_a_worker_that_lost_its_lease_writes_nothing_and_the_next_one_does(postgres: Postgres) -> None:
    stop = threading.Event()
    with postgres.new() as url:
        one, other = Database(url), Database(url)
        with one.leased(stop) as is_ours:
            assert is_ours()
            end_connections(postgres, url)
            assert not is_ours()
            with other.leased(stop) as is_theirs:
                assert is_theirs()
                with pytest.raises(Conflict, match="lost its lease"), one.writing() as session:
                    events.append(session, 1, "told", "Twice.")
                with other.writing() as session:
                    events.append(session, 1, "told", "Once.")
        with one.leased(stop) as is_ours, one.writing() as session:
            assert is_ours() and events.checked(session) == (1, None)
        one.close()
        other.close()


def test_a_worker_that_stands_by_can_be_stopped(postgres: Postgres) -> None:
    stop = threading.Event()
    with postgres.new() as url:
        one, other = Database(url), Database(url)
        with one.leased(stop):
            threading.Timer(0.1, stop.set).start()
            with other.leased(stop) as is_ours:
                assert not is_ours()
        one.close()
        other.close()


def end_connections(postgres: Postgres, url: str) -> None:
    name = place(url).database
    postgres.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608


# At the shell ---------------------------------------------------------------------------------------------------------


def test_the_shell_shows_upgrades_and_checks_the_database(
    first: Engine, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "coordinator.toml"
    config.write_text('rpc_url = "http://127.0.0.1:9"\npolicy = "p"\nbase = "b"\nbase_name = "none"\n')
    monkeypatch.setenv("COTERIE_COORDINATOR_DATABASE_URL", url)
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))

    def run(*command: str) -> str:
        return CliRunner().invoke(app, [*command, "--config", str(config)]).output

    def said(command: str) -> str:
        return run("database", command)

    for process in ("serve", "worker"):
        assert "at revision 0001, and this version needs" in run(process)
    assert "at revision 0001" in said("status") and "Run: coterie-coordinator database upgrade" in said("status")
    assert "this version needs" in said("check")
    assert f"was at revision 0001; it is at revision {newest()} now" in said("upgrade")
    assert "already" in said("upgrade") and "Run:" not in said("status")
    assert "The log is whole: 0 events" in said("check")
    with first.begin() as connection:
        connection.execute(text("INSERT INTO events VALUES (1, 'x', 'y', '{}')"))
    assert "Event 1 does not follow" in said("check")
