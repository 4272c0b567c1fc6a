"""Acts that matter, over HTTP and on a real chain: who may do them, once and in time, and what they do.

The members are wallets with keys, real Safes, and one Safe that is not deployed yet.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Chain
from eth_account import Account
from published_parts import small_base
from round_parts import PLAN, adapter_for, contribution_for, reply_of, write_small_base
from sqlalchemy import select
from test_coordinator_api import (
    ADMIN,
    ALICE,
    BOB,
    CAROL,
    Coordinator,
    opened,
    policy_of,
    problem,
    score,
    state_of,
    train,
)
from web3.contract import Contract

from contracts_abi.model import Snapshot, Token
from contracts_abi.signatures import at_block, message_hash
from coordinator.database import ActRow
from coordinator.rounds.transitions import RoundState
from deploy.devchain.anvil import ANVIL_KEYS
from deploy.devchain.safes import SENTINEL, Safes, safe_signature
from protocol.acts import (
    AcceptContribution,
    Act,
    CancelRound,
    ExtendRound,
    PauseRound,
    PublishRound,
    QuarantineContribution,
    RemoveContribution,
    ResumeRound,
    RevokeGrant,
)
from protocol.contribution import TrainTask
from protocol.errors import Conflict, ContributionRefused, NotAllowed
from protocol.grant import Grant, sign, signing_hash
from protocol.manifest import Manifest
from protocol.policy import AdminSafe, AdminWallets, Policy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn_here")]

ONE, TWO, THREE = ANVIL_KEYS[6:9]
OWNERS = [Account.from_key(key).address for key in (ONE, TWO, THREE)]
ROUND, CONTRIBUTION = "ab" * 8, "cd" * 8


@pytest.fixture(scope="module")
def safes(chain: Chain) -> Safes:
    return Safes(chain.admin)


@pytest.fixture(scope="module")
def together(safes: Safes) -> Contract:
    """A Safe of three, two of whom act for it."""
    return safes.deploy(safes.plan(OWNERS, 2, salt=21))


@pytest.fixture
def here(chain: Chain, tmp_path: Path) -> Iterator[Coordinator]:
    yield from coordinator(chain, tmp_path, None)


def coordinator(chain: Chain, folder: Path, policy: Policy | None) -> Iterator[Coordinator]:
    chain.anvil.finalize()
    there = Coordinator(chain, folder, write_small_base(folder / "base"), policy)
    yield there
    there.service.database.close()


def address(key: str) -> str:
    return str(Account.from_key(key).address)


def head(here: Coordinator) -> dict[str, Any]:
    nonce, expires = f"nonce{time.monotonic_ns()}", int(time.time()) + 600
    return {"dao": here.policy.dao, "chain_id": here.policy.chain_id, "nonce": nonce, "expires": expires}


def cancel(here: Coordinator, round_id: str = ROUND, admin: str = ADMIN) -> CancelRound:
    return CancelRound(**head(here), admin=address(admin), round_id=round_id, reason="Wrong captions.")


def remove(here: Coordinator, contribution_id: str = CONTRIBUTION, admin: str = ADMIN) -> RemoveContribution:
    fields = {"admin": address(admin), "contribution_id": contribution_id, "reason": "A court said so."}
    return RemoveContribution(**head(here), **fields)


def revoke(here: Coordinator, grant: Grant) -> RevokeGrant:
    return RevokeGrant(**head(here), member=grant.member, grant_hash=grant.digest())


def pause(here: Coordinator, round_id: str = ROUND, admin: str = ADMIN) -> PauseRound:
    return PauseRound(**head(here), admin=address(admin), round_id=round_id, reason="The disk is full.")


def resume(here: Coordinator, round_id: str = ROUND, admin: str = ADMIN) -> ResumeRound:
    return ResumeRound(**head(here), admin=address(admin), round_id=round_id)


def extend(here: Coordinator, round_id: str = ROUND, admin: str = ADMIN, deadline: int = 0) -> ExtendRound:
    deadline = deadline or int(time.time()) + 3590
    return ExtendRound(**head(here), admin=address(admin), round_id=round_id, deadline=deadline)


def publish(here: Coordinator, round_id: str = ROUND, admin: str = ADMIN) -> PublishRound:
    return PublishRound(**head(here), admin=address(admin), round_id=round_id)


def set_aside(here: Coordinator, contribution_id: str = CONTRIBUTION, admin: str = ADMIN) -> QuarantineContribution:
    fields = {"admin": address(admin), "contribution_id": contribution_id, "reason": "An odd norm."}
    return QuarantineContribution(**head(here), **fields)


def accept(here: Coordinator, contribution_id: str = CONTRIBUTION, admin: str = ADMIN) -> AcceptContribution:
    return AcceptContribution(**head(here), admin=address(admin), contribution_id=contribution_id)


ADMINS_ORDERS = (cancel, pause, resume, extend, publish, remove, set_aside, accept)


def give(here: Coordinator, act: Act, signature: str, **kwargs: Any) -> Any:
    path, name = {
        CancelRound: (f"rounds/{act.subject}/cancellation", "cancel_round"),
        PauseRound: (f"rounds/{act.subject}/pause", "pause_round"),
        ResumeRound: (f"rounds/{act.subject}/resumption", "resume_round"),
        ExtendRound: (f"rounds/{act.subject}/extension", "extend_round"),
        PublishRound: (f"rounds/{act.subject}/publication", "publish_round"),
        RemoveContribution: (f"contributions/{act.subject}/removal", "remove_contribution"),
        QuarantineContribution: (f"contributions/{act.subject}/quarantine", "quarantine_contribution"),
        AcceptContribution: (f"contributions/{act.subject}/acceptance", "accept_contribution"),
        RevokeGrant: (f"grants/{act.subject}/revocation", "revoke_grant"),
    }[type(act)]
    return here.client.post(
        f"/api/v1/{path}", json={name: act.model_dump(mode="json"), "signature": signature}, **kwargs
    )


def given(here: Coordinator, grant_id: str) -> Grant:
    return Grant.model_validate(here.client.get(f"/api/v1/grants/{grant_id}").json["grant"])


def acts_kept(here: Coordinator) -> list[ActRow]:
    with here.service.database.reading() as session:
        return list(session.scalars(select(ActRow)))


# Who may, once, and in time -------------------------------------------------------------------------------------------


def test_a_stolen_session_can_do_nothing_that_matters(here: Coordinator) -> None:
    """For every such act the thief has the admin's or the member's session, and no wallet to sign with."""
    grant_id = here.join(ALICE)
    grant = given(here, grant_id)
    sessions = {key: here.sign_in(key) for key in (ADMIN, ALICE)}
    unsigned = ("0x", "0x" + "00" * 65)
    for signature in (*unsigned, "", "11" * 65):
        for act, key in (*((order(here), ADMIN) for order in ADMINS_ORDERS), (revoke(here, grant), ALICE)):
            problem(give(here, act, signature, headers=sessions[key]), 403, "not-allowed")
        start = {"start_round": here.order().model_dump(mode="json"), "signature": signature}
        problem(here.client.post("/api/v1/rounds", json=start, headers=sessions[ADMIN]), 403, "not-allowed")
        other = here.grant(ALICE, grant.tokens, expires=int(time.time()) + 7200)
        body = {"grant": other.model_dump(mode="json"), "signature": signature}
        problem(here.client.post("/api/v1/grants", json=body, headers=sessions[ALICE]), 403, "not-allowed")
    signed_in_only = {rule.rule for rule in here.app.url_map.iter_rules() if "acts." in rule.endpoint}
    assert len(signed_in_only) == len(ADMINS_ORDERS) + 1, "a new act belongs into this test"


@pytest.mark.parametrize("order", ADMINS_ORDERS)
def test_only_an_admin_gives_an_admin_s_orders(here: Coordinator, order: Callable[..., Act]) -> None:
    by_alice = order(here, admin=ALICE)
    assert "admin role" in problem(give(here, by_alice, sign(by_alice, ALICE)), 403, "not-allowed")
    as_admin = order(here)
    assert "not" in problem(give(here, as_admin, sign(as_admin, ALICE)), 403, "not-allowed")
    assert problem(give(here, as_admin, sign(as_admin, ADMIN)), 404, "not-found").startswith("There is no")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"expires": 1}, "has expired"),
        ({"expires": int(time.time()) + 25 * 3600}, "more than a day"),
        ({"dao": "Another"}, "another DAO"),
        ({"chain_id": 1}, "another chain"),
    ],
)
def test_an_order_for_another_time_or_place_is_refused(here: Coordinator, changes: dict[str, Any], why: str) -> None:
    for act in (*(order(here) for order in ADMINS_ORDERS), revoke(here, here.grant(ADMIN, ()))):
        changed = act.model_copy(update=changes)
        assert why in problem(give(here, changed, sign(changed, ADMIN)), 403, "not-allowed")
    start = here.order().model_copy(update=changes)
    assert why in problem(here.start(start), 403, "not-allowed")
    assert acts_kept(here) == []


def test_an_order_is_taken_only_where_it_says_what_it_is_about(here: Coordinator) -> None:
    for name, act, path in (
        ("cancel_round", cancel(here), f"rounds/{'ef' * 8}/cancellation"),
        ("pause_round", pause(here), f"rounds/{'ef' * 8}/pause"),
        ("accept_contribution", accept(here), f"contributions/{'ef' * 8}/acceptance"),
    ):
        body = {name: act.model_dump(mode="json"), "signature": sign(act, ADMIN)}
        answer = here.client.post(f"/api/v1/{path}", json=body)
        assert "is about" in problem(answer, 400, "bad-input")


def test_a_wallet_is_shown_what_follows_from_the_order(here: Coordinator) -> None:
    for act in (*(order(here) for order in ADMINS_ORDERS), revoke(here, here.grant(ALICE, ()))):
        shown = act.typed_data()
        assert shown["message"]["effect"] == act.effect
        assert [one["name"] for one in shown["types"][type(act).__name__]] == list(shown["message"])


# What they do ---------------------------------------------------------------------------------------------------------


def test_a_cancelled_round_ends_takes_nothing_more_and_is_cancelled_once(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task
    act = cancel(here, round_id)
    assert give(here, act, sign(act, ADMIN)).json == {"round_id": round_id}
    shown = here.client.get(f"/api/v1/rounds/{round_id}").json
    assert shown["state"] == RoundState.CANCELLED
    assert "Wrong captions." in shown["reason"] and address(ADMIN) in shown["reason"]
    assert exchange.finished()
    wanted = TrainTask.model_validate_json(task.body["task"])
    late = contribution_for(wanted, granted[ALICE], here.node_key(ALICE), 1, adapter=adapter_for(1, here.shapes))
    with pytest.raises(Conflict, match="takes no contributions"):
        exchange.receive(task, here.node_id(ALICE), reply_of(late))
    here.worker().tick()
    assert "given before" in problem(give(here, act, sign(act, ADMIN)), 409, "conflict")
    again = cancel(here, round_id)
    assert "cancelled" in problem(give(here, again, sign(again, ADMIN)), 409, "conflict")
    [kept] = acts_kept(here)
    assert (kept.kind, kept.actor, kept.subject) == ("CancelRound", address(ADMIN), round_id)
    block = Snapshot.model_validate_json(kept.snapshot)
    assert json.loads(kept.document)["reason"] == "Wrong captions." and block.number > 0
    assert here.start(here.order()).status_code == 201, "the next round may open"


def test_an_admin_pauses_resumes_extends_and_ends_the_wait_each_once(here: Coordinator) -> None:
    granted = {key: here.join(key) for key in (ALICE, BOB)}
    short = PLAN.model_copy(update={"deadline_seconds": 600})
    round_id = here.start(here.order(short)).json["round_id"]
    here.worker().tick()
    deadline = here.ledger.facts(round_id).deadline
    for act, then in (
        (pause(here, round_id), {"state": RoundState.TRAINING, "paused_at": pytest.approx(time.time(), abs=30)}),
        (resume(here, round_id), {"state": RoundState.TRAINING, "paused_at": None}),
    ):
        told = give(here, act, sign(act, ADMIN)).json
        assert told.items() >= then.items(), told
        assert "given before" in problem(give(here, act, sign(act, ADMIN)), 409, "conflict")
    waited = here.ledger.facts(round_id).deadline - deadline
    later = extend(here, round_id, deadline=deadline + waited + 1)
    told = give(here, later, sign(later, ADMIN)).json
    assert told["deadline"] == deadline + waited + 1
    early = publish(here, round_id)
    assert "quorum is 2" in problem(give(here, early, sign(early, ADMIN)), 409, "conflict")
    train(here, round_id, granted)
    act = publish(here, round_id)
    assert give(here, act, sign(act, ADMIN)).json["state"] == RoundState.MERGING
    kinds = [one.kind for one in acts_kept(here)]
    assert sorted(kinds) == ["ExtendRound", "PauseRound", "PublishRound", "ResumeRound"]


def test_what_is_set_aside_is_merged_only_after_it_is_accepted(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB, CAROL)
    train(here, round_id, granted)
    made = here.client.get(f"/api/v1/rounds/{round_id}").json["contributions"]
    of_bob = next(one["contribution_id"] for one in made if one["member"] == address(BOB))
    act = set_aside(here, of_bob)
    assert give(here, act, sign(act, ADMIN)).json == {"contribution_id": of_bob, "state": "quarantined"}
    assert "given before" in problem(give(here, act, sign(act, ADMIN)), 409, "conflict")
    shown = next(
        one
        for one in here.client.get(f"/api/v1/rounds/{round_id}").json["contributions"]
        if one["contribution_id"] == of_bob
    )
    assert shown["state"] == "quarantined" and "An odd norm." in shown["reason"]
    here.worker().tick()
    assert state_of(here, round_id) == RoundState.SCORING
    assert of_bob not in here.ledger.standing(round_id).merged
    act = accept(here, of_bob)
    assert give(here, act, sign(act, ADMIN)).json == {"contribution_id": of_bob, "state": "live"}
    here.worker().tick()
    assert of_bob in here.ledger.standing(round_id).merged


def test_who_grants_while_a_round_is_open_takes_part_in_it_at_its_own_snapshot(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    granted[CAROL] = here.join(CAROL)
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task and not exchange.wanted(here.node_id(CAROL), task)
    here.worker().tick()
    task = exchange.next_task()
    assert task and exchange.wanted(here.node_id(CAROL), task)
    train(here, round_id, granted)
    here.worker().tick()
    assert len(here.ledger.standing(round_id).merged) == 3
    told = TrainTask.model_validate_json(task.body["task"])
    assert told.snapshot == here.ledger.facts(round_id).snapshot and granted[CAROL] in told.tokens


@pytest.mark.usefixtures("each_database")
def test_a_revoked_grant_gives_nothing_any_more(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task
    grant = given(here, granted[ALICE])
    act = revoke(here, grant)
    assert give(here, act, sign(act, ALICE)).json == {"grant_id": granted[ALICE], "removal_round": None}
    assert not exchange.wanted(here.node_id(ALICE), task) and exchange.wanted(here.node_id(BOB), task)
    shown = here.client.get(f"/api/v1/rounds/{round_id}").json
    assert {one["reason"] for one in shown["absences"]} == {"The member revoked the grant."}
    wanted = TrainTask.model_validate_json(task.body["task"])
    late = contribution_for(wanted, granted[ALICE], here.node_key(ALICE), 1, adapter=adapter_for(1, here.shapes))
    with pytest.raises((Conflict, ContributionRefused)):
        exchange.receive(task, here.node_id(ALICE), reply_of(late))
    told = here.client.get(f"/api/v1/grants/{granted[ALICE]}").json
    assert told["revoked_at"] and told["replaced"]
    assert "was revoked" in problem(here.give(grant, ALICE), 409, "conflict")
    again = revoke(here, grant)
    assert "revoked already" in problem(give(here, again, sign(again, ALICE)), 409, "conflict")
    longer = here.grant(ALICE, grant.tokens, expires=grant.expires + 1)
    assert here.give(longer, ALICE).status_code == 201, "a new one may be given"


def test_nobody_revokes_another_s_grant(here: Coordinator) -> None:
    grant = given(here, here.join(ALICE))
    as_alice = revoke(here, grant)
    assert "signature" in problem(give(here, as_alice, sign(as_alice, BOB)), 403, "not-allowed")
    as_bob = as_alice.model_copy(update={"member": address(BOB)})
    assert address(ALICE) in problem(give(here, as_bob, sign(as_bob, BOB)), 403, "not-allowed")
    unknown = as_alice.model_copy(update={"grant_hash": "0" * 64})
    problem(give(here, unknown, sign(unknown, ALICE)), 404, "not-found")


def test_a_contribution_that_dies_by_an_order_leaves_the_round_that_it_was_made_for(here: Coordinator) -> None:
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, granted)
    here.worker().tick()
    assert state_of(here, round_id) == RoundState.SCORING
    by_member = {one.grant.member: one for one in here.ledger.live_contributions(round_id)}
    act = remove(here, by_member[address(BOB)].contribution_id)
    assert give(here, act, sign(act, ADMIN)).json["removal_round"] is None
    again = remove(here, act.contribution_id)
    assert "is dead already" in problem(give(here, again, sign(again, ADMIN)), 409, "conflict")
    here.worker().tick()
    assert [one.grant.member for one in here.ledger.live_contributions(round_id)] == [address(ALICE)]
    dead = next(
        one for one in here.client.get(f"/api/v1/rounds/{round_id}").json["contributions"] if one["state"] == "dead"
    )
    assert "A court said so." in dead["reason"]


# Contract wallets -----------------------------------------------------------------------------------------------------


def sign_in_as(here: Coordinator, safe: str, signature_over: Callable[[bytes], str]) -> Any:
    text = here.message(ADMIN).replace(address(ADMIN), safe)
    body = {"message": text, "signature": signature_over(message_hash(text))}
    return here.client.post("/api/v1/session", json=body)


def test_safes_sign_in_deployed_or_not(here: Coordinator, safes: Safes, together: Contract) -> None:
    planned = safes.plan(OWNERS, 2, salt=22)
    here.chain.anvil.finalize()
    for keys, status in (([ONE, TWO], 200), ([ONE], 401)):
        answer = sign_in_as(here, together.address, partial(safe_signature, together.address, keys=keys))
        assert answer.status_code == status, answer.json
        answer = sign_in_as(here, planned.address, partial(planned.signature, keys=keys))
        assert answer.status_code == status, answer.json


def test_a_chain_that_is_down_is_told_as_such_and_when_to_come_again(here: Coordinator, together: Contract) -> None:
    here.service.settings = here.settings.model_copy(update={"rpc_url": "http://127.0.0.1:9"})
    answer = sign_in_as(here, together.address, partial(safe_signature, together.address, keys=[ONE, TWO]))
    problem(answer, 503, "unreachable")
    assert int(answer.headers["Retry-After"]) > 0
    act = cancel(here)
    problem(give(here, act, sign(act, ADMIN)), 503, "unreachable")
    assert here.sign_in(ALICE), "a key's signature needs no chain"


def test_a_safe_grants_and_the_release_says_at_which_block_that_held(
    chain: Chain, safes: Safes, tmp_path: Path
) -> None:
    safe = safes.deploy(safes.plan(OWNERS[:1], 1, salt=23))
    token = mint_to(chain, safe.address)
    here = Coordinator(chain, tmp_path, small_base(tmp_path / "base"))
    granted = {key: here.join(key) for key in (ALICE, BOB, CAROL)}
    session = sign_in_as(here, safe.address, partial(safe_signature, safe.address, keys=[ONE])).json
    grant = here.grant(THREE, (token,), warrant="", member=safe.address)
    headers = {"Authorization": f"Bearer {session['token']}"}
    for keys, status in (([TWO], 403), ([ONE], 201)):
        signature = safe_signature(safe.address, signing_hash(grant), keys)
        body = {"grant": grant.model_dump(mode="json"), "signature": signature}
        assert here.client.post("/api/v1/grants", json=body, headers=headers).status_code == status
    granted[THREE] = grant.grant_id

    round_id = here.start(here.order()).json["round_id"]
    here.worker().tick()
    train(here, round_id, granted)
    here.worker().tick()
    score(here, round_id, granted)
    safes.swap_owner(safe, SENTINEL, OWNERS[0], OWNERS[1], [ONE])
    here.worker().tick()
    manifest = Manifest.model_validate(here.client.get("/api/v1/releases/latest").json["manifest"])
    [unproven] = manifest.unproven
    assert unproven.member == safe.address and unproven.signed_at
    files = dict.fromkeys(manifest.names, "") | manifest.files
    manifest.check(files)
    manifest.check(files, lambda block: at_block(chain.rpc, block))
    with pytest.raises(NotAllowed, match=safe.address):
        unproven.check(lambda _: at_block(chain.rpc, chain.snapshot()))  # the owner has gone since
    unnamed = manifest.model_copy(update={"contributions": (unproven.model_copy(update={"signed_at": None}),)})
    with pytest.raises(NotAllowed, match=safe.address):
        unnamed.check(files)

    order = revoke(here, given(here, granted[BOB]))
    first = give(here, order, sign(order, BOB)).json["removal_round"]
    assert first and state_of(here, first) == RoundState.MERGING
    removed = here.client.get("/api/v1/rounds").json[0]
    assert (removed["round_id"], removed["kind"]) == (first, "removal")
    admins = cancel(here, first)
    assert "not cancelled" in problem(give(here, admins, sign(admins, ADMIN)), 409, "conflict")
    of_carol = next(one for one in manifest.contributions if one.member == address(CAROL))
    act = remove(here, of_carol.contribution_id)
    assert give(here, act, sign(act, ADMIN)).json["removal_round"] is None, "the one that is open does without it too"
    here.worker().tick()
    left = {ALICE: granted[ALICE], THREE: granted[THREE]}
    score(here, first, left)
    here.worker().tick()
    second = Manifest.model_validate(here.client.get("/api/v1/releases/latest").json["manifest"])
    assert {one.member for one in second.contributions} == {address(ALICE), safe.address}
    why = {one.member: one.reason for one in second.removals}
    assert why[address(BOB)] == "The member revoked the grant." and "A court said so." in why[address(CAROL)]
    assert {one.token for one in second.removals} == {None}
    assert here.client.get("/").status_code == 200
    here.service.database.close()


def mint_to(chain: Chain, owner: str) -> Token:
    token_id = chain.cc0.functions.totalSupply().call()
    chain.admin.mint(chain.cc0, [owner])
    chain.anvil.finalize()
    return chain.token(chain.cc0, token_id)


def test_the_dao_s_safe_starts_and_cancels_rounds_when_enough_owners_sign(
    chain: Chain, together: Contract, tmp_path: Path
) -> None:
    policy = policy_of(chain).model_copy(update={"admin": AdminSafe(safe=together.address)})
    for here in coordinator(chain, tmp_path, policy):
        here.join(ALICE)
        here.join(BOB)
        order = here.order().model_copy(update={"admin": together.address})
        for keys, status in (([ONE], 403), ([ONE, THREE], 201)):
            signature = safe_signature(together.address, signing_hash(order), keys)
            body = {"start_round": order.model_dump(mode="json"), "signature": signature}
            answer = here.client.post("/api/v1/rounds", json=body)
            assert answer.status_code == status, answer.json
        assert "is not the Safe" in problem(here.start(here.order()), 403, "not-allowed")
        by_safe = cancel(here, answer.json["round_id"]).model_copy(update={"admin": together.address})
        signature = safe_signature(together.address, signing_hash(by_safe), [TWO, THREE])
        assert give(here, by_safe, signature).status_code == 200


def test_listed_wallets_are_admins_and_nobody_else(chain: Chain, tmp_path: Path) -> None:
    policy = policy_of(chain).model_copy(update={"admin": AdminWallets(wallets=(address(BOB),))})
    for here in coordinator(chain, tmp_path, policy):
        assert "none of the admins" in problem(here.start(here.order()), 403, "not-allowed")
        by_bob = here.order().model_copy(update={"admin": address(BOB)})
        assert "quorum" in problem(here.start(by_bob, BOB), 409, "conflict")
