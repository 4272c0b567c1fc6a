"""A machine without a wallet gets its grant over HTTP, and a browser's session does no more than it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from test_coordinator_api import ALICE, BOB, NOBODY, Coordinator, problem
from test_coordinator_api import here as here  # the fixture

from coordinator.identity import devices
from protocol import node_key
from protocol.grant import Grant, require_signer, sign

pytestmark = pytest.mark.slow
PAGE = {"Origin": "https://nouns.example"}


def browser_sign_in(here: Coordinator, key: str, **headers: str) -> Any:
    """As the page does it; the cookie stays with the test client, which is on https like the coordinator."""
    asked = {"address": Account.from_key(key).address.lower()}
    text = here.client.post("/api/v1/session/text", json=asked, base_url="https://nouns.example").json
    signature = "0x" + bytes(Account.sign_message(encode_defunct(text=text["message"]), key).signature).hex()
    return here.client.post(
        "/api/v1/session/browser",
        json={"message": text["message"], "signature": signature},
        headers={**PAGE, **headers},
        base_url="https://nouns.example",
    )


def ask(here: Coordinator, key: str = ALICE) -> dict[str, Any]:
    public = node_key.public_of(here.node_key(key))
    answer = here.client.post("/api/v1/devices", json={"node_key": public, "name": "gpu-box"})
    assert answer.status_code == 201, answer.json
    return dict(answer.json)


def poll(here: Coordinator, device: dict[str, Any]) -> dict[str, Any]:
    return dict(here.client.post("/api/v1/devices/poll", json={"device_code": device["device_code"]}).json)


def tokens(here: Coordinator, headers: dict[str, str]) -> list[str]:
    return [v["token"] for v in here.client.get("/api/v1/verdicts", headers=headers).json["verdicts"] if v["allow"]]


def proposal(here: Coordinator, device: dict[str, Any], headers: dict[str, str], **changes: Any) -> Any:
    body = {"user_code": device["user_code"], "tokens": tokens(here, headers), "days": 30, **changes}
    return here.client.post("/api/v1/devices/proposal", json=body, headers=headers)


def grant_to(here: Coordinator, device: dict[str, Any], grant: Grant, key: str, headers: dict[str, str]) -> Any:
    body = {
        "user_code": device["user_code"],
        "grant": grant.model_dump(mode="json"),
        "signature": sign(grant, key),
    }
    return here.client.post("/api/v1/devices/grant", json=body, headers=headers)


def test_a_machine_gets_the_grant_that_a_wallet_elsewhere_signed(here: Coordinator) -> None:
    device, headers = ask(here), here.sign_in(ALICE)
    assert device["verification_uri_complete"] == f"https://nouns.example/device?code={device['user_code']}"
    assert poll(here, device)["state"] == "pending"
    grant = Grant.model_validate(proposal(here, device, headers).json["grant"])
    assert grant.node_key == node_key.public_of(here.node_key(ALICE))
    assert grant_to(here, device, grant, ALICE, headers).status_code == 201
    for _ in range(2):
        told = poll(here, device)
        assert told["state"] == "done"
        require_signer(Grant.model_validate(told["grant"]), told["signature"], Account.from_key(ALICE).address)
    assert here.registered.keys == [node_key.public_pem(grant.node_key)]
    again = grant_to(here, device, grant, ALICE, headers)
    assert "used" in problem(again, 409, "conflict")


def test_a_grant_for_another_machine_is_refused(here: Coordinator) -> None:
    device, other, headers = ask(here), ask(here, BOB), here.sign_in(ALICE)
    grant = Grant.model_validate(proposal(here, other, headers).json["grant"])
    assert "another machine" in problem(grant_to(here, device, grant, ALICE, headers), 403, "not-allowed")
    assert poll(here, device)["state"] == "pending"


def test_only_ones_own_admitted_tokens_for_a_usual_time_are_proposed(here: Coordinator) -> None:
    device, headers = ask(here), here.sign_in(ALICE)
    bobs = str(here.chain.token(here.chain.cc0, 3))
    personal = str(here.chain.token(here.chain.personal, 0))
    assert "is not" in problem(proposal(here, device, headers, tokens=[bobs]), 403, "not-allowed")
    assert "not admitted" in problem(proposal(here, device, headers, tokens=[personal]), 403, "not-allowed")
    assert "30, 90" in problem(proposal(here, device, headers, days=31), 400, "bad-input")
    problem(
        here.client.post("/api/v1/devices/proposal", json={"user_code": "x", "tokens": [], "days": 30}),
        401,
        "not-signed-in",
    )


def test_a_refused_machine_is_told_so_and_only_our_page_can_refuse(here: Coordinator) -> None:
    device = ask(here)
    body = {"user_code": device["user_code"]}
    for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        problem(here.client.post("/api/v1/devices/deny", json=body, headers=headers), 403, "not-allowed")
    assert here.client.post("/api/v1/devices/deny", json=body, headers=PAGE).json == {"state": "denied"}
    assert poll(here, device)["state"] == "denied"
    assert "used" in problem(here.client.post("/api/v1/devices/deny", json=body, headers=PAGE), 409, "conflict")


@pytest.mark.usefixtures("each_database")
def test_guessing_at_codes_is_stopped(here: Coordinator) -> None:
    headers = here.sign_in(ALICE)
    device = ask(here)
    for _ in range(devices.WRONG_CODES_EACH):
        answer = here.client.get("/device?code=ZZZZ-ZZZZ")
        assert answer.status_code == 404 and b"No machine waits" in answer.data
    assert here.client.get(f"/device?code={device['user_code']}").status_code == 429
    assert "Too many wrong codes" in problem(proposal(here, device, headers), 429, "too-many")
    elsewhere = {"REMOTE_ADDR": "203.0.113.9"}
    assert here.client.get(f"/device?code={device['user_code']}", environ_overrides=elsewhere).status_code == 200


@pytest.mark.parametrize(
    "body", [{"name": "box"}, {"node_key": "02" + "f" * 96, "name": "box"}, {"node_key": "no", "name": "x"}]
)
def test_a_machine_without_a_good_node_key_is_refused(here: Coordinator, body: dict[str, str]) -> None:
    problem(here.client.post("/api/v1/devices", json=body), 400, "bad-input")


def test_the_page_shows_what_to_compare_and_then_each_nft_with_its_verdict(here: Coordinator) -> None:
    device = ask(here)
    signed_out = here.client.get(f"/device?code={device['user_code'].lower()}").text
    assert device["user_code"] in signed_out and "gpu-box" in signed_out
    assert node_key.fingerprint(node_key.public_of(here.node_key(ALICE))) in signed_out
    assert "Sign in with your wallet" in signed_out and "Personal Nouns" not in signed_out
    assert browser_sign_in(here, ALICE).status_code == 200
    page = here.client.get(f"/device?code={device['user_code']}", base_url="https://nouns.example")
    assert "does not allow derivatives" in page.text and "Sign the grant" in page.text
    assert "script-src" not in page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "<script>" not in page.text and "onclick" not in page.text and "style=" not in page.text


def test_a_wallet_that_owns_nothing_is_told_so_on_the_page(here: Coordinator) -> None:
    device = ask(here)
    browser_sign_in(here, NOBODY)
    page = here.client.get(f"/device?code={device['user_code']}", base_url="https://nouns.example").text
    assert "owns no NFT" in page and "Sign the grant" not in page


def test_a_browsers_session_is_out_of_reach_of_scripts_and_of_other_sites(here: Coordinator) -> None:
    answer = browser_sign_in(here, ALICE)
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-coterie=")
    assert (
        all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/")) and "Domain" not in cookie
    )
    assert "token" not in answer.json
    ours = {"base_url": "https://nouns.example"}
    assert here.client.get("/api/v1/sessions", **ours).status_code == 200
    for headers in ({}, {"Origin": "https://evil.example"}):
        refused = here.client.post("/api/v1/sessions/end", json={"which": "all"}, headers=headers, **ours)
        problem(refused, 403, "not-allowed")
    assert "own pages" in problem(browser_sign_in(here, ALICE, Origin="https://evil.example"), 403, "not-allowed")


def test_sessions_are_listed_and_ended_by_their_wallet_only(here: Coordinator) -> None:
    first, second, bobs = here.sign_in(ALICE), here.sign_in(ALICE), here.sign_in(BOB)
    listed = here.client.get("/api/v1/sessions", headers=first).json
    assert len(listed) == 2 and sum(one["this"] for one in listed) == 1
    other = next(one["session_id"] for one in listed if not one["this"])
    unknown = here.client.post("/api/v1/sessions/end", json={"which": other}, headers=bobs)
    problem(unknown, 404, "not-found")
    assert here.client.post("/api/v1/sessions/end", json={"which": other}, headers=first).json == {"ended": 1}
    problem(here.client.get("/api/v1/verdicts", headers=second), 401, "not-signed-in")
    assert here.client.post("/api/v1/sessions/end", json={"which": "all"}, headers=first).json == {"ended": 1}
    problem(here.client.get("/api/v1/sessions", headers=first), 401, "not-signed-in")
    assert len(here.client.get("/api/v1/sessions", headers=bobs).json) == 1


def test_behind_a_proxy_guesses_are_counted_by_the_callers_address(here: Coordinator, tmp_path: Path) -> None:
    from coordinator.web.app import create_app

    settings = here.settings.model_copy(update={"proxies": 1})
    client = create_app(settings, here.registered).test_client()
    for number in range(devices.WRONG_CODES_EACH + 2):
        caller = {"X-Forwarded-For": f"198.51.100.1, 203.0.113.{number}"}
        assert client.get("/device?code=ZZZZ-ZZZZ", headers=caller).status_code == 404
