"""One member, several wallets: linked by the second's own signature, and counted once."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from test_coordinator_api import ALICE, BOB, CAROL, Coordinator, problem
from test_coordinator_api import here as here  # the fixture

from coordinator.identity import grants
from coordinator.identity.members import MAX_WALLETS, link, person_of, unlink, wallets_of
from protocol.errors import BadInput, Conflict, NotFound

pytestmark = pytest.mark.slow


def address(key: str) -> str:
    return str(Account.from_key(key).address)


def signed_text(here: Coordinator, key: str, link_to: str | None, signer: str | None = None) -> dict[str, str]:
    body = {"address": address(key), "link_to": link_to}
    message = here.client.post("/api/v1/session/text", json=body).json["message"]
    signature = Account.sign_message(encode_defunct(text=message), signer or key).signature
    return {"message": message, "signature": "0x" + bytes(signature).hex()}


def linked(here: Coordinator, headers: dict[str, str], body: dict[str, str]) -> Any:
    return here.client.post("/api/v1/wallets/link", json=body, headers=headers)


def live(here: Coordinator) -> list[str]:
    """Whose grants a round that opens now would ask."""
    with here.service.database.reading() as session:
        found = grants.live_grants(session, here.policy.digest(), here.settings.base_hash, here.service.now())
    return [grant.member for grant in found]


def test_a_second_wallet_is_linked_by_its_own_signature(here: Coordinator) -> None:
    alice = here.sign_in(ALICE)
    answer = linked(here, alice, signed_text(here, BOB, address(ALICE)))
    assert (answer.json["wallet"], set(answer.json["wallets"])) == (address(ALICE), {address(ALICE), address(BOB)})
    bob = here.sign_in(BOB)
    assert set(here.client.get("/api/v1/wallets", headers=bob).json["wallets"]) == {address(ALICE), address(BOB)}
    with here.service.database.reading() as session:
        assert person_of(session, address(ALICE)) == person_of(session, address(BOB)) != address(ALICE)
        assert person_of(session, address(CAROL)) == address(CAROL)


def test_linking_leaves_no_session_of_the_second_wallet_open(here: Coordinator) -> None:
    alice = here.sign_in(ALICE)
    linked(here, alice, signed_text(here, BOB, address(ALICE)))
    listed = here.client.get("/api/v1/sessions", headers=alice).json
    assert [one["wallet"] for one in listed] == [address(ALICE)]


def test_nothing_but_a_text_that_links_to_this_very_member_links(here: Coordinator) -> None:
    alice = here.sign_in(ALICE)
    plain = signed_text(here, BOB, None)
    assert "does not link" in problem(linked(here, alice, plain), 400, "bad-input")
    to_another = signed_text(here, BOB, address(CAROL))
    assert "does not link" in problem(linked(here, alice, to_another), 400, "bad-input")
    forged = signed_text(here, BOB, address(ALICE), signer=CAROL)
    problem(linked(here, alice, forged), 401, "not-signed-in")
    good = signed_text(here, BOB, address(ALICE))
    problem(linked(here, {}, good), 401, "not-signed-in")
    assert linked(here, alice, good).status_code == 200
    assert "nonce" in problem(linked(here, alice, good), 401, "not-signed-in")


def test_a_member_with_two_wallets_contributes_once_a_round(here: Coordinator) -> None:
    for key in (ALICE, BOB, CAROL):
        here.join(key)
    assert set(live(here)) == {address(key) for key in (ALICE, BOB, CAROL)}
    alice = here.sign_in(ALICE)
    linked(here, alice, signed_text(here, BOB, address(ALICE)))
    counted = live(here)
    assert len(counted) == 2 and address(CAROL) in counted
    here.client.post("/api/v1/wallets/unlink", json={"wallet": address(BOB)}, headers=alice)
    assert len(live(here)) == 3


def test_a_wallet_is_unlinked_by_its_own_member_only(here: Coordinator) -> None:
    alice, carol = here.sign_in(ALICE), here.sign_in(CAROL)
    linked(here, alice, signed_text(here, BOB, address(ALICE)))
    body = {"wallet": address(BOB)}
    problem(here.client.post("/api/v1/wallets/unlink", json=body, headers=carol), 404, "not-found")
    assert here.client.post("/api/v1/wallets/unlink", json=body, headers=alice).json["wallets"] == [address(ALICE)]
    problem(here.client.post("/api/v1/wallets/unlink", json=body, headers=alice), 404, "not-found")


def test_who_is_linked_to_whom_stands_in_no_log(here: Coordinator) -> None:
    linked(here, here.sign_in(ALICE), signed_text(here, BOB, address(ALICE)))
    assert here.client.get("/api/v1/events").json == []


def test_the_rules_of_linking(here: Coordinator) -> None:
    a, b, c, d = (f"0x{digit * 40}" for digit in "abcd")
    with here.service.database.writing() as session:
        with pytest.raises(BadInput, match="signed in"):
            link(session, a, a, 1)
        link(session, a, b, 1)
        assert link(session, b, a, 2) == [a, b]
        link(session, c, d, 3)
        with pytest.raises(Conflict, match="other wallets"):
            link(session, a, c, 4)
        before = person_of(session, a)
        assert unlink(session, a, b) == [a] and person_of(session, a) == before
        assert person_of(session, b) == b and wallets_of(session, b) == [b]
        with pytest.raises(NotFound):
            unlink(session, b, a)
        for number in range(MAX_WALLETS - 1):
            link(session, a, f"0x{number:040x}", 5)
        with pytest.raises(Conflict, match="at most"):
            link(session, a, b, 6)
