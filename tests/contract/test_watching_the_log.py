"""The log over HTTP: a real web server's streams, ``coterie watch``, and coordinators that lie, stall or refuse."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from click.testing import Result
from loopback import Answer, Server
from typer.testing import CliRunner

from bench.web.served import Served, prepared, served
from client.cli import app
from client.watch import follow
from client.watch.history import Seen, remembered
from client.watch.lines import MAX_LINE, Blocks, Log, events_of
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.rounds import events
from coordinator.web.views import as_json
from protocol.errors import BadInput, Unreachable
from protocol.events import GENESIS

STREAM = "/api/v1/events/stream"
pytestmark = pytest.mark.timeout(40)  # a watch never ends by itself


class Told:
    """A log in a database of its own, as the coordinator writes it."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)

    def tell(self, *messages: str, kind: str = "round.opened") -> None:
        for message in messages:
            with self.database.writing() as session:
                events.append(session, 1_795_000_000, kind, message)

    def lines(self, after: int = 0) -> list[dict[str, object]]:
        with self.database.reading() as session:
            return [as_json(one) for one in events.after(session, after)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Told]:
    there = Told(f"sqlite:///{tmp_path / 'log.sqlite'}")
    yield there
    there.database.close()


def block(line: dict[str, object]) -> bytes:
    return f"id: {line['number']}\nevent: x\ndata: {json.dumps(line)}\n\n".encode()


