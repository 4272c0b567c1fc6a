"""The coordinator over HTTP, on a real chain: sign in, be judged, grant, start a round, contribute, sell, remove.

Only the SuperLink is not here: its two calls are answered by fakes that remember what they were asked.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pytest
from conftest import Chain
from eth_account import Account
from eth_account.messages import encode_defunct
from flask.testing import FlaskClient
from published_parts import small_base
from round_parts import PLAN, adapter_for, contribution_for, reply_of, scores_for, statistics_for, write_small_base
from sqlalchemy import func, select
from web_parts import DocumentedClient

from contracts_abi.model import Token
from coordinator.config import CoordinatorSettings
from coordinator.database import SessionRow
from coordinator.releases.signing import signing_key
from coordinator.rounds.checks import adapted_layers
from coordinator.rounds.events import Event, is_chain
from coordinator.rounds.exchange import RoundExchange
from coordinator.rounds.ledger import Ledger
from coordinator.rounds.transitions import RoundState
from coordinator.rounds.worker import Worker
from coordinator.web.app import create_app
from coordinator.web.service import Service
from coordinator.web.views import rounds
from coordinator.wiring import secret_sums_of
from deploy.devchain.anvil import ANVIL_KEYS
from protocol import node_key
from protocol.canonical import sha256
from protocol.contribution import ScoreTask, TrainTask
from protocol.errors import ContributionRefused
from protocol.grant import WARRANT, Grant, RoundPlan, StartRound, sign
from protocol.manifest import Manifest
from protocol.policy import AdminRole, CollectionRule, Policy, Weights

pytestmark = pytest.mark.slow

ADMIN, ALICE, BOB, CAROL, NOBODY = ANVIL_KEYS[:5]
ASKER = "__Host-coterie-asker"


FIRST_NODE = (1 << 64) - 100
"""Flower's node ids fill 64 bits without a sign: more than a database's integers take."""


@dataclass
class RegistrationFake:
    """Not a SuperLink: it lets nobody in anywhere, it only numbers the keys that it is given."""

    keys: list[bytes] = field(default_factory=list)

    def __call__(self, public_key: bytes) -> int:
        if public_key not in self.keys:
            self.keys.append(public_key)
        return FIRST_NODE + self.keys.index(public_key)


@dataclass
class RunsFake:
    """Not a SuperLink: it starts nothing, it only remembers which rounds it was asked to start."""

    started: list[str] = field(default_factory=list)

    def start_run(self, round_id: str) -> int:
        self.started.append(round_id)
        return len(self.started)

    def runs(self) -> dict[int, str]:
        return {number + 1: "running" for number in range(len(self.started))}


class Coordinator:
    """The web side through Flask's test client, the worker's ticks by hand, and the nodes' answers."""

    def __init__(self, chain: Chain, folder: Path, base: Path, policy: Policy | None = None) -> None:
        self.chain = chain
        self.policy = policy or policy_of(chain)
        (folder / "policy.json").write_bytes(self.policy.canonical())
        (folder / "coordinator.toml").write_text(
            f'rpc_url = "{chain.url}"\npolicy = "policy.json"\nbase = "{base}"\nbase_name = "small"\n'
            'uri = "https://nouns.example"\n'
        )
        self.settings = CoordinatorSettings.load(folder / "coordinator.toml")
        self.settings.data.mkdir()
        self.settings.superlink_file.write_text(json.dumps({"address": "127.0.0.1:1", "root_certificate": "PEM"}))
        self.registered = RegistrationFake()
        self.runs = RunsFake()
        self.app = create_app(self.settings, self.registered)
        self.app.test_client_class = DocumentedClient
        self.client: FlaskClient = self.app.test_client()
        self.folder = folder

    @property
    def service(self) -> Service:
        service: Service = self.app.extensions["coterie"]
        return service

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the base's adapted layers, kernels unfolded."""
        layers = adapted_layers(self.settings.base).items()
        return {name: (one.d_out, one.d_in // prod(one.kernel), *one.kernel) for name, one in layers}

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    def worker(self) -> Worker:
        """A worker that has just been started: it knows nothing but the database."""
        return Worker(self.settings, lambda: self.runs)

    def message(self, key: str, **changes: str) -> str:
        now = datetime.now(UTC)
        fields = {
            "domain": "nouns.example",
            "uri": "https://nouns.example",
            "chain": "31337",
            "nonce": self.client.get("/api/v1/nonce").json["nonce"],
            "issued": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            **changes,
        }
        return (
            f"{fields['domain']} wants you to sign in with your Ethereum account:\n"
            f"{Account.from_key(key).address}\n\n\n"
            f"URI: {fields['uri']}\nVersion: 1\nChain ID: {fields['chain']}\n"
            f"Nonce: {fields['nonce']}\nIssued At: {fields['issued']}"
        )

    def sign_in(self, key: str) -> dict[str, str]:
        answer = self.post_session(self.message(key), key)
        assert answer.status_code == 200, answer.json
        return {"Authorization": f"Bearer {answer.json['token']}"}

    def post_session(self, message: str, key: str) -> Any:
        body = {"message": message, "signature": signed_text(message, key)}
        return self.client.post("/api/v1/session", json=body)

    def node_key(self, key: str) -> Path:
        path = self.folder / f"{Account.from_key(key).address}.pem"
        node_key.create(path)
        return path

    def grant(self, key: str, tokens: tuple[Token, ...], **changes: Any) -> Grant:
        fields = {
            "dao": self.policy.dao,
            "chain_id": self.policy.chain_id,
            "member": Account.from_key(key).address,
            "purpose": self.policy.purpose,
            "tokens": tokens,
            "warrant": WARRANT,
            "node_key": node_key.public_of(self.node_key(key)),
            "policy_hash": self.policy.digest(),
            "base_hash": self.settings.base_hash,
            "expires": int(time.time()) + 3600,
        }
        return Grant(**{**fields, **changes})

    def give(self, grant: Grant, key: str) -> Any:
        body = {"grant": grant.model_dump(mode="json"), "signature": sign(grant, key)}
        return self.client.post("/api/v1/grants", json=body, headers=self.sign_in(key))

    def join(self, key: str) -> str:
        """Sign in, and grant everything that is admitted; the grant's id."""
        verdicts = self.client.get("/api/v1/verdicts", headers=self.sign_in(key)).json["verdicts"]
        answer = self.give(self.grant(key, tuple(Token.parse(v["token"]) for v in verdicts if v["allow"])), key)
        assert answer.status_code == 201, answer.json
        return str(answer.json["grant_id"])

    def order(self, plan: RoundPlan = PLAN, nonce: str = "") -> StartRound:
        return StartRound(
            dao=self.policy.dao,
            chain_id=self.policy.chain_id,
            admin=Account.from_key(ADMIN).address,
            plan=plan,
            policy_hash=self.policy.digest(),
            base_hash=self.settings.base_hash,
            nonce=nonce or f"nonce{time.monotonic_ns()}",
            expires=int(time.time()) + 600,
        )

    def start(self, order: StartRound, key: str = ADMIN) -> Any:
        body = {"start_round": order.model_dump(mode="json"), "signature": sign(order, key)}
        return self.client.post("/api/v1/rounds", json=body)

    def exchange(self, round_id: str) -> RoundExchange:
        secret = secret_sums_of(self.settings, self.service.database)
        layers = adapted_layers(self.settings.base)
        return RoundExchange(self.ledger, secret, round_id, layers, self.settings.candidates)

    def node_id(self, key: str) -> int:
        return self.registered(node_key.public_pem(node_key.public_of(self.node_key(key))))


def signed_text(text: str, key: str) -> str:
    return "0x" + bytes(Account.sign_message(encode_defunct(text=text), key).signature).hex()


def policy_of(chain: Chain) -> Policy:
    return Policy(
        dao="Nouns-on-anvil",
        purpose="One shared model of our Nouns.",
        chain_id=31337,
        admin=AdminRole(contract=chain.cc0.address),
        collections=(
            CollectionRule(contract=chain.cc0.address, name="Nouns", licence="CC0", evidence="nouns.wtf"),
            CollectionRule(contract=chain.personal.address, name="Personal Nouns"),
            CollectionRule(contract=chain.commercial.address, name="Commercial Nouns"),
        ),
        accept_holder_warrant=True,
    )


@pytest.fixture
def here(chain: Chain, tmp_path: Path) -> Iterator[Coordinator]:
    chain.anvil.finalize()
    coordinator = Coordinator(chain, tmp_path, write_small_base(tmp_path / "base"))
    yield coordinator
    coordinator.service.database.close()


def problem(answer: Any, status: int, code: str) -> str:
    """The sentence of a problem document, after checking its form."""
    assert answer.status_code == status, answer.json
    assert answer.content_type == "application/problem+json"
    assert (answer.json["code"], answer.json["status"]) == (code, status)
    return str(answer.json["detail"])


# Sign-in --------------------------------------------------------------------------------------------------------------


def test_a_signed_in_wallet_sees_the_verdict_on_each_of_its_tokens(here: Coordinator) -> None:
    answer = here.client.get("/api/v1/verdicts", headers=here.sign_in(ALICE)).json
    by_collection = {v["collection"]: v for v in answer["verdicts"]}
    assert by_collection["Nouns"]["allow"] is True
    assert by_collection["Commercial Nouns"]["warrant"] is True
    denied = by_collection["Personal Nouns"]
    assert denied["allow"] is False and "does not allow derivatives" in denied["reason"]
    assert answer["snapshot"]["number"] > 0


def test_a_wallet_that_owns_nothing_is_refused_with_the_reason(here: Coordinator) -> None:
    answer = here.client.get("/api/v1/verdicts", headers=here.sign_in(NOBODY))
    assert "owns no token" in problem(answer, 403, "not-allowed")


def test_a_sign_in_counts_once(here: Coordinator) -> None:
    message = here.message(ALICE)
    assert here.post_session(message, ALICE).status_code == 200
    assert "nonce" in problem(here.post_session(message, ALICE), 401, "not-signed-in")


@pytest.mark.usefixtures("each_database")
def test_fifty_sign_ins_at_the_same_moment_with_one_nonce_open_one_session(here: Coordinator) -> None:
    message, answers, start = here.message(ALICE), [], threading.Barrier(50)
    cookie = here.client.get_cookie(ASKER)
    assert cookie

    def replay() -> None:
        client = here.app.test_client()
        client.set_cookie(ASKER, cookie.value)
        body = {"message": message, "signature": signed_text(message, ALICE)}
        start.wait()
        answers.append(client.post("/api/v1/session", json=body).status_code)

    threads = [threading.Thread(target=replay) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + 49 * [401]
    with here.service.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(SessionRow)) == 1


def test_a_nonce_is_good_only_for_whoever_asked_for_it(here: Coordinator) -> None:
    message = here.message(ALICE)
    body = {"message": message, "signature": signed_text(message, ALICE)}
    stranger = here.app.test_client()
    assert "unknown here" in problem(stranger.post("/api/v1/session", json=body), 401, "not-signed-in")
    stranger.get("/api/v1/nonce")  # a cookie of their own does not help
    assert "unknown here" in problem(stranger.post("/api/v1/session", json=body), 401, "not-signed-in")
    assert here.client.post("/api/v1/session", json=body).status_code == 200


def test_the_nonce_s_cookie_is_kept_from_scripts_other_sites_and_plain_http(here: Coordinator) -> None:
    said = here.client.get("/api/v1/nonce").headers["Set-Cookie"]
    assert said.startswith(f"{ASKER}=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(said.split("; "))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"domain": "evil.example"}, "another domain"),
        ({"uri": "https://evil.example"}, "another URI"),
        ({"chain": "1"}, "another chain"),
        ({"nonce": "abcdefghijk"}, "unknown"),
        ({"issued": "2001-01-01T00:00:00Z"}, "within the last 600 seconds"),
        ({"issued": "2099-01-01T00:00:00Z"}, "within the last 600 seconds"),
    ],
)
def test_a_sign_in_for_another_place_or_time_is_refused(here: Coordinator, changes: dict[str, str], why: str) -> None:
    message = here.message(ALICE, **changes)
    assert why in problem(here.post_session(message, ALICE), 401, "not-signed-in")


def test_a_sign_in_signed_by_another_wallet_is_refused(here: Coordinator) -> None:
    assert "signature" in problem(here.post_session(here.message(ALICE), BOB), 401, "not-signed-in")


def test_a_sign_in_in_another_spelling_is_refused(here: Coordinator) -> None:
    message = here.message(ALICE, chain="0031337")
    assert "canonical" in problem(here.post_session(message, ALICE), 400, "bad-input")


@pytest.mark.parametrize(("length", "said"), [(2049, "at most 2048 bytes"), (20_000, "at most 8192 bytes")])
def test_a_long_sign_in_is_refused_before_it_is_parsed(here: Coordinator, length: int, said: str) -> None:
    began = time.monotonic()
    answer = here.post_session("a" * length, ALICE)
    assert said in problem(answer, 400, "bad-input")
    assert time.monotonic() - began < 5


def test_without_a_session_nothing_is_judged_and_nothing_granted(here: Coordinator) -> None:
    grant = here.grant(ALICE, (here.chain.token(here.chain.cc0, 0),), warrant="")
    body = {"grant": grant.model_dump(mode="json"), "signature": sign(grant, ALICE)}
    for headers in ({}, {"Authorization": "Bearer x"}):
        problem(here.client.get("/api/v1/verdicts", headers=headers), 401, "not-signed-in")
        problem(here.client.post("/api/v1/grants", json=body, headers=headers), 401, "not-signed-in")


# Grants ---------------------------------------------------------------------------------------------------------------


def test_a_grant_registers_its_node_key_and_can_be_looked_up(here: Coordinator) -> None:
    grant_id = here.join(ALICE)
    assert here.registered.keys == [node_key.public_pem(node_key.public_of(here.node_key(ALICE)))]
    shown = here.client.get(f"/api/v1/grants/{grant_id}").json
    assert Grant.model_validate(shown["grant"]).grant_id == grant_id
    problem(here.client.get("/api/v1/grants/none"), 404, "not-found")


def test_the_same_grant_again_changes_nothing(here: Coordinator) -> None:
    grant = here.grant(ALICE, (here.chain.token(here.chain.cc0, 0),), warrant="")
    assert here.give(grant, ALICE).json == here.give(grant, ALICE).json


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dao": "Other"}, "another DAO"),
        ({"chain_id": 1}, "another chain"),
        ({"purpose": "Anything"}, "another purpose"),
        ({"policy_hash": "0" * 64}, "another policy"),
        ({"base_hash": "0" * 64}, "another base"),
        ({"expires": 1}, "future"),
        ({"expires": 2**40}, "within a year"),
        ({"warrant": WARRANT}, "does not need"),
    ],
)
def test_a_grant_that_says_something_else_is_refused(here: Coordinator, changes: dict[str, Any], why: str) -> None:
    fields = {"warrant": "", **changes}
    grant = here.grant(ALICE, (here.chain.token(here.chain.cc0, 0),), **fields)
    assert why in problem(here.give(grant, ALICE), 403, "not-allowed")
    assert here.registered.keys == []


