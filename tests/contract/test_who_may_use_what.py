"""Every route with every kind of caller, against the table: what is not allowed there does not happen."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Chain
from eth_account import Account
from round_parts import PLAN, write_small_base
from test_coordinator_api import ADMIN, ALICE, BOB, CAROL, NOBODY, Coordinator
from web_parts import UNCOUNTED, DocumentedClient

from coordinator.web.access import SESSIONS, WHO, Who
from coordinator.web.app import create_app
from protocol import node_key
from protocol.grant import Grant, sign
from protocol.node_key import RetireKey
from protocol.progress import Progress

pytestmark = pytest.mark.slow

ID = "ab" * 8
CALLERS = ("nobody", "another member", "the owner", "an admin's session", "an ended session")
Body = dict[str, Any]


@pytest.fixture(scope="module")
def here(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One coordinator for all: alice has given a grant, and what is refused changes nothing."""
    chain.anvil.finalize()
    folder = tmp_path_factory.mktemp("web")
    there = Coordinator(chain, folder, write_small_base(folder / "base"))
    there.service.database.close()
    there.settings.superlink_file.unlink()
    there.settings = there.settings.model_copy(update=UNCOUNTED)
    there.app = create_app(there.settings, there.registered)
    there.app.test_client_class = DocumentedClient
    there.client = there.app.test_client()
    yield there
    there.service.database.close()


@pytest.fixture(scope="module")
def sessions(here: Coordinator) -> dict[str, dict[str, str]]:
    """The headers that each kind of caller sends."""
    ended = here.sign_in(CAROL)
    here.client.post("/api/v1/sessions/end", json={"which": "this"}, headers=ended)
    keys = {"another member": BOB, "the owner": ALICE, "an admin's session": ADMIN}
    return {"nobody": {}, "an ended session": ended, **{name: here.sign_in(key) for name, key in keys.items()}}


@pytest.fixture(scope="module")
def granted(here: Coordinator) -> Grant:
    """What alice has granted."""
    grant_id = here.join(ALICE)
    return Grant.model_validate(here.client.get(f"/api/v1/grants/{grant_id}").json["grant"])


def address(key: str) -> str:
    return str(Account.from_key(key).address)


def place(rule: str, **named: str) -> str:
    """The route's address, with names that nothing has where none are given."""
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: named.get(found[1], ID), rule)


# Orders ---------------------------------------------------------------------------------------------------------------

ORDERS = [route for route, who in WHO.items() if who in (Who.ADMIN_ORDER, Who.MEMBER_ORDER)]


def order_for(here: Coordinator, granted: Grant, route: str, actor: str) -> tuple[str, Any]:
    """The order that this route takes, by this actor, and the name it is sent by: of any kind that there is."""
    body = next(one.body for one in here.app.described.values() if one.route == route)  # type: ignore[attr-defined]
    ((name, kind),) = ((n, field.annotation) for n, field in body.model_fields.items() if n != "signature")
    now = int(time.time())
    known: Body = {
        "dao": here.policy.dao,
        "chain_id": here.policy.chain_id,
        "nonce": f"nonce{time.monotonic_ns()}",
        "expires": now + 600,
        "admin": address(actor),
        "member": address(actor),
        "reason": "A test.",
        "round_id": ID,
        "contribution_id": ID,
        "grant_hash": granted.digest(),
        "deadline": now + 3600,
        "plan": PLAN,
        "policy_hash": here.policy.digest(),
        "base_hash": here.settings.base_hash,
    }
    missing = [n for n, field in kind.model_fields.items() if field.is_required() and n not in known]
    assert not missing, f"{kind.__name__} has {missing}: say here what to send"
    return name, kind(**{n: known[n] for n in kind.model_fields if n in known})


def send(here: Coordinator, granted: Grant, route: str, actor: str, signer: str, headers: Body) -> Any:
    name, order = order_for(here, granted, route, actor)
    body = {name: order.model_dump(mode="json"), "signature": sign(order, signer)}
    return here.client.post(place(route.split()[1], grant_id=granted.grant_id), json=body, headers=headers)


@pytest.mark.parametrize("route", ORDERS)
@pytest.mark.parametrize("caller", CALLERS)
def test_only_the_right_wallets_signature_gives_an_order(
    here: Coordinator, granted: Grant, sessions: dict[str, dict[str, str]], route: str, caller: str
) -> None:
    right = ADMIN if WHO[route] is Who.ADMIN_ORDER else ALICE
    for actor, signer in ((right, BOB), (BOB, BOB), (NOBODY, NOBODY), (BOB, right)):
        answer = send(here, granted, route, actor, signer, sessions[caller])
        assert (answer.status_code, answer.json["code"]) == (403, "not-allowed"), (actor, signer)
    assert here.client.get("/api/v1/rounds").json == []
    assert here.client.get(f"/api/v1/grants/{granted.grant_id}").json["revoked_at"] is None


