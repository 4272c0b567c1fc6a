"""A machine tells a coordinator how far it is: a real server that listens, fails or never answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client.config import load_settings
from client.coordinator_api import CoordinatorApi
from client.journal import FILE
from client.progress import OWN, Update
from client.telling import Telling, seconds_left
from client.wallet.consent import LEAVES
from protocol import node_key
from protocol.progress import Progress

PAUSE, END_PAUSE = 0.2, 0.05


class Listener:
    """What a coordinator was told, each with the second at which it came."""

    def __init__(self, status: int = 200, body: bytes = b"{}", hangs: bool = False) -> None:
        self.told: list[dict[str, Any]] = []
        self.at: list[float] = []
        self.free = threading.Event()
        heard = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                heard.at.append(time.monotonic())
                heard.told.append({"path": self.path, **json.loads(text)})
                if hangs:
                    heard.free.wait(30)
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """The first so many messages."""
        wait_until(lambda: len(self.told) >= count)
        return self.told[:count]


def wait_until(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not done():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.01)


@contextmanager
def listening(**how: Any) -> Iterator[Listener]:
    there = Listener(**how)
    threading.Thread(target=there.server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield there
    finally:
        there.free.set()
        there.server.shutdown()
        there.server.server_close()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    node_key.create(tmp_path / "node.pem")
    return tmp_path / "node.pem"


def telling(there: Listener, key: Path) -> Telling:
    return Telling(CoordinatorApi(there.url), key.parent, key, PAUSE, END_PAUSE)


def step(number: int, stage: str = "training", round_id: str = "r1", **more: Any) -> Update:
    told = {"loss": 0.123, "validation": 0.4, "note": "Going on from step 3.", "seconds": 2.0 * number, **more}
    return Update(round_id=round_id, stage=stage, step=number, steps=100, **told)


def test_the_newest_step_is_told_signed_and_written_down_and_no_loss_with_it(key: Path) -> None:
    with listening() as there, telling(there, key) as teller:
        teller.show(step(1))
        there.wait_for(1)
        for number in range(2, 60):
            teller.show(step(number, seconds_left=40.4))
        first, second = there.wait_for(2)
        assert there.at[1] - there.at[0] > PAUSE * 0.9
    assert [one["progress"]["step"] for one in (first, second)] == [1, 59], "what came between is not worth a message"
    assert second["path"] == "/api/v1/rounds/r1/progress"
    told = Progress.model_validate(second["progress"])
    node_key.verify(node_key.public_of(key), told.canonical(), second["signature"])
    assert (told.seconds_left, first["progress"]["seconds_left"]) == (40, 198)
    assert told.at > first["progress"]["at"]
    assert "0.123" not in json.dumps(second) and "Going on" not in json.dumps(second)
    lines = [json.loads(line) for line in (key.parent / FILE).read_text().splitlines()]
    assert [(one["about"], one["what"]) for one in lines] == [("round r1", "progress")] * 2
    assert lines[1]["bytes"] == len(told.canonical()) and lines[1]["sha256"] == told.digest()


def test_the_end_of_a_stage_is_told_sooner(key: Path) -> None:
    with listening() as there, Telling(CoordinatorApi(there.url), key.parent, key, 60.0, END_PAUSE) as teller:
        teller.show(step(1))
        there.wait_for(1)
        teller.show(step(100))
        assert there.wait_for(2)[1]["progress"]["step"] == 100


@pytest.mark.parametrize(("status", "body"), [(500, b"<h1>Oops"), (429, b'{"code": "too-many"}'), (200, b"\xff")])
def test_a_coordinator_that_answers_nonsense_is_told_again_next_time(
    key: Path, status: int, body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with listening(status=status, body=body) as there, telling(there, key) as teller:
        for number in (1, 2):
            teller.show(step(number))
            there.wait_for(number)
        assert [one["progress"]["step"] for one in there.told] == [1, 2], "nothing is sent twice"
    assert capfd.readouterr() == ("", "")


def test_a_coordinator_that_never_answers_holds_nothing_up(key: Path) -> None:
    with listening(hangs=True) as there:
        began = time.monotonic()
        with telling(there, key) as teller:
            teller.show(step(1))
            there.wait_for(1)
            shown = time.monotonic()
            for number in range(2, 100):
                teller.show(step(number))
            assert time.monotonic() - shown < 0.5
        assert time.monotonic() - began < 3
        assert len(there.told) == 1, "nothing piles up"


def test_nobody_at_the_address_and_a_full_disk_are_borne_in_silence(
    key: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with listening() as there:
        gone = there.url
    with Telling(CoordinatorApi(gone), key.parent, key, PAUSE, END_PAUSE) as teller:
        teller.show(step(1))
        wait_until(lambda: (key.parent / FILE).exists())
    (key.parent / FILE).unlink()
    (key.parent / FILE).mkdir()  # what cannot be written down
    with listening() as there, telling(there, key) as teller:
        teller.show(step(1))
        time.sleep(2 * PAUSE)
        assert there.told == [], "does not leave"
    assert capfd.readouterr() == ("", "")


def test_what_is_trained_for_oneself_and_what_the_coordinator_does_not_know_is_not_told(key: Path) -> None:
    with listening() as there, telling(there, key) as teller:
        teller.show(step(1, round_id=OWN))
        teller.show(step(1, stage="my cat"))
        teller.show(step(1, stage="pictures", loss=None))
        teller.show(step(2, stage="my cat"))
        assert [one["progress"]["stage"] for one in there.wait_for(1)] == ["pictures"]


def test_what_is_left_is_reckoned_from_the_pace_where_the_stage_does_not_say() -> None:
    assert seconds_left(step(0)) is None
    assert seconds_left(step(25)) == 150
    assert seconds_left(step(25, seconds_left=7.5)) == 7.5


def test_a_member_is_shown_it_before_the_grant_and_can_turn_it_off(tmp_path: Path) -> None:
    assert any("progress" in line and "--no-progress" in line for line in LEAVES)
    assert load_settings(tmp_path).tell_progress
    (tmp_path / "member.toml").write_text("tell_progress = false\n")
    assert not load_settings(tmp_path).tell_progress