def test_a_grant_that_a_newer_one_replaced_does_not_come_back_by_being_sent_again(here: Coordinator) -> None:
    tokens = (here.chain.token(here.chain.cc0, 0),)
    older = here.grant(ALICE, tokens, warrant="")
    newer = here.grant(ALICE, tokens, warrant="", expires=older.expires + 1)
    for grant in (older, newer, older):
        assert here.give(grant, ALICE).status_code == 201
    assert here.client.get(f"/api/v1/grants/{older.grant_id}").json["replaced"] is True
    assert here.client.get(f"/api/v1/grants/{newer.grant_id}").json["replaced"] is False


def test_under_a_changed_policy_old_grants_are_refused_and_not_asked(here: Coordinator) -> None:
    for key in (ALICE, BOB):
        here.join(key)
    signed_before = here.grant(ALICE, (here.chain.token(here.chain.cc0, 0),), warrant="")
    here.policy = here.policy.model_copy(update={"weights": Weights.PER_TOKEN})
    (here.folder / "policy.json").write_bytes(here.policy.canonical())
    here.service.database.close()
    settings = CoordinatorSettings.load(here.folder / "coordinator.toml")
    here.app = create_app(settings, here.registered)
    here.client = here.app.test_client()
    assert "another policy" in problem(here.give(signed_before, ALICE), 403, "not-allowed")
    assert "0 grants may take part" in problem(here.start(here.order()), 409, "conflict")