# Sessions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", WHO)
@pytest.mark.parametrize("caller", CALLERS)
def test_a_session_opens_what_the_table_says_and_nothing_else(
    here: Coordinator, granted: Grant, sessions: dict[str, dict[str, str]], route: str, caller: str
) -> None:
    """With a body that says nothing: whoever may, is told so (400); whoever may not, is told that first."""
    method, rule = route.split()
    body = {} if method == "GET" else {"json": {}}
    answer = here.client.open(place(rule), method=method, headers=sessions[caller], **body)
    who, signed_in = WHO[route], caller not in ("nobody", "an ended session")
    if who in SESSIONS and not signed_in:
        assert (answer.status_code, answer.json["code"]) == (401, "not-signed-in")
    elif who is Who.ADMIN and caller != "an admin's session":
        assert answer.status_code == 403
    elif rule.startswith("/admin"):
        assert answer.status_code in {200, 303, 404}, "a page's form, which nothing is missing from"
    elif method != "GET":
        assert (answer.status_code, answer.json["code"]) == (400, "bad-input")
    elif route == "GET /api/v1/verdicts" and caller == "an admin's session":
        assert "Nothing of" in answer.json["detail"], "this admin owns nothing to train on"
    else:
        assert answer.status_code in {200, 400, 404, 503}, "nothing has the made-up names, and there is no SuperLink"


# Owners ---------------------------------------------------------------------------------------------------------------


def grant_of(here: Coordinator, chain: Chain, key: str) -> Body:
    grant = here.grant(key, (here.chain.token(chain.cc0, 3),), warrant="")
    return {"grant": grant.model_dump(mode="json"), "signature": sign(grant, key)}


def device_of(here: Coordinator, key: str) -> str:
    asked = {"node_key": node_key.public_of(here.node_key(key)), "name": "gpu-box"}
    return str(here.client.post("/api/v1/devices", json=asked).json["user_code"])


def test_only_its_owner_gives_a_grant(here: Coordinator, chain: Chain, sessions: dict[str, dict[str, str]]) -> None:
    """Bob's grant, duly signed: no other session hands it in, with a machine's code or without one."""
    body = grant_of(here, chain, BOB)
    coded = {**body, "user_code": device_of(here, BOB)}
    for caller in ("the owner", "an admin's session"):  # the owner of something else
        for path, sent in (("grants", body), ("devices/grant", coded)):
            answer = here.client.post(f"/api/v1/{path}", json=sent, headers=sessions[caller])
            assert (answer.status_code, answer.json["code"]) == (403, "not-allowed"), (path, caller)
    assert here.client.post("/api/v1/devices/grant", json=coded, headers=sessions["another member"]).status_code == 201


def test_a_member_ends_and_sees_its_own_sessions_only(here: Coordinator, sessions: dict[str, dict[str, str]]) -> None:
    mine = here.client.get("/api/v1/sessions", headers=sessions["the owner"]).json
    theirs = here.client.get("/api/v1/sessions", headers=sessions["another member"]).json
    assert {one["wallet"] for one in mine} == {address(ALICE)}
    for one in theirs:
        asked = {"which": one["session_id"]}
        answer = here.client.post("/api/v1/sessions/end", json=asked, headers=sessions["the owner"])
        assert answer.status_code == 404
    unlinked = {"wallet": address(BOB)}
    assert here.client.post("/api/v1/wallets/unlink", json=unlinked, headers=sessions["the owner"]).status_code == 404


# Machines, nodes, wallets, pages --------------------------------------------------------------------------------------


def test_without_the_secret_the_signature_or_the_page_nothing_happens(here: Coordinator, chain: Chain) -> None:
    code, old = device_of(here, ALICE), here.node_key(ALICE)
    order = RetireKey(dao=here.policy.dao, old=node_key.public_of(old), new=node_key.public_of(here.node_key(BOB)))
    forged = node_key.sign(here.node_key(BOB), order.canonical())
    message = here.message(ALICE)
    told = Progress(round_id=ID, node_key=order.old, stage="training", step=1, steps=2, seconds_left=None, at=3)
    tried = {
        Who.DEVICE: here.client.post("/api/v1/devices/poll", json={"device_code": code}),
        Who.NODE: here.client.post(
            "/api/v1/node-keys/retire", json={"retire_key": order.model_dump(mode="json"), "signature": forged}
        ),
        Who.NODE_MESSAGE: here.client.post(
            f"/api/v1/rounds/{ID}/progress",
            json={
                "progress": told.model_dump(mode="json"),
                "signature": node_key.sign(here.node_key(BOB), told.canonical()),
            },
        ),
        Who.WALLET: here.post_session(message, BOB),
        Who.OWN_PAGE: here.client.post("/api/v1/devices/deny", json={"user_code": code}),
    }
    assert {who: answer.status_code for who, answer in tried.items()} == {
        Who.DEVICE: 404,
        Who.NODE: 403,
        Who.NODE_MESSAGE: 403,
        Who.WALLET: 401,
        Who.OWN_PAGE: 403,
    }


# What each may ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", [route for route in ORDERS if route != "POST /api/v1/rounds"])
def test_the_right_wallets_order_needs_no_session(here: Coordinator, granted: Grant, route: str) -> None:
    right = ADMIN if WHO[route] is Who.ADMIN_ORDER else ALICE
    answer = send(here, granted, route, right, right, {})
    assert answer.status_code in {200, 404}, "of what is not there, the right wallet is told just that"


def test_an_order_sent_twice_with_its_key_gets_the_first_answer(here: Coordinator) -> None:
    for key in (BOB, CAROL):
        here.join(key)
    order = here.order()
    body = {"start_round": order.model_dump(mode="json"), "signature": sign(order, ADMIN)}
    key = {"Idempotency-Key": "the-first-round"}
    first, second = (here.client.post("/api/v1/rounds", json=body, headers=key) for _ in range(2))
    assert first.status_code == 201, first.json
    assert (second.status_code, second.json) == (201, first.json)
    without = here.client.post("/api/v1/rounds", json=body)
    assert (without.status_code, without.json["code"]) == (409, "conflict")
    assert len(here.client.get("/api/v1/rounds").json) == 1