@pytest.fixture
def lying(log: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator["Liar"]:
    monkeypatch.setattr(follow, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(follow, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.0)
    liar = Liar(log)
    with Server(liar.answer) as server:
        liar.url = server.url
        liar.server = server
        yield liar


class Liar:
    """A coordinator whose answers a test changes; the streams it gives one after the other are in ``streams``."""

    def __init__(self, log: Told) -> None:
        self.log = log
        self.streams: list[Answer] = []
        self.url = ""
        self.server: Server

    def answer(self, path: str, query: dict[str, list[str]]) -> Answer:
        if path == STREAM:
            return self.streams.pop(0) if self.streams else (503, {}, b"{}")
        if path == "/api/v1/events":
            return 200, {}, json.dumps(self.log.lines(int(query["after"][0]))).encode()
        return 404, {}, b"{}"

    def streamed(self, *pieces: bytes) -> None:
        self.streams.append((200, {"Content-Type": "text/event-stream"}, list(pieces)))

    def watch(self, *options: str) -> Result:
        return CliRunner().invoke(app, ["watch", self.url, *options])


def numbers(shown: Result) -> list[int]:
    return [json.loads(line)["number"] for line in shown.stdout.splitlines()]


def stopping_at(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """The person presses Ctrl-C after this event."""
    read = follow.Follower._read

    def then_stop(self: follow.Follower, event: events.Event) -> events.Event:
        if event.number > last:
            raise KeyboardInterrupt
        return read(self, event)

    monkeypatch.setattr(follow.Follower, "_read", then_stop)


def test_a_log_is_shown_line_by_line_and_ctrl_c_is_no_error(lying: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    lying.log.tell("Round 1 opened.", "Round 2 opened.", "x")
    stopping_at(monkeypatch, 2)
    lying.streamed(b"retry: 5\nid: 0\n\n", b": still here\n\n", *map(block, lying.log.lines()))
    shown = lying.watch("--after", "0")
    assert shown.exit_code == 0
    assert [line.split("  ", 1)[1].split() for line in shown.stdout.splitlines()] == [
        ["1", "round.opened", "Round", "1", "opened."],
        ["2", "round.opened", "Round", "2", "opened."],
    ]


def test_only_the_kinds_that_were_asked_for_are_shown_and_all_are_checked(
    lying: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying.log.tell("a", kind="grant.given")
    lying.log.tell("b", kind="release.published")
    lying.log.tell("x")
    stopping_at(monkeypatch, 2)
    lying.streamed(b"id: 0\n\n", *map(block, lying.log.lines()))
    assert numbers(lying.watch("--after", "0", "--json", "--kind", "release.")) == [2]


def test_a_stream_that_is_cut_goes_on_where_it_was(lying: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    lying.log.tell(*"abcdx")
    stopping_at(monkeypatch, 4)
    lines = [block(line) for line in lying.log.lines()]
    lying.streamed(b"id: 0\n\n", lines[0], lines[1][:20])
    lying.streamed(b"id: 1\n\n", *lines[1:])
    assert numbers(lying.watch("--after", "0", "--json")) == [1, 2, 3, 4]
    asked = [headers.get("last-event-id") for headers in lying.server.headers]
    assert [one for one in asked if one] == ["0", "1"]


def test_where_streams_are_refused_the_log_is_asked_for(lying: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    lying.log.tell(*"abcx")
    stopping_at(monkeypatch, 3)
    shown = lying.watch("--after", "1", "--json")
    assert numbers(shown) == [2, 3]
    assert "no stream to be had" in shown.stderr


def test_where_a_proxy_swallows_streams_the_log_is_asked_for(lying: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    lying.log.tell(*"abcx")
    stopping_at(monkeypatch, 3)
    lying.streamed()
    lying.streamed()
    assert numbers(lying.watch("--after", "0", "--json")) == [1, 2, 3]


def test_a_line_that_was_changed_stops_the_watch(lying: Liar) -> None:
    lying.log.tell(*"abc")
    lines = lying.log.lines()
    lines[1]["body"] = {**lines[1]["body"], "message": "Something else."}  # type: ignore[dict-item]
    lying.streamed(b"id: 0\n\n", *map(block, lines))
    shown = lying.watch("--after", "0", "--json")
    assert shown.exit_code == 3 and numbers(shown) == [1]
    assert "Event 2 was changed" in shown.stderr and "ask the DAO" in shown.stderr


@pytest.mark.parametrize(("order", "said"), [([0, 2], "After event 1 "), ([0, 0], "tells event 1"), ([0, 1, 0], "1")])
def test_a_line_left_out_or_told_twice_stops_the_watch(lying: Liar, order: list[int], said: str) -> None:
    lying.log.tell(*"abc")
    lines = lying.log.lines()
    lying.streamed(b"id: 0\n\n", *(block(lines[one]) for one in order))
    shown = lying.watch("--after", "0", "--json")
    assert shown.exit_code == 3 and said in shown.stderr


def test_a_history_told_differently_is_noticed_across_runs(
    lying: Liar, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lying.log.tell(*"abx")
    stopping_at(monkeypatch, 2)
    file = tmp_path / "seen.json"
    lying.streamed(b"id: 0\n\n", *map(block, lying.log.lines()))
    assert lying.watch("--after", "0", "--remember", str(file)).exit_code == 0
    seen = remembered(file, lying.url)
    assert seen == Seen(2, str(lying.log.lines()[1]["hash"]))

    monkeypatch.undo()
    other = Told(f"sqlite:///{tmp_path / 'other.sqlite'}")
    other.tell(*"ayz")
    lying.log = other
    shown = lying.watch("--remember", str(file))
    assert shown.exit_code == 3 and "Event 2 is not what it was" in shown.stderr
    other.database.close()


def test_a_log_that_became_shorter_is_noticed(lying: Liar, tmp_path: Path) -> None:
    lying.log.tell("a")
    file = tmp_path / "seen.json"
    file.write_text(json.dumps({"url": lying.url, "number": 7, "hash": "ab"}))
    shown = lying.watch("--remember", str(file))
    assert shown.exit_code == 3 and "ends before event 7" in shown.stderr


def test_a_stream_that_begins_before_what_was_seen_is_noticed(lying: Liar) -> None:
    lying.log.tell(*"ab")
    lying.streamed(b"id: 0\n\n", *map(block, lying.log.lines()))
    lying.streamed(b"id: 1\n\n")
    shown = lying.watch("--after", "0")
    assert shown.exit_code == 3 and "ends at event 1" in shown.stderr


def test_a_file_of_another_coordinator_or_of_something_else_is_refused(lying: Liar, tmp_path: Path) -> None:
    file = tmp_path / "seen.json"
    file.write_text(json.dumps({"url": "https://elsewhere.example", "number": 7, "hash": "ab"}))
    assert "is about https://elsewhere.example" in lying.watch("--remember", str(file)).stderr
    file.write_text("[]")
    with pytest.raises(BadInput, match="cannot be read"):
        remembered(file, lying.url)
    file.write_text(json.dumps({"url": lying.url, "number": 7, "hash": "ab"}))
    assert "says where to go on" in lying.watch("--remember", str(file), "--after", "1").stderr


def test_nothing_that_is_sent_moves_the_terminal(lying: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    lying.log.tell("\x1b[2J\x1b]0;owned\x07 \u202egnp.exe", "x")
    stopping_at(monkeypatch, 1)
    lying.streamed(b"id: 0\n\n", *map(block, lying.log.lines()))
    shown = lying.watch("--after", "0").stdout
    assert "\x1b" not in shown and "\u202e" not in shown and "gnp.exe" in shown


def test_an_address_where_nobody_answers_ends_with_one_sentence() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shown = CliRunner().invoke(app, ["watch", f"http://127.0.0.1:{port}"])
    assert shown.exit_code == 1 and "does not answer" in shown.stderr


DEEP = b"[" * 100_000
HOSTILE = {
    "a line without an end": [b"data: " + b"x" * MAX_LINE],
    "an event without an end": [b"data: xxxxxxxxxxxxxxxx\n" * (MAX_LINE // 16)],
    "no JSON": [b"data: {\n\n"],
    "deep JSON": [b"data: " + DEEP + b"\n\n"],
    "deep body": [b'data: {"number":1,"previous":"","hash":"","body":{"x":' + b"[" * 900 + b"]" * 900 + b"}}\n\n"],
    "no object": [b"data: 7\n\n"],
    "a number too large": [b'data: {"number":1,"previous":"","hash":"","body":{"x":1' + b"0" * 40 + b"}}\n\n"],
    "no number": [b'data: {"number":"1","previous":"","hash":"","body":{}}\n\n'],
    "half a letter": [b'data: {"number":1,"previous":"","hash":"","body":{"x":"\\ud800"}}\n\n'],
    "a position that is none": ["id: ٣\n\n".encode()],
    "a position without an end": [b"id: " + b"9" * 4000 + b"\n\n"],
}


@pytest.mark.parametrize("pieces", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_log_is_an_error_and_nothing_worse(pieces: list[bytes]) -> None:
    blocks = Blocks()
    with pytest.raises(Unreachable):
        for piece in pieces:
            list(blocks.take(piece))


def test_a_stream_in_the_smallest_pieces_is_the_same_stream(log: Told) -> None:
    log.tell(*"abc")
    lines = log.lines()
    text = b"retry: 1\r\nid: 0\r\n\r\n" + b": x\n" * 20 + b"".join(map(block, lines))
    blocks = Blocks()
    told = [one for at in range(len(text)) for one in blocks.take(text[at : at + 1])]
    assert told[1:] == [events_of(json.dumps([line]).encode())[0] for line in lines]
    assert Seen(0, GENESIS).then(told[1]).number == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [(302, {"Location": "/elsewhere"}, b""), (200, {}, b"<html>"), (200, {}, b"{}")])
def test_a_page_or_another_address_is_no_log(answer: Answer) -> None:
    with Server(lambda *_: answer) as server, pytest.raises(Unreachable):
        Log(server.url).after(0)
    assert [path for path, _ in server.asked] == ["/api/v1/events?after=0"]


# A real web server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(prepared(tmp_path_factory.mktemp("served") / "dao", {"web_workers": 1, "streams": 4})) as server:
        yield server


def opened(server: Served, after: int) -> socket.socket:
    """A raw stream, answered."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=5)
    client.sendall(f"GET {STREAM}?after={after} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    while b"\r\n\r\n" not in client.recv(1 << 16):
        pass
    return client


@pytest.mark.slow
def test_events_reach_a_stream_of_the_real_server_and_ordinary_pages_are_served_beside(running: Served) -> None:
    log = Told(running.settings.database)
    log.tell("before")
    stream = Log(running.url).stream(None)
    begun = next(stream)
    log.tell("Round 9 opened.")
    told = next(stream)
    assert (told.number, told.message) == (begun.number + 1, "Round 9 opened.")  # type: ignore[union-attr]
    assert requests.get(f"{running.url}/healthz", timeout=5).ok
    stream.close()  # type: ignore[attr-defined]
    log.database.close()


@pytest.mark.slow
def test_a_full_house_is_told_to_ask_instead_and_the_server_ends_at_once(running: Served) -> None:
    settings: CoordinatorSettings = running.settings
    clients = [opened(running, 0) for _ in range(settings.streams)]
    refused = requests.get(running.url + STREAM, timeout=5)
    assert refused.status_code == 503 and refused.headers["Retry-After"] and refused.json()["code"] == "busy"
    began = time.monotonic()
    running.process.stop(patience=30)
    assert time.monotonic() - began < 9
    for client in clients:
        client.settimeout(2)
        while client.recv(1 << 16):
            pass
        client.close()