def test_tokens_that_are_denied_or_another_s_cannot_be_granted(here: Coordinator) -> None:
    denied = here.grant(ALICE, (here.chain.token(here.chain.personal, 0),), warrant="")
    assert "does not allow derivatives" in problem(here.give(denied, ALICE), 403, "not-allowed")
    stolen = here.grant(ALICE, (here.chain.token(here.chain.cc0, 3),), warrant="")
    assert "not to the member" in problem(here.give(stolen, ALICE), 403, "not-allowed")


def test_a_silent_licence_needs_the_holder_s_warrant(here: Coordinator) -> None:
    grant = here.grant(ALICE, (here.chain.token(here.chain.commercial, 0),), warrant="")
    assert "warrant" in problem(here.give(grant, ALICE), 403, "not-allowed")


def test_a_grant_in_another_s_name_or_by_another_s_key_is_refused(here: Coordinator) -> None:
    grant = here.grant(BOB, (here.chain.token(here.chain.cc0, 3),), warrant="")
    body = {"grant": grant.model_dump(mode="json"), "signature": sign(grant, BOB)}
    answer = here.client.post("/api/v1/grants", json=body, headers=here.sign_in(ALICE))
    assert "signed in" in problem(answer, 403, "not-allowed")
    forged = {"grant": grant.model_dump(mode="json"), "signature": sign(grant, ALICE)}
    answer = here.client.post("/api/v1/grants", json=forged, headers=here.sign_in(BOB))
    assert "signature" in problem(answer, 403, "not-allowed")


