"""Nonces of sign-ins: nothing is written for one that is given out, and that it was used is not forgotten in time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from coordinator.database import Database, NonceRow, SessionRow
from coordinator.identity.sign_in import SignIn, give_nonce, nonce_key, open_session, require_nonce
from protocol.errors import NotSignedIn

KEY, NOW, END = b"a key of the coordinator", 1_800_000_000, 1_800_000_600


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    there = Database(f"sqlite:///{tmp_path / 'coordinator.sqlite'}")
    yield there
    there.close()


def opens(database: Database, nonce: str, asker: str = "alice's", now: int = NOW) -> bool:
    try:
        with database.writing() as session:
            open_session(session, SignIn("0xA", nonce), KEY, asker, now)
    except NotSignedIn:
        return False
    return True


def test_a_nonce_is_what_eip_4361_allows_and_never_the_same() -> None:
    given = {give_nonce(KEY, "alice's", END) for _ in range(200)}
    assert len(given) == 200
    assert all(one.isascii() and one.isalnum() and len(one) == 58 for one in given)


@pytest.mark.parametrize(
    ("key", "secret", "now"),
    [(b"another coordinator's", "alice's", NOW), (KEY, "bob's", NOW), (KEY, "", NOW), (KEY, "alice's", END + 1)],
    ids=["another coordinator", "another asker", "no asker", "too late"],
)
def test_a_nonce_is_good_only_here_for_its_asker_and_in_time(key: bytes, secret: str, now: int) -> None:
    nonce = give_nonce(KEY, "alice's", END)
    assert require_nonce(KEY, "alice's", nonce, END) == END
    with pytest.raises(NotSignedIn, match="unknown here, used or too old"):
        require_nonce(key, secret, nonce, now)


def test_no_digit_of_a_nonce_can_be_another() -> None:
    nonce = give_nonce(KEY, "alice's", END)
    for place, digit in enumerate(nonce):
        changed = nonce[:place] + ("0" if digit != "0" else "1") + nonce[place + 1 :]
        with pytest.raises(NotSignedIn):
            require_nonce(KEY, "alice's", changed, NOW)


@pytest.mark.parametrize("made_up", ["", "abcdefgh1234", "0" * 31, "f" * 32, "0" * 58, "zz" * 29, "0" * 500])
def test_what_a_client_makes_up_is_no_nonce(made_up: str) -> None:
    with pytest.raises(NotSignedIn):
        require_nonce(KEY, "alice's", made_up, NOW)


def test_a_nonce_opens_one_session_however_late_it_is_tried_again(database: Database) -> None:
    nonce = give_nonce(KEY, "alice's", END)
    with database.reading() as session:
        assert session.scalars(select(NonceRow)).all() == []
    assert [opens(database, nonce, now=at) for at in (NOW, NOW + 1, END, END + 1, END + 3600)] == [True] + 4 * [False]
    with database.reading() as session:
        assert len(session.scalars(select(SessionRow)).all()) == 1


def test_what_was_used_is_kept_until_every_clock_says_that_it_is_too_old(database: Database) -> None:
    def kept() -> int:
        with database.reading() as session:
            return len(session.scalars(select(NonceRow)).all())

    def another(now: int) -> bool:
        return opens(database, give_nonce(KEY, "bob's", now + 600), "bob's", now)

    first = give_nonce(KEY, "alice's", END)
    assert opens(database, first) and another(END + 30) and kept() == 2
    assert not opens(database, first, now=END - 30), "a machine whose clock is a minute behind still knows it"
    assert another(END + 61) and kept() == 2


def test_a_session_that_was_not_written_leaves_its_nonce_good(database: Database) -> None:
    nonce = give_nonce(KEY, "alice's", END)
    with pytest.raises(RuntimeError), database.writing() as session:
        open_session(session, SignIn("0xA", nonce), KEY, "alice's", NOW)
        raise RuntimeError
    assert opens(database, nonce)


def test_all_processes_of_a_coordinator_have_the_same_key_and_no_two_coordinators(
    database: Database, tmp_path: Path
) -> None:
    keys = []
    another = Database(f"sqlite:///{tmp_path / 'another.sqlite'}")
    for one in (database, database, another):
        with one.writing() as session:
            keys.append(nonce_key(session))
    another.close()
    assert keys[0] == keys[1] != keys[2] and len(keys[0]) == 32
