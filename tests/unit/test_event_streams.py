"""Streams of the log: from the line that a client names, each line once, for as many as there is room for."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.rounds import events
from coordinator.web import feed as feeds
from coordinator.web.app import create_app
from coordinator.web.feed import Feed
from coordinator.web.service import Service
from coordinator.web.stream import lines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    there = Database(f"sqlite:///{tmp_path / 'log.sqlite'}")
    yield there
    there.close()


@pytest.fixture
def feed(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Feed]:
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.02)
    there = Feed(database, streams=3, streams_each=2)
    yield there
    there.end()


def tell(database: Database, *kinds: str) -> None:
    for kind in kinds:
        with database.writing() as session:
            events.append(session, 1, kind, f"{kind} happened.")


def read(stream: Iterator[bytes], count: int) -> list[int]:
    """The numbers of the next ``count`` events of a stream."""
    numbers: list[int] = []
    while len(numbers) < count:
        for block in next(stream).decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":") and line)
            if "data" in fields:
                event = json.loads(fields["data"])
                assert int(fields["id"]) == event["number"] and fields["event"] == event["body"]["kind"]
                numbers.append(event["number"])
    return numbers


def opened(feed: Feed, after: int | None = None, kinds: tuple[str, ...] = (), source: str = "a") -> Iterator[bytes]:
    feed.join(source)
    return lines(feed, feed.position(after), kinds, lambda: True, heartbeat=5)


def test_a_stream_begins_at_the_newest_line_and_says_where_that_is(database: Database, feed: Feed) -> None:
    tell(database, "a", "b")
    stream = opened(feed)
    assert next(stream) == b"retry: 2000\nid: 2\n\n"
    tell(database, "c", "d")
    assert read(stream, 2) == [3, 4]


def test_a_client_that_was_cut_off_goes_on_without_a_gap_or_a_repeat(database: Database, feed: Feed) -> None:
    tell(database, *"abcde")
    assert read(opened(feed, after=2), 3) == [3, 4, 5]


def test_what_is_not_in_memory_any_more_comes_from_the_database(
    database: Database, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "PAGE", 7)
    feed._kept = feeds.deque(maxlen=5)
    tell(database, *["a"] * 30)
    stream = opened(feed, after=0)
    tell(database, *["b"] * 3)
    assert read(stream, 33) == list(range(1, 34))


def test_a_number_that_the_log_has_not_reached_is_answered_with_where_it_ends(database: Database, feed: Feed) -> None:
    tell(database, "a")
    assert b"id: 1\n" in next(opened(feed, after=900))


def test_only_the_kinds_that_were_asked_for_are_sent(database: Database, feed: Feed) -> None:
    stream = opened(feed, kinds=("round.", "release."))
    next(stream)
    tell(database, "grant.given", "round.opened", "grant.given", "release.published")
    assert read(stream, 2) == [2, 4]


def test_of_many_streams_a_few_are_woken_at_a_time_and_none_is_left_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "POLL_SECONDS", 0.02)
    feed = Feed(database, streams=50, streams_each=50)
    heard: list[list[int]] = []

    def listen(stream: Iterator[bytes]) -> None:
        heard.append(read(stream, 3))

    threads = [threading.Thread(target=listen, args=(opened(feed),)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for kind in "abc":
        tell(database, kind)
        time.sleep(0.05)
    for thread in threads:
        thread.join(4)  # less than a heartbeat
    feed.end()
    assert heard == 50 * [[1, 2, 3]]


def test_a_quiet_stream_shows_that_it_is_alive_and_ends_when_the_client_has_gone(
    database: Database, feed: Feed
) -> None:
    answers = iter([True, False])
    feed.join("a")
    stream = lines(feed, feed.position(None), (), lambda: next(answers), heartbeat=0.01)
    assert [next(stream), next(stream)][1] == b": still here\n\n"
    assert list(stream) == []


def test_all_streams_end_at_once_when_the_server_does(database: Database, feed: Feed) -> None:
    streams = [opened(feed, source=name) for name in "abc"]
    for stream in streams:
        next(stream)
    waiting = [threading.Thread(target=list, args=(stream,)) for stream in streams]
    for thread in waiting:
        thread.start()
    feed.end()
    for thread in waiting:
        thread.join(3)
    assert not any(thread.is_alive() for thread in waiting)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[FlaskClient]:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model_index.json").write_text("{}")
    policy = next((ROOT / "docs" / "policies").glob("*.json"))
    settings = CoordinatorSettings(
        data=tmp_path / "data",
        rpc_url="http://127.0.0.1:9",
        policy=policy,
        base=tmp_path / "base",
        base_name="none",
        streams=3,
        streams_each=2,
    )
    app = create_app(settings)
    service: Service = app.extensions["coterie"]
    yield app.test_client()
    service.feed.end()
    service.database.close()


URL = "/api/v1/events/stream"


def test_a_stream_is_never_kept_by_a_cache_or_held_back_by_a_proxy(browser: FlaskClient) -> None:
    answer = browser.get(URL)
    assert answer.content_type == "text/event-stream"
    assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-store", "no")
    answer.close()


def test_who_finds_no_place_is_told_to_ask_again_and_a_place_that_is_left_is_free(browser: FlaskClient) -> None:
    first = [browser.get(URL), browser.get(URL)]
    refused = browser.get(URL)
    assert refused.status_code == 503 and refused.json
    assert (refused.json["code"], refused.headers["Retry-After"]) == ("busy", "10")
    assert browser.get(URL, environ_base={"REMOTE_ADDR": "10.0.0.2"}).status_code == 200
    assert browser.get(URL, environ_base={"REMOTE_ADDR": "10.0.0.3"}).status_code == 503
    first[0].close()
    assert browser.get(URL).status_code == 200


def test_a_question_for_the_headers_alone_takes_no_place(browser: FlaskClient) -> None:
    for _ in range(5):
        assert browser.head(URL).status_code == 200


@pytest.mark.parametrize("header", ["x", "-1", "9" * 16, "1;2"])
def test_what_is_no_event_s_number_is_refused(browser: FlaskClient, header: str) -> None:
    answer = browser.get(URL, headers={"Last-Event-ID": header})
    assert answer.status_code == 400 and "number of an event" in answer.json["detail"]


def test_too_many_kinds_at_once_are_refused(browser: FlaskClient) -> None:
    answer = browser.get(f"{URL}?kinds={','.join('abcdefghijklmnopqrstuvwxyz')}")
    assert answer.status_code == 400 and "At most 16 kinds" in answer.json["detail"]