def test_two_members_cannot_share_a_node_key(here: Coordinator) -> None:
    here.join(ALICE)
    shared = node_key.public_of(here.node_key(ALICE))
    grant = here.grant(BOB, (here.chain.token(here.chain.cc0, 3),), warrant="", node_key=shared)
    problem(here.give(grant, BOB), 409, "conflict")


# Rounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_database")
def test_only_the_dao_s_admin_starts_a_round_and_each_order_counts_once(here: Coordinator) -> None:
    here.join(ALICE)
    here.join(BOB)
    by_alice = here.order().model_copy(update={"admin": Account.from_key(ALICE).address})
    assert "admin role" in problem(here.start(by_alice, ALICE), 403, "not-allowed")
    assert "signature" in problem(here.start(here.order(), ALICE), 403, "not-allowed")
    order = here.order()
    answer = here.start(order)
    assert answer.status_code == 201
    assert "given before" in problem(here.start(order), 409, "conflict")
    assert "under way" in problem(here.start(here.order()), 409, "conflict")


def test_a_round_below_its_quorum_does_not_open(here: Coordinator) -> None:
    here.join(ALICE)
    assert "quorum is 2" in problem(here.start(here.order()), 409, "conflict")


def train(here: Coordinator, round_id: str, keys: dict[str, str]) -> None:
    """The nodes of ``keys`` (wallet key → grant) answer the round's training task."""
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task and task.kind == "train"
    wanted = TrainTask.model_validate_json(task.body["task"])
    for seed, (key, grant_id) in enumerate(keys.items()):
        assert exchange.wanted(here.node_id(key), task)
        tensors = {"adapter": adapter_for(seed, here.shapes), "statistics": statistics_for(seed, here.shapes)}
        contribution = contribution_for(wanted, grant_id, here.node_key(key), seed, **tensors)
        exchange.receive(task, here.node_id(key), reply_of(contribution))
        assert not exchange.wanted(here.node_id(key), task)
        exchange.receive(task, here.node_id(key), reply_of(contribution))  # the same once more changes nothing


