"""A grant is renewed in a browser, and the machine finds it by itself: at the coordinator, checked on its own chain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from round_parts import PLAN
from test_coordinator_api import ALICE, BOB, Coordinator, problem
from test_coordinator_api import here as here  # the fixture
from werkzeug.serving import make_server

from client.config import MemberSettings
from client.coordinator_api import CoordinatorApi
from client.node.work import MemberWork
from client.wallet.grant import StoredGrant, stored_grants
from client.wallet.renewal import renewed
from coordinator.database import GrantRow
from protocol import node_key
from protocol.contribution import TrainTask
from protocol.errors import NotAllowed
from protocol.grant import Grant, sign


@pytest.fixture
def api(here: Coordinator) -> Iterator[CoordinatorApi]:
    """The coordinator's web side at a port."""
    server = make_server("127.0.0.1", 0, here.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield CoordinatorApi(f"http://127.0.0.1:{server.port}")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def machine(here: Coordinator, api: CoordinatorApi, tmp_path: Path) -> MemberSettings:
    """Alice's: it keeps the grant that she gave."""
    grant_id = here.join(ALICE)
    signed = api.signed_grant(grant_id)
    home = tmp_path / "home"
    StoredGrant(
        grant=signed.grant, signature=signed.signature, policy=here.policy, coordinator=api.url, gateways=()
    ).save(home)
    return MemberSettings(home=home, rpc_url=here.chain.url)


def public(here: Coordinator) -> str:
    return node_key.public_of(here.node_key(ALICE))


def proposal(here: Coordinator, grant_id: str, key: str = ALICE, days: int = 90) -> Any:
    return here.client.post(f"/api/v1/grants/{grant_id}/renewal", json={"days": days}, headers=here.sign_in(key))


pytestmark = pytest.mark.slow


def test_a_machine_goes_on_with_the_grant_that_its_member_renewed_elsewhere(
    here: Coordinator, api: CoordinatorApi, machine: MemberSettings
) -> None:
    [before] = stored_grants(machine.home)
    assert renewed(api, machine, public(here)) is None
    told = proposal(here, before.grant.grant_id).json
    grant = Grant.model_validate(told["grant"])
    assert (grant.tokens, grant.node_key, told["left_out"]) == (before.grant.tokens, before.grant.node_key, [])
    assert here.give(grant, ALICE).status_code == 201
    assert api.grant_stands(before.grant.grant_id) is False
    found = renewed(api, machine, public(here))
    assert found and found.grant == grant
    assert [one.grant.grant_id for one in stored_grants(machine.home)] == [grant.grant_id, before.grant.grant_id]
    assert renewed(api, machine, public(here)) is None


def test_a_node_that_is_asked_under_a_renewed_grant_fetches_it_first(
    here: Coordinator, api: CoordinatorApi, machine: MemberSettings
) -> None:
    [before] = stored_grants(machine.home)
    grant = Grant.model_validate(proposal(here, before.grant.grant_id).json["grant"])
    here.give(grant, ALICE)
    task = TrainTask(
        round_id="round-1",
        dao=grant.dao,
        plan=PLAN,
        policy_hash=grant.policy_hash,
        base_hash=grant.base_hash,
        snapshot=here.chain.snapshot(),
        tokens={grant.grant_id: grant.tokens},
    )
    machine.node_key.write_bytes(here.node_key(ALICE).read_bytes())
    answer = MemberWork(machine).handle("train", {"task": task.canonical()})
    assert "another base model" in str(answer["declined"])  # the grant was found before
    assert grant in [one.grant for one in stored_grants(machine.home)]


def test_a_machine_takes_no_renewal_that_its_member_s_wallet_has_not_signed(
    here: Coordinator, api: CoordinatorApi, machine: MemberSettings
) -> None:
    [before] = stored_grants(machine.home)
    grant = Grant.model_validate(proposal(here, before.grant.grant_id).json["grant"])
    here.give(grant, ALICE)
    with here.service.database.writing() as session:
        session.get_one(GrantRow, grant.grant_id).signature = sign(grant, BOB)
    with pytest.raises(NotAllowed, match="signature"):
        renewed(api, machine, public(here))
    assert [one.grant for one in stored_grants(machine.home)] == [before.grant]


def test_a_renewal_is_the_wallet_s_own_for_a_usual_time_and_says_what_it_leaves_out(here: Coordinator) -> None:
    spare = here.chain.mint_spare(here.chain.cc0, here.chain.alice)
    here.chain.anvil.finalize()
    grant_id = here.join(ALICE)
    assert "Sign in" in proposal(here, grant_id, BOB).json["hint"]
    assert "30, 90" in problem(proposal(here, grant_id, days=31), 400, "bad-input")
    here.chain.alice.transfer(here.chain.cc0, spare.token_id, here.chain.buyer.address)
    here.chain.anvil.finalize()
    told = proposal(here, grant_id).json
    assert str(spare) not in told["grant"]["tokens"]
    [left_out] = told["left_out"]
    assert f"Nouns #{spare.token_id}" in left_out and "belongs to" in left_out
    here.give(Grant.model_validate(told["grant"]), ALICE)
    assert "counts no more" in problem(proposal(here, grant_id), 403, "not-allowed")
