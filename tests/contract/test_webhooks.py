"""Webhooks, against a real receiver on loopback that checks signatures, fails, hangs and goes away."""

import base64
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.web.served import prepared
from coordinator.cli import app
from coordinator.config import CoordinatorSettings
from coordinator.database import Database
from coordinator.rounds import events
from coordinator.webhooks import delivery
from coordinator.webhooks.bodies import body_of, headers_of
from coordinator.webhooks.delivery import GIVE_UP_SECONDS, Webhooks, pause_after, standings
from coordinator.webhooks.hooks import Format, Webhook, load_hooks
from protocol.errors import BadInput
from protocol.events import Event, is_chain

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = 1_795_000_000


class Receiver:
    """Takes what is signed well; ``answers`` are given first, one a request: a status, headers, or a wait."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any]]] = []
        """(webhook-id, body)"""
        self.asked = 0
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.hangs = threading.Event()
        self.hangs.set()
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                here.asked += 1
                here.hangs.wait(5)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = here.answers.pop(0) if here.answers else (204, {})
                identifier = self.headers["webhook-id"]
                signed = f"{identifier}.{self.headers['webhook-timestamp']}.".encode() + body
                right = "v1," + base64.b64encode(hmac.new(KEY, signed, "sha256").digest()).decode()
                if self.headers["webhook-signature"] != right:
                    status = 401
                if status < 300:
                    here.taken.append((identifier, json.loads(body)))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/rooms/very-secret-token"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def numbers(self) -> list[int]:
        return [body["number"] for _, body in self.taken]

    def close(self) -> None:
        self.hangs.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    there = Receiver()
    yield there
    there.close()


class Dao:
    """A log, and a clock that a test sets."""

    def __init__(self, folder: Path) -> None:
        self.now = float(NOW)
        self.database = Database(f"sqlite:///{folder / 'log.sqlite'}")

    def tell(self, *kinds: str) -> None:
        for kind in kinds:
            with self.database.writing() as session:
                events.append(session, NOW, kind, f"{kind} happened.")

    def webhooks(self, *hooks: Webhook) -> Webhooks:
        """As a worker that has just been started has them."""
        there = Webhooks(self.database, hooks, "Nouns", lambda: self.now)
        there.settle()
        return there

    def deliver(self, hooks: Webhooks, hook: Webhook) -> None:
        """Until nothing is due."""
        while hooks.step(hook) == 0:
            pass

    def standing(self) -> delivery.Standing:
        with self.database.reading() as session:
            [one] = standings(session)
        return one

    def log(self) -> list[Event]:
        with self.database.reading() as session:
            return events.after(session, 0)


@pytest.fixture
def dao(tmp_path: Path) -> Iterator[Dao]:
    there = Dao(tmp_path)
    yield there
    there.database.close()


def hook(url: str, *kinds: str, form: Format = Format.JSON) -> Webhook:
    return Webhook.model_validate(
        {"name": "room", "url": url, "secret": SECRET, "format": form.value, "kinds": tuple(kinds)}
    )


def test_events_are_delivered_in_order_signed_and_as_the_api_gives_them(dao: Dao, receiver: Receiver) -> None:
    dao.tell("before")
    one = hook(receiver.url)
    hooks = dao.webhooks(one)
    dao.tell("a", "b", "c")
    dao.deliver(hooks, one)
    assert receiver.numbers() == [2, 3, 4]
    assert len({identifier for identifier, _ in receiver.taken}) == 3
    assert is_chain(Event(**body) for _, body in receiver.taken)


def test_only_the_kinds_that_it_wants_are_sent(dao: Dao, receiver: Receiver) -> None:
    one = hook(receiver.url, "release.", "round.failed")
    hooks = dao.webhooks(one)
    dao.tell("round.opened", "release.published", "grant.given", "round.failed", "grant.given")
    dao.deliver(hooks, one)
    assert receiver.numbers() == [2, 4] and dao.standing().position == 5


def test_what_was_not_taken_is_sent_again_later_and_before_anything_else(dao: Dao, receiver: Receiver) -> None:
    one = hook(receiver.url)
    hooks = dao.webhooks(one)
    dao.tell("a", "b")
    receiver.answers = [(500, {}), (302, {"Location": "/elsewhere"})]
    dao.deliver(hooks, one)
    assert (receiver.asked, dao.standing().reason) == (1, "it answered 500")
    dao.now += pause_after(1) - 1
    dao.deliver(hooks, one)
    assert receiver.asked == 1
    dao.now += 1
    dao.deliver(hooks, one)
    assert (receiver.asked, dao.standing().tries, dao.standing().reason) == (2, 2, "it answered 302")
    dao.now += pause_after(2)
    dao.deliver(hooks, one)
    assert receiver.numbers() == [1, 2] and dao.standing().reason == ""


def test_a_receiver_that_asks_to_be_left_alone_is(dao: Dao, receiver: Receiver) -> None:
    one = hook(receiver.url)
    hooks = dao.webhooks(one)
    dao.tell("a")
    receiver.answers = [(429, {"Retry-After": "60"})]
    dao.deliver(hooks, one)
    dao.now += 59
    dao.deliver(hooks, one)
    assert receiver.asked == 1
    dao.now += 1
    dao.deliver(hooks, one)
    assert receiver.numbers() == [1]


def test_a_worker_that_was_killed_goes_on_where_it_was_with_the_same_ids(
    dao: Dao, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = hook(receiver.url)
    hooks = dao.webhooks(one)
    dao.tell("a", "b")
    hooks.step(one)
    with monkeypatch.context() as killed:
        killed.setattr(Webhooks, "_note", lambda *_: (_ for _ in ()).throw(SystemExit()))
        with pytest.raises(SystemExit):
            hooks.step(one)
    dao.tell("c")
    dao.deliver(dao.webhooks(one), one)
    assert receiver.numbers() == [1, 2, 2, 3]
    assert receiver.taken[1] == receiver.taken[2]


def test_a_receiver_that_is_gone_is_told_no_more_and_the_log_says_so(dao: Dao, receiver: Receiver) -> None:
    one = hook(receiver.url)
    hooks = dao.webhooks(one)
    dao.tell("a", "b")
    receiver.answers = [(410, {})]
    dao.deliver(hooks, one)
    dao.now += 10**6
    dao.deliver(hooks, one)
    assert receiver.asked == 1 and dao.standing().ended
    told = dao.log()[-1]
    assert (told.kind, told.message) == ("webhook.ended", "Webhook room is told no more: it answered 410.")
    with dao.database.writing() as session:
        assert delivery.resume(session, "room")
    dao.deliver(hooks, one)
    assert receiver.numbers() == [1, 2, 3]


def test_after_a_day_in_vain_it_is_given_up_and_nothing_tells_its_address(
    dao: Dao, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    one = hook(receiver.url)
    hooks = dao.webhooks(one)
    dao.tell("a")
    receiver.close()
    while not dao.standing().ended:
        dao.deliver(hooks, one)
        dao.now += 3600
    assert NOW + GIVE_UP_SECONDS <= dao.now <= NOW + GIVE_UP_SECONDS + 7200
    said = [dao.log()[-1].message, dao.standing().reason, repr(one), *capsys.readouterr()]
    assert said[0] == "Webhook room is told no more: for a day, it cannot be reached."
    assert not any("very-secret-token" in text or SECRET in text for text in said)


def test_a_receiver_that_hangs_keeps_nobody_else_waiting(
    dao: Dao, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.01)
    other = Receiver()
    receiver.hangs.clear()
    stuck = hook(receiver.url)
    well = stuck.model_copy(update={"name": "well", "url": hook(other.url).url})
    with dao.webhooks(stuck, well).running():
        dao.tell("a", "b")
        arrived = threading.Event()
        for _ in range(500):
            if other.numbers() == [1, 2] or arrived.wait(0.01):
                break
        assert other.numbers() == [1, 2] and receiver.taken == []
    other.close()


def test_one_that_does_not_answer_in_time_is_tried_again(
    dao: Dao, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_S", (1.0, 0.1))
    one = hook(receiver.url)
    hooks = dao.webhooks(one)
    dao.tell("a")
    receiver.hangs.clear()
    dao.deliver(hooks, one)
    assert dao.standing().reason == "it did not answer in time"


def test_one_that_is_named_no_more_is_forgotten_and_a_new_one_begins_now(dao: Dao, receiver: Receiver) -> None:
    dao.webhooks(hook(receiver.url))
    dao.tell("a")
    dao.webhooks(hook(receiver.url).model_copy(update={"name": "other"}))
    assert (dao.standing().name, dao.standing().position) == ("other", 1)


def test_a_signature_is_that_of_standard_webhooks() -> None:
    one = hook("http://x.example").model_copy(
        update={
            "secret": Webhook.model_validate(
                {"name": "x", "url": "http://x.example", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
            ).secret
        }
    )
    headers = headers_of(one, "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1614265330)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def event(message: str) -> Event:
    return Event(1, "0", "1", {"number": 1, "at": NOW, "kind": "round.failed", "message": message})


def test_discord_gets_a_short_text_that_calls_nobody_and_is_no_markup() -> None:
    body = json.loads(
        body_of(Format.DISCORD, event("@everyone [free](http://x.example) **now** <@1> " + "😀" * 2000), "D")
    )
    assert body["allowed_mentions"] == {"parse": []}
    assert "\\@everyone \\[free\\]\\(http://x.example\\) \\*\\*now\\*\\*" in body["content"]
    assert len(body["content"].encode("utf-16-le")) // 2 <= 2000 and body["content"].endswith("😀…")


def test_matrix_gets_text_and_html_that_says_the_same() -> None:
    body = json.loads(body_of(Format.MATRIX, event("<b>5</b> & more"), "D & C"))
    assert body == {"text": "D & C: <b>5</b> & more", "html": "<b>D &amp; C</b>: &lt;b&gt;5&lt;/b&gt; &amp; more"}


GOOD = f'[[webhook]]\nname = "room"\nurl = "http://127.0.0.1:9/very-secret-token"\nsecret = "{SECRET}"\n'
WRONG = {
    "others may read it": (GOOD, 0o640, "chmod 600"),
    "no TOML": ("[[", 0o600, "cannot be read as TOML"),
    "no address": (GOOD.replace("http:", "ftp:"), 0o600, "webhook 1.url: is no http"),
    "a short secret": (GOOD.replace(SECRET, "whsec_c2hvcnQ="), 0o600, "webhook 1.secret: is whsec_ and 24 to 64"),
    "another form": (GOOD + 'format = "slack"\n', 0o600, "webhook 1.format"),
    "an unknown field": (GOOD + 'colour = "red"\n', 0o600, "webhook 1.colour"),
    "a name twice": (GOOD + GOOD, 0o600, "two webhooks are called room"),
}


@pytest.mark.parametrize(("text", "mode", "said"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_wrong_is_refused_without_telling_its_secrets(
    tmp_path: Path, text: str, mode: int, said: str
) -> None:
    file = tmp_path / "webhooks.toml"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(BadInput) as refused:
        load_hooks(file)
    assert said in str(refused.value)
    assert "very-secret-token" not in str(refused.value) and SECRET not in str(refused.value)


def test_the_shell_lists_tries_and_resumes_without_showing_a_secret(tmp_path: Path, receiver: Receiver) -> None:
    config = prepared(tmp_path / "dao", {"webhooks": "webhooks.toml"})
    file = config.parent / "webhooks.toml"
    file.write_text(GOOD.replace("http://127.0.0.1:9/very-secret-token", receiver.url) + 'kinds = ["release."]\n')
    file.chmod(0o600)

    def shell(*words: str) -> Any:
        return CliRunner().invoke(app, ["webhook", *words, "--config", str(config)])

    listed = shell("list").stdout
    assert "room" in listed and "127.0.0.1" in listed and "release." in listed and "new" in listed
    assert "very-secret-token" not in listed and SECRET not in listed
    assert "room took the message" in shell("test", "room").stdout
    assert receiver.taken[0][1]["body"]["kind"] == "webhook.test"
    receiver.answers = [(403, {})]
    refused = shell("test", "room")
    assert refused.exit_code == 1 and "did not take the message: it answered 403" in refused.stderr
    assert "There is no webhook nobody" in shell("test", "nobody").stderr
    assert "has been told anything yet" in shell("resume", "room").stderr

    settings = CoordinatorSettings.load(config)
    database = Database(settings.database)
    hooks = Webhooks(database, load_hooks(settings.webhooks), "D")
    hooks.settle()
    assert "room is told again" in shell("resume", "room").stdout
    assert "0 of 0" in shell("list").stdout
    database.close()