def score(here: Coordinator, round_id: str, keys: dict[str, str]) -> None:
    """The nodes answer the scoring task; the second gain is the better one."""
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task and task.kind == "score"
    wanted = ScoreTask.model_validate_json(task.body["task"])
    for key, grant_id in keys.items():
        assert exchange.wanted(here.node_id(key), task)
        report = scores_for(wanted, grant_id, here.node_key(key), (0.5, 0.25))
        exchange.receive(task, here.node_id(key), {"report": report.canonical()})
        assert not exchange.wanted(here.node_id(key), task)


def state_of(here: Coordinator, round_id: str) -> str:
    return str(here.client.get(f"/api/v1/rounds/{round_id}").json["state"])


def opened(here: Coordinator, *keys: str, plan: RoundPlan = PLAN) -> tuple[str, dict[str, str]]:
    """A round of these members, its training task out."""
    granted = {key: here.join(key) for key in keys}
    round_id = here.start(here.order(plan)).json["round_id"]
    here.worker().tick()
    assert state_of(here, round_id) == RoundState.TRAINING
    assert here.runs.started == [round_id]
    return round_id, granted


@pytest.mark.usefixtures("each_database")
def test_a_round_goes_from_contributions_to_a_candidate_and_survives_restarts(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, granted)
    here.worker().tick()  # each tick is a worker that has just been started
    assert state_of(here, round_id) == RoundState.SCORING
    score(here, round_id, granted)
    standing = here.ledger.standing(round_id)
    assert standing.scored == standing.scorers
    assert here.runs.started == [round_id]
    with here.service.database.reading() as session:
        newest = rounds(session)[0]
    assert {one.state for one in newest.contributions} == {"live"}
    assert "does not allow derivatives" in newest.exclusions[0].reason
    assert here.client.get("/api/v1/events").json[0]["number"] == 1


