"""How the web side treats whoever asks: how often they may, what is kept where, and pages of other sites."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from limits.storage import MemoryStorage
from pydantic import ValidationError
from web_parts import UNCOUNTED, plain_app, plain_settings, signed_in

from coordinator import engines
from coordinator.database import AnswerRow
from coordinator.rounds import events
from coordinator.web import once as done_once
from coordinator.web.access import SESSIONS, WHO
from coordinator.web.limits import Kind, Limits
from deploy.devchain.anvil import ANVIL_KEYS
from protocol import node_key
from protocol.errors import BadInput, TooMany

ALICE = ANVIL_KEYS[1]
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    with plain_app(tmp_path, **UNCOUNTED) as there:
        yield there


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """For tests that change nothing: one of its sessions is alice's, by cookie and by header."""
    with plain_app(tmp_path_factory.mktemp("web"), **UNCOUNTED) as there:
        yield there


@pytest.fixture(scope="module")
def session(shared: Flask) -> dict[str, str]:
    return signed_in(shared.test_client(), ALICE)


def problem(answer: Any, status: int, code: str) -> str:
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json"), answer.text
    assert answer.json["code"] == code
    return f"{answer.json['detail']} {answer.json['hint']}"


def test_whoever_comes_while_the_database_is_written_to_for_long_is_told_when_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "LOCK_SECONDS", 0)
    with plain_app(tmp_path, **UNCOUNTED) as app, app.extensions["coterie"].database.writing() as writer:
        writer.connection()
        node_key.create(tmp_path / "node.pem")
        machine = {"node_key": node_key.public_of(tmp_path / "node.pem"), "name": "workshop"}
        answer = app.test_client().post("/api/v1/devices", json=machine)
        assert "Try again in a moment." in problem(answer, 503, "busy")
        assert answer.headers["Retry-After"] == "10"


# How often ------------------------------------------------------------------------------------------------------------


