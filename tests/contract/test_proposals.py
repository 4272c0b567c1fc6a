"""An order that a page asks for is one that the coordinator takes once it is signed, and no other."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from test_coordinator_api import ADMIN, ALICE, NOBODY, Coordinator, problem
from test_coordinator_api import here as here  # the fixture

from coordinator.identity.grants import granted
from coordinator.web.proposals import KINDS
from protocol.acts import MAX_ACT_SECONDS

pytestmark = pytest.mark.slow
ROUND = "ab" * 8


def proposal(here: Coordinator, key: str, kind: str, seconds: int = 600, **fields: Any) -> Any:
    body = {"kind": kind, "fields": fields, "seconds": seconds}
    return here.client.post("/api/v1/acts/typed-data", json=body, headers=here.sign_in(key))


def sent(here: Coordinator, path: str, told: Any, key: str) -> Any:
    """As a page does: the wallet signs the text that it is given."""
    assert told.status_code == 200, told.json
    signable = encode_typed_data(full_message=json.loads(told.json["typed_data"]))
    signature = "0x" + bytes(Account.sign_message(signable, key).signature).hex()
    return here.client.post(f"/api/v1/{path}", json={told.json["kind"]: told.json["order"], "signature": signature})


def test_an_admin_starts_and_cancels_a_round_and_a_member_revokes_with_what_a_page_was_given(here: Coordinator) -> None:
    grant_id = here.join(ALICE)
    start = proposal(here, ADMIN, "start_round", plan={"rank": 4, "quorum": 1})
    assert start.json["order"]["plan"]["rank"] == 4
    round_id = sent(here, "rounds", start, ADMIN).json["round_id"]
    cancel = proposal(here, ADMIN, "cancel_round", round_id=round_id, reason="Wrong captions.")
    assert sent(here, f"rounds/{round_id}/cancellation", cancel, ADMIN).json == {"round_id": round_id}

    with here.service.database.reading() as session:
        digest = granted(session, grant_id)[0].digest()
    revocation = proposal(here, ALICE, "revoke_grant", grant_hash=digest)
    assert revocation.json["signer"] == Account.from_key(ALICE).address
    assert "not" in problem(sent(here, f"grants/{grant_id}/revocation", revocation, NOBODY), 403, "not-allowed")
    assert sent(here, f"grants/{grant_id}/revocation", revocation, ALICE).json["grant_id"] == grant_id


def test_a_proposal_is_fresh_and_ends_soon(here: Coordinator) -> None:
    first, second = (proposal(here, ADMIN, "cancel_round", round_id=ROUND, reason="So.").json for _ in range(2))
    assert first["order"]["nonce"] != second["order"]["nonce"]
    assert 0 < first["order"]["expires"] - time.time() <= 600
    forged = proposal(here, ADMIN, "cancel_round", round_id=ROUND, reason="So.", dao="Evil", nonce="known-before")
    assert (forged.json["order"]["dao"], forged.json["order"]["nonce"] == "known-before") == (here.policy.dao, False)
    long = proposal(here, ADMIN, "cancel_round", MAX_ACT_SECONDS + 1, round_id=ROUND, reason="So.")
    assert "seconds" in problem(long, 400, "bad-input")


def test_every_order_that_a_route_takes_can_be_proposed_and_no_other(here: Coordinator) -> None:
    bodies = [set(one.body.model_fields) for one in here.app.described.values() if one.body]  # type: ignore[attr-defined]
    signed = {name for names in bodies if len(names) == 2 and "signature" in names for name in names}
    assert signed - {"signature", "grant", "message", "retire_key", "progress"} == set(KINDS)


def test_whoever_signs_elsewhere_is_named(here: Coordinator) -> None:
    safe = Account.from_key(NOBODY).address
    told = proposal(here, ADMIN, "cancel_round", 3600, round_id=ROUND, reason="So.", admin=safe)
    assert (told.json["signer"], told.json["order"]["admin"]) == (safe, safe)


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("burn_everything", {}, "no order of the kind"),
        ("cancel_round", {"round_id": ROUND}, "fields.reason"),
        ("cancel_round", {"round_id": "x", "reason": "So."}, "fields.round_id"),
        ("revoke_grant", {"grant_hash": "ab" * 32, "reason": "So."}, "fields.reason"),
        ("start_round", {"plan": {"rank": 0}}, "fields.plan.rank"),
    ],
)
def test_what_no_order_says_is_refused_by_its_name(
    here: Coordinator, kind: str, fields: dict[str, Any], said: str
) -> None:
    assert said in problem(proposal(here, ADMIN, kind, **fields), 400, "bad-input")


def test_nobody_gets_a_proposal_without_signing_in(here: Coordinator) -> None:
    body = {"kind": "cancel_round", "fields": {}}
    problem(here.client.post("/api/v1/acts/typed-data", json=body), 401, "not-signed-in")