@pytest.mark.usefixtures("each_database")
def test_the_log_is_a_chain_and_tells_when_a_line_was_changed(here: Coordinator) -> None:
    opened(here, ALICE, BOB)
    events = [Event(**one) for one in here.client.get("/api/v1/events").json]
    assert len(events) > 3 and is_chain(events)
    events[1].body["message"] = "Nothing happened."
    assert not is_chain(events)
    later = here.client.get("/api/v1/events?after=2").json
    assert later[0]["number"] == 3


def test_a_refused_contribution_is_told_of_and_not_asked_for_again(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task
    wanted = TrainTask.model_validate_json(task.body["task"])
    foreign = [here.chain.token(here.chain.cc0, 3)]
    wrong = contribution_for(wanted, granted[ALICE], here.node_key(ALICE), 1, tokens=foreign)
    with pytest.raises(ContributionRefused):
        exchange.receive(task, here.node_id(ALICE), reply_of(wrong))
    assert not exchange.wanted(here.node_id(ALICE), task)
    shown = here.client.get(f"/api/v1/rounds/{round_id}").json
    assert shown["contributions"][0]["state"] == "refused"
    assert "not among the tokens" in shown["contributions"][0]["reason"]
    assert shown["expected"] == 1


def test_a_node_cannot_contribute_or_score_for_another_s_grant(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task
    wanted = TrainTask.model_validate_json(task.body["task"])
    for_bob = contribution_for(wanted, granted[BOB], here.node_key(BOB), 1)
    with pytest.raises(ContributionRefused, match="another grant"):
        exchange.receive(task, here.node_id(ALICE), reply_of(for_bob))
    assert exchange.wanted(here.node_id(BOB), task)


def test_a_round_whose_members_all_decline_fails_with_their_reasons(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task
    for key in granted:
        exchange.receive(task, here.node_id(key), {"declined": "No time today."})
    here.worker().tick()
    assert exchange.finished()
    shown = here.client.get(f"/api/v1/rounds/{round_id}").json
    assert shown["state"] == RoundState.FAILED and "quorum" in shown["reason"]
    assert "No time today." in shown["absences"][0]["reason"]


@pytest.mark.usefixtures("each_database")
def test_a_token_sold_between_merge_and_release_sends_the_round_back_to_merge(here: Coordinator) -> None:
    spare = here.chain.mint_spare(here.chain.commercial, here.chain.alice)
    here.chain.anvil.finalize()
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, granted)
    here.worker().tick()
    first = here.ledger.facts(round_id).candidates_hash
    here.chain.alice.transfer(here.chain.commercial, spare.token_id, here.chain.carol.address)
    here.chain.anvil.finalize()
    here.worker().tick()
    shown = here.client.get(f"/api/v1/rounds/{round_id}").json
    dead = next(one for one in shown["contributions"] if one["state"] == "dead")
    assert dead["member"] == here.chain.alice.address
    assert f"Token {spare.token_id} of Commercial Nouns" in dead["reason"]
    assert here.ledger.facts(round_id).candidates_hash != first
    assert [one.grant.member for one in here.ledger.live_contributions(round_id)] == [here.chain.bob.address]


def test_a_token_that_moved_before_the_round_is_excluded_with_the_reason(here: Coordinator) -> None:
    spare = here.chain.mint_spare(here.chain.cc0, here.chain.alice)
    here.chain.anvil.finalize()
    here.join(ALICE)
    here.chain.alice.transfer(here.chain.cc0, spare.token_id, here.chain.carol.address)
    here.chain.anvil.finalize()
    here.join(BOB)
    round_id = here.start(here.order()).json["round_id"]
    excluded = here.client.get(f"/api/v1/rounds/{round_id}").json["exclusions"]
    moved = next(v for v in excluded if v["token"] == str(spare))
    assert here.chain.carol.address in moved["reason"]
    assert spare not in {t for ts in here.ledger.train_task(round_id).tokens.values() for t in ts}


def test_a_node_that_failed_is_asked_again_and_its_reason_is_shown_once(here: Coordinator) -> None:
    round_id, _ = opened(here, ALICE, BOB)
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task
    for _ in range(3):
        exchange.failed(task, here.node_id(ALICE), "No disk space.")
    assert exchange.wanted(here.node_id(ALICE), task)
    told = [one for one in here.client.get("/api/v1/events").json if "No disk space." in one["body"]["message"]]
    assert len(told) == 1


def test_a_sale_after_the_release_brings_a_second_one_without_that_contribution(chain: Chain, tmp_path: Path) -> None:
    spare = chain.mint_spare(chain.commercial, chain.alice)
    chain.anvil.finalize()
    here = Coordinator(chain, tmp_path, small_base(tmp_path / "base"))
    round_id, granted = opened(here, ALICE, BOB, CAROL)
    train(here, round_id, granted)
    here.worker().tick()
    score(here, round_id, granted)
    here.worker().tick()
    first = here.client.get("/api/v1/releases/latest").json
    assert (first["round_id"], first["kind"], first["parent"]) == (round_id, "training", None)
    assert len(first["manifest"]["contributions"]) == 3
    assert first["manifest"]["merge"]["gain"] == 1.0
    assert here.client.get(first["samples"]).content_type == "image/png"
    assert first["manifest"]["licence"] == "CBE-COMMERCIAL"
    policy = here.client.get(f"/ipfs/{first['cid']}/policy.json").data
    assert sha256(policy) == first["manifest"]["policy_hash"] == here.policy.digest()

    chain.alice.transfer(chain.commercial, spare.token_id, chain.buyer.address)
    chain.anvil.finalize()
    here.worker().tick()
    removal = here.client.get("/api/v1/rounds").json[0]
    assert (removal["kind"], removal["state"]) == ("removal", RoundState.SCORING)
    assert here.runs.started == [round_id, removal["round_id"]]
    del granted[ALICE]
    score(here, removal["round_id"], granted)
    here.worker().tick()

    second, withdrawn = here.client.get("/api/v1/releases").json
    assert second["parent"] == first["cid"] != second["cid"]
    assert withdrawn["withdrawn"] is True and second["withdrawn"] is False
    manifest = Manifest.model_validate(second["manifest"])
    assert {one.member for one in manifest.contributions} == {chain.bob.address, chain.carol.address}
    [gone] = manifest.removals
    assert (gone.member, gone.token) == (chain.alice.address, spare)
    assert chain.buyer.address in gone.reason
    page = here.client.get("/")
    assert page.status_code == 200 and second["cid"] in page.text
    here.service.database.close()


def test_the_last_contribution_s_death_is_told_and_nothing_is_released(here: Coordinator) -> None:
    spares = {
        key: here.chain.mint_spare(here.chain.commercial, wallet)
        for key, wallet in ((ALICE, here.chain.alice), (BOB, here.chain.bob))
    }
    here.chain.anvil.finalize()
    round_id, granted = opened(here, *spares)
    train(here, round_id, granted)
    here.worker().tick()
    here.chain.alice.transfer(here.chain.commercial, spares[ALICE].token_id, here.chain.carol.address)
    here.chain.bob.transfer(here.chain.commercial, spares[BOB].token_id, here.chain.carol.address)
    here.chain.anvil.finalize()
    here.worker().tick()
    shown = here.client.get(f"/api/v1/rounds/{round_id}").json
    assert shown["state"] == RoundState.FAILED
    assert "No live contribution is left" in shown["reason"]


# The rest of the HTTP side --------------------------------------------------------------------------------------------


def test_the_dao_says_everything_that_a_member_needs(here: Coordinator) -> None:
    dao = here.client.get("/api/v1/dao").json
    assert Policy.model_validate(dao["policy"]).digest() == dao["policy_hash"]
    assert dao["base"] == {"name": "small", "hash": here.settings.base_hash}
    assert (dao["domain"], dao["uri"]) == ("nouns.example", "https://nouns.example")
    assert dao["superlink"] == {"address": "127.0.0.1:1", "root_certificate": "PEM"}
    assert dao["signing_key"] is None


def test_the_key_that_signs_releases_is_told_before_there_is_one(here: Coordinator) -> None:
    ended = threading.Event()
    threading.Timer(0.2, ended.set).start()
    here.worker().run(ended)
    assert here.client.get("/api/v1/dao").json["signing_key"] == signing_key(here.settings.credentials).pem


def test_every_answer_keeps_browsers_to_this_site(here: Coordinator) -> None:
    for path in ("/", "/healthz", "/api/v1/rounds", "/api/v1/nowhere", "/ipfs/nothing"):
        headers = here.client.get(path).headers
        assert "default-src 'self'" in headers["Content-Security-Policy"], path
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_what_is_not_there_or_too_large_is_told_as_a_problem(here: Coordinator) -> None:
    problem(here.client.get("/api/v1/nowhere"), 404, "not-found")
    problem(here.client.get("/api/v1/rounds/none"), 404, "not-found")
    problem(here.client.get("/api/v1/releases/latest"), 404, "not-found")
    problem(here.client.get("/api/v1/events?after=x"), 400, "bad-input")
    json_of = partial(here.client.post, "/api/v1/rounds", content_type="application/json")
    problem(json_of(data=b"{"), 400, "bad-input")
    problem(json_of(data=b" " * (2 << 20)), 413, "request-entity-too-large")


def test_the_gateway_serves_files_cars_and_blocks(here: Coordinator) -> None:
    cid = here.service.store.put({"samples.png": b"not really a picture", "page.html": b"<script>"})
    shown = here.client.get(f"/ipfs/{cid}/samples.png")
    assert (shown.status_code, shown.content_type, shown.data) == (200, "image/png", b"not really a picture")
    kept = {"If-None-Match": shown.headers["ETag"]}
    assert "immutable" in shown.headers["Cache-Control"]
    assert here.client.get(f"/ipfs/{cid}/samples.png", headers=kept).status_code == 304
    assert here.client.get(f"/ipfs/{cid}?format=car", headers=kept).status_code == 200, "another form is another thing"
    assert here.client.get(f"/ipfs/{cid}/page.html").content_type == "application/octet-stream"
    car = here.client.get(f"/ipfs/{cid}?format=car")
    assert car.status_code == 200 and car.content_type.startswith("application/vnd.ipld.car")
    assert here.client.get(f"/ipfs/{cid}?format=raw").status_code == 200
    assert here.client.get(f"/ipfs/{cid}/missing.png").status_code == 404