def test_who_asks_too_often_is_told_when_to_come_again(tmp_path: Path) -> None:
    with plain_app(tmp_path, limit_reads="3/minute") as app:
        client = app.test_client()
        assert [client.get("/api/v1/rounds").status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = client.get("/api/v1/rounds")
        assert "Try again in" in problem(refused, 429, "too-many")
        assert 0 < int(refused.headers["Retry-After"]) <= 120
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/v1/nonce").status_code == 200, "other kinds are counted by themselves"
        elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
        assert client.get("/api/v1/rounds", environ_base=elsewhere).status_code == 200


def test_an_ipv6_network_is_one_source(tmp_path: Path) -> None:
    with plain_app(tmp_path, limit_reads="1/minute") as app:
        client = app.test_client()
        ask = [
            client.get("/api/v1/rounds", environ_base={"REMOTE_ADDR": address}).status_code
            for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
        ]
        assert ask == [200, 429, 200]


def test_a_session_is_counted_wherever_it_comes_from(tmp_path: Path) -> None:
    with plain_app(tmp_path, limit_reads="2/minute") as app:
        client = app.test_client()
        headers = signed_in(client, ALICE)
        ask = [
            client.get("/api/v1/wallets", headers=headers, environ_base={"REMOTE_ADDR": f"192.0.2.{n}"}).status_code
            for n in (1, 2, 3)
        ]
        assert ask == [200, 200, 429]


def test_without_a_limit_one_may_ask_as_often_as_one_likes(app: Flask) -> None:
    client = app.test_client()
    assert {client.get("/api/v1/nonce").status_code for _ in range(150)} == {200}


def test_limits_of_several_lengths_hold_together(tmp_path: Path) -> None:
    limits = Limits(plain_settings(tmp_path, limit_acts="2/second;3/hour", limit_streams=""))
    for _ in range(2):
        limits.count(Kind.ACTS, "somebody")
    with pytest.raises(TooMany, match="Try again in"), Flask("asked").test_request_context():
        for _ in range(2):
            limits.count(Kind.ACTS, "somebody")
    for _ in range(20):
        limits.count(Kind.STREAMS, "somebody")


@pytest.mark.parametrize("limit", ["often", "3 times", "10/fortnight"])
def test_a_limit_that_is_none_is_refused_with_the_settings_name(tmp_path: Path, limit: str) -> None:
    with pytest.raises(ValidationError, match="limit_reads"):
        plain_settings(tmp_path, limit_reads=limit)


@pytest.mark.parametrize("storage", ["somewhere", "nowhere://127.0.0.1"])
def test_a_storage_that_is_none_is_told_when_the_coordinator_starts(tmp_path: Path, storage: str) -> None:
    with pytest.raises(BadInput, match="limit_storage"), plain_app(tmp_path, limit_storage=storage):
        pass


class SilentStorage(MemoryStorage):
    """A storage that does not answer."""

    STORAGE_SCHEME = ("silent",)
    base_exceptions = ConnectionError

    def acquire_sliding_window_entry(self, *_: object, **__: object) -> bool:
        raise ConnectionError("gone")


def test_while_the_storage_does_not_answer_nobody_is_refused(tmp_path: Path) -> None:
    with plain_app(tmp_path, limit_storage="silent://", limit_reads="1/hour") as app:
        assert [app.test_client().get("/api/v1/rounds").status_code for _ in range(3)] == [200] * 3


# What is kept ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/api/v1/rounds", "/api/v1/releases", "/api/v1/events", "/api/v1/openapi.json"])
def test_who_has_the_newest_answer_already_is_told_so(app: Flask, path: str) -> None:
    client = app.test_client()
    first = client.get(path)
    assert first.headers["Cache-Control"] == "no-cache"
    assert first.headers["ETag"].startswith('"')
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    here = app.extensions["coterie"]
    with here.database.writing() as session:
        events.append(session, 1, "told", "Something happened.")
    changed = client.get("/api/v1/events", headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200


def test_what_is_for_one_person_is_kept_nowhere(app: Flask) -> None:
    client = app.test_client()
    headers = signed_in(client, ALICE)
    for path in ("/api/v1/wallets", "/api/v1/sessions", "/api/v1/nonce", "/api/v1/nowhere"):
        assert client.get(path, headers=headers).headers["Cache-Control"] == "no-store", path
    client.set_cookie("coterie", headers["Authorization"].removeprefix("Bearer "), domain="localhost")
    assert client.get("/wallets").headers["Cache-Control"] == "no-store"


def test_a_list_comes_in_pieces_that_lead_to_one_another(app: Flask) -> None:
    with app.extensions["coterie"].database.writing() as session:
        for n in range(7):
            events.append(session, n, "told", f"Number {n}.")
    client, path, seen = app.test_client(), "/api/v1/events?limit=3", []
    while path:
        answer = client.get(path)
        seen += [one["number"] for one in answer.json]
        link = answer.headers.get("Link", "")
        assert not link or link.endswith('; rel="next"')
        path = link.partition(">")[0].lstrip("<")
    assert seen == list(range(1, 8))
    assert len(client.get("/api/v1/events").json) == 7
    for wrong in ("limit=0", "limit=501", "limit=x", "after=-1", f"after={10**15}"):
        problem(client.get(f"/api/v1/events?{wrong}"), 400, "bad-input")


# Other sites' pages ---------------------------------------------------------------------------------------------------

UNSAFE = [route for route in WHO if not route.startswith("GET ")]


@pytest.mark.parametrize("route", UNSAFE)
def test_no_other_sites_page_can_have_anything_done(shared: Flask, session: dict[str, str], route: str) -> None:
    method, rule = route.split()
    client = shared.test_client()
    client.set_cookie("coterie", session["Authorization"].removeprefix("Bearer "), domain="localhost")
    for hostile in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8000.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "cross-site"},
    ):
        for brought in ({}, session):
            answer = client.open(rule, method=method, json={}, headers={**hostile, **brought})
            problem(answer, 403, "not-allowed")


@pytest.mark.parametrize("route", [route for route in UNSAFE if " /api/" in route])
def test_no_form_can_post_to_the_api(shared: Flask, session: dict[str, str], route: str) -> None:
    method, rule = route.split()
    client, headers = shared.test_client(), session if WHO[route] in SESSIONS else {}
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""):
        answer = client.open(rule, method=method, data=b'{"wallet": 1}', content_type=kind, headers=headers)
        assert "application/json" in problem(answer, 415, "not-json")


def test_a_cookie_alone_does_nothing_without_our_pages_origin(app: Flask) -> None:
    client = app.test_client()
    token = signed_in(client, ALICE)["Authorization"].removeprefix("Bearer ")
    client.set_cookie("coterie", token, domain="localhost")
    assert client.get("/api/v1/wallets").status_code == 200
    problem(client.post("/api/v1/sessions/end", json={"which": "all"}), 403, "not-allowed")
    ours = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/v1/sessions/end", json={"which": "all"}, headers=ours).json == {"ended": 1}


# Errors ---------------------------------------------------------------------------------------------------------------


def test_a_browser_gets_a_page_that_says_what_to_do(app: Flask) -> None:
    shown = app.test_client().get("/nowhere", headers=BROWSER)
    assert (shown.status_code, shown.mimetype) == (404, "text/html")
    assert "There is nothing at this address." in shown.text and 'href="/"' in shown.text
    problem(app.test_client().get("/nowhere"), 404, "not-found")
    problem(app.test_client().get("/api/v1/nowhere", headers=BROWSER), 404, "not-found")


def test_what_goes_wrong_before_a_view_begins_is_told_in_the_same_form(app: Flask) -> None:
    client = app.test_client()
    refused = client.delete("/api/v1/rounds")
    problem(refused, 405, "method-not-allowed")
    assert "GET" in refused.headers["Allow"]
    too_large = client.post("/api/v1/devices", data=b" " * (2 << 20), content_type="application/json")
    problem(too_large, 413, "request-entity-too-large")


def test_a_failure_of_ours_says_nothing_of_what_failed(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr("coordinator.web.views.rounds", fails)
    answer = app.test_client().get("/api/v1/rounds")
    assert "secret" not in problem(answer, 500, "internal-error")


# Once -----------------------------------------------------------------------------------------------------------------


def retirement(tmp_path: Path, app: Flask, name: str = "old") -> dict[str, Any]:
    old, new = tmp_path / f"{name}.pem", tmp_path / f"{name}-new.pem"
    for path in (old, new):
        node_key.create(path)
    dao = app.extensions["coterie"].policy.dao
    order = node_key.RetireKey(dao=dao, old=node_key.public_of(old), new=node_key.public_of(new))
    return {"retire_key": order.model_dump(mode="json"), "signature": node_key.sign(old, order.canonical())}


@pytest.fixture
def retired(app: Flask, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The nodes that were shut out; that their grants were replaced is taken for granted."""
    shut_out: list[int] = []
    monkeypatch.setattr(app.extensions["coterie"], "unregister_node", shut_out.append)
    monkeypatch.setattr("coordinator.identity.grants.require_replaced_key", lambda *_: 7)
    return shut_out


def test_an_act_that_is_sent_twice_with_one_key_is_done_once(app: Flask, tmp_path: Path, retired: list[int]) -> None:
    client, body = app.test_client(), retirement(tmp_path, app)
    headers = {"Idempotency-Key": "5b2c7e"}
    answers = [client.post("/api/v1/node-keys/retire", json=body, headers=headers) for _ in range(3)]
    assert [(one.status_code, one.json) for one in answers] == [(200, {"retired": body["retire_key"]["old"]})] * 3
    assert retired == [7]
    client.post("/api/v1/node-keys/retire", json=body)
    assert retired == [7, 7], "without a key it is done as often as it is asked for"


def test_a_key_is_for_one_request(app: Flask, tmp_path: Path, retired: list[int]) -> None:
    client, headers = app.test_client(), {"Idempotency-Key": "5b2c7e"}
    client.post("/api/v1/node-keys/retire", json=retirement(tmp_path, app), headers=headers)
    other = client.post("/api/v1/node-keys/retire", json=retirement(tmp_path, app, "other"), headers=headers)
    assert "Send a new key" in problem(other, 422, "key-reused")
    assert retired == [7]


def test_while_the_first_is_being_done_the_second_waits(app: Flask, tmp_path: Path, retired: list[int]) -> None:
    body, headers = retirement(tmp_path, app), {"Idempotency-Key": "5b2c7e"}
    here, begun, go_on = app.extensions["coterie"], threading.Event(), threading.Event()

    def slowly(node_id: int) -> None:
        begun.set()
        assert go_on.wait(20)
        retired.append(node_id)

    here.unregister_node = slowly
    first = threading.Thread(
        target=lambda: app.test_client().post("/api/v1/node-keys/retire", json=body, headers=headers)
    )
    first.start()
    try:
        assert begun.wait(20)
        second = app.test_client().post("/api/v1/node-keys/retire", json=body, headers=headers)
        assert "being done just now" in problem(second, 409, "conflict")
    finally:
        go_on.set()
        first.join()
    assert app.test_client().post("/api/v1/node-keys/retire", json=body, headers=headers).status_code == 200
    assert retired == [7]


def test_what_was_refused_may_be_asked_again_with_its_key(app: Flask, tmp_path: Path) -> None:
    body, headers = retirement(tmp_path, app), {"Idempotency-Key": "5b2c7e"}
    refused = [app.test_client().post("/api/v1/node-keys/retire", json=body, headers=headers) for _ in range(2)]
    assert len({one.data for one in refused}) == 1 and refused[0].status_code >= 400
    with app.extensions["coterie"].database.reading() as session:
        assert not session.query(AnswerRow).count()


def test_answers_are_kept_for_a_day(app: Flask, tmp_path: Path, retired: list[int]) -> None:
    here, headers = app.extensions["coterie"], {"Idempotency-Key": "5b2c7e"}
    body, client = retirement(tmp_path, app), app.test_client()
    client.post("/api/v1/node-keys/retire", json=body, headers=headers)
    now = here.now()
    here.clock = lambda: now + done_once.KEPT_SECONDS + 1
    client.post("/api/v1/node-keys/retire", json=body, headers=headers)
    assert retired == [7, 7]


def test_a_key_that_is_none_is_refused(app: Flask, tmp_path: Path) -> None:
    for key in ("x" * 256, ""):
        answer = app.test_client().post(
            "/api/v1/node-keys/retire", json=retirement(tmp_path, app, f"k{len(key)}"), headers={"Idempotency-Key": key}
        )
        assert "Idempotency-Key" in problem(answer, 400, "bad-input")
