"""Tokens that move and blocks that go while a round is open: one token serves one member, and no fork goes unseen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_coordinator_api as api
from conftest import Chain, new_chain
from round_parts import PLAN, adapter_for, contribution_for, reply_of, statistics_for, write_small_base
from test_coordinator_api import ALICE, BOB, NOBODY, Coordinator, opened, score, state_of, train
from web3.contract import Contract

from client.wallet.grant import require_own_judgement, unusable
from contracts_abi.asking import is_canonical
from contracts_abi.facts import read_facts
from contracts_abi.model import Snapshot, Token
from contracts_abi.ownership.terms import Ownership, Rentals
from contracts_abi.rpc import Rpc
from coordinator.rounds.transitions import RoundState, Step
from coordinator.watching.forks import Forks
from deploy.devchain.anvil import FINALITY
from deploy.devchain.deployment import ours
from protocol.contribution import TrainTask
from protocol.errors import Conflict, ContributionRefused, NotAllowed, Unreachable
from protocol.policy import CollectionRule, Verdict

pytestmark = pytest.mark.slow


@pytest.fixture
def own() -> Iterator[Chain]:
    """A chain of this test's own, that may lose its blocks."""
    with new_chain() as chain:
        yield chain


@pytest.fixture
def here(own: Chain, tmp_path: Path) -> Iterator[Coordinator]:
    coordinator = Coordinator(own, tmp_path, write_small_base(tmp_path / "base"))
    yield coordinator
    coordinator.service.database.close()


def events(here: Coordinator, kind: str) -> list[dict[str, Any]]:
    return [one["body"] for one in here.client.get("/api/v1/events").json if one["body"]["kind"] == kind]


def live_members(here: Coordinator, round_id: str) -> list[str]:
    return sorted(one.grant.member for one in here.ledger.live_contributions(round_id))


def addresses(*keys: str) -> list[str]:
    return sorted(api.Account.from_key(key).address for key in keys)


def fork(here: Coordinator) -> None:
    """Take back the newest finalized block and all after it, and go on without them."""
    here.chain.anvil.reorg(FINALITY + 1)
    here.chain.anvil.finalize()


# Forks ----------------------------------------------------------------------------------------------------------------


def test_a_sale_that_is_taken_back_before_it_is_final_changes_nothing(here: Coordinator) -> None:
    token = here.chain.mint_spare(here.chain.commercial, here.chain.alice)
    here.chain.anvil.finalize()
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, granted)
    here.chain.alice.transfer(here.chain.commercial, token.token_id, here.chain.buyer.address)
    here.worker().tick()
    here.chain.anvil.reorg(FINALITY - 1)
    here.chain.anvil.finalize()
    here.worker().tick()
    assert live_members(here, round_id) == addresses(ALICE, BOB)
    assert events(here, "contribution.died") == events(here, "round.forked") == []
    assert is_canonical(here.chain.rpc, here.ledger.snapshots()[round_id])


def test_after_a_fork_the_round_asks_its_members_tokens_again(here: Coordinator) -> None:
    here.chain.admin.mint_with_uris(here.chain.commercial, [(here.chain.nobody.address, "data:application/json,{}")])
    here.chain.anvil.finalize()
    round_id, granted = opened(here, ALICE, BOB, NOBODY)
    before, task = here.ledger.snapshots()[round_id], here.exchange(round_id).next_task()
    train(here, round_id, granted)
    assert live_members(here, round_id) == addresses(ALICE, BOB, NOBODY)

    fork(here)  # the mint never happened
    here.worker().tick()
    after = here.ledger.snapshots()[round_id]
    assert after != before and is_canonical(here.chain.rpc, after)
    assert live_members(here, round_id) == addresses(ALICE, BOB)
    [told] = events(here, "round.forked")
    assert f"Block {before.number}" in told["message"] and f"at block {after.number}" in told["message"]
    [died] = events(here, "contribution.died")
    assert died["member"] == here.chain.nobody.address and "belongs to nobody" in died["message"]
    assert state_of(here, round_id) == RoundState.SCORING, "the others go on, and are not asked for again"
    assert here.ledger.wanted_trainers(round_id) == frozenset()

    here.worker().tick()
    assert len(events(here, "round.forked")) == 1
    assert task and TrainTask.model_validate_json(task.body["task"]).snapshot == before


def test_a_node_that_has_not_trained_yet_is_told_the_new_snapshot(here: Coordinator) -> None:
    here.chain.anvil.finalize()
    round_id, granted = opened(here, ALICE, BOB)
    exchange = here.exchange(round_id)
    old = exchange.next_task()
    fork(here)
    here.worker().tick()
    new = exchange.next_task()
    assert old and new and old.task_id != new.task_id
    told = TrainTask.model_validate_json(new.body["task"])
    assert told.snapshot == here.ledger.snapshots()[round_id]
    train(here, round_id, granted)
    assert live_members(here, round_id) == addresses(ALICE, BOB)


def test_a_round_on_a_fork_is_not_published(here: Coordinator) -> None:
    here.chain.anvil.finalize()
    round_id, granted = opened(here, ALICE, BOB)
    train(here, round_id, granted)
    here.worker().tick()
    score(here, round_id, granted)
    fork(here)
    with pytest.raises(Conflict, match="no longer in the chain"):
        here.worker().advance(round_id)
    assert state_of(here, round_id) == RoundState.PUBLISHING
    assert here.client.get("/api/v1/releases").json == []
    assert list(here.settings.releases.glob("*")) == [], "not even built"


def test_a_fork_that_leaves_too_few_ends_the_round_with_the_reason(here: Coordinator) -> None:
    here.chain.admin.mint_with_uris(here.chain.commercial, [(here.chain.nobody.address, "data:application/json,{}")])
    here.chain.anvil.finalize()
    round_id, granted = opened(here, ALICE, NOBODY)
    fork(here)
    here.worker().tick()
    train(here, round_id, {ALICE: granted[ALICE]})
    here.worker().tick()
    shown = here.client.get(f"/api/v1/rounds/{round_id}").json
    assert shown["state"] == RoundState.FAILED and "quorum" in shown["reason"]


def test_a_node_that_lags_behind_says_nothing_about_forks(here: Coordinator) -> None:
    here.chain.anvil.finalize()
    round_id, _ = opened(here, ALICE, BOB)
    taken = here.ledger.snapshots()[round_id]
    nobody_answers = Forks(Rpc("http://127.0.0.1:9"), here.ledger, lambda grant, at: ())
    nobody_answers.step(taken.model_copy(update={"number": taken.number - 1, "hash": "0x" + "0" * 64}))
    with pytest.raises(Unreachable, match="does not answer"):
        nobody_answers.step(taken)
    assert here.ledger.snapshots() == {round_id: taken}
    ahead = Snapshot(chain_id=31337, number=10**6, hash="0x" + "0" * 64, timestamp=1)
    with pytest.raises(Unreachable, match="does not know block 1000000 yet"):
        is_canonical(here.chain.rpc, ahead)


# Sales ----------------------------------------------------------------------------------------------------------------


def contribute_on(here: Coordinator, round_id: str, key: str, grant_id: str, tokens: list[Token], seed: int) -> None:
    exchange = here.exchange(round_id)
    task = exchange.next_task()
    assert task
    wanted = TrainTask.model_validate_json(task.body["task"])
    tensors = {"adapter": adapter_for(seed, here.shapes), "statistics": statistics_for(seed, here.shapes)}
    made = contribution_for(wanted, grant_id, here.node_key(key), seed, tokens=tokens, **tensors)
    exchange.receive(task, here.node_id(key), reply_of(made))


@pytest.mark.parametrize("licence", ["keeps", "ends"])
def test_a_token_that_moves_while_the_round_is_open_serves_the_seller_then_the_buyer(
    here: Coordinator, licence: str
) -> None:
    chain = here.chain
    collection = chain.cc0 if licence == "keeps" else chain.commercial
    token, of_bob = chain.mint_spare(collection, chain.alice), chain.token(collection, 3)
    chain.anvil.finalize()
    first, granted = opened(here, ALICE, BOB)
    chain.alice.transfer(collection, token.token_id, chain.bob.address)
    chain.anvil.finalize()

    of_buyer = here.join(BOB)
    assert [one.member for one in here.ledger.grants(first) if token in one.tokens] == addresses(ALICE)
    with pytest.raises(ContributionRefused, match="not among the tokens that this round admits"):
        contribute_on(here, first, BOB, granted[BOB], [token, of_bob], 2)
    contribute_on(here, first, ALICE, granted[ALICE], [token, chain.token(chain.cc0, 0)], 1)
    here.worker().tick()
    assert live_members(here, first) == (addresses(ALICE) if licence == "keeps" else [])

    if state_of(here, first) != RoundState.FAILED:
        here.ledger.move(first, Step(RoundState.MERGING, "The test says so."))
        here.ledger.move(first, Step(RoundState.FAILED, "The test says so."))
    answer = here.start(here.order(PLAN))
    assert answer.status_code == 201, answer.json
    second = answer.json["round_id"]
    here.worker().tick()
    contribute_on(here, second, BOB, of_buyer, [token, of_bob], 3)
    with pytest.raises(ContributionRefused, match="not among the tokens"):
        contribute_on(here, second, ALICE, granted[ALICE], [token, chain.token(chain.cc0, 0)], 4)
    both = addresses(ALICE, BOB) if licence == "keeps" else addresses(BOB)
    assert live_members(here, second) == both, "what CC0 was given stays given"


def with_rentable(chain: Chain, monkeypatch: pytest.MonkeyPatch, rentals: Rentals) -> Contract:
    """Alice's tokens 0 and 1, of which bob has rented 0, in a collection of the policy's."""
    nouns = chain.admin.deploy(ours("RentableNouns"))
    chain.admin.act(nouns, "mintMany", chain.alice.address, 0, 2)
    chain.alice.act(nouns, "setUser", 0, chain.bob.address, 2**40)
    chain.anvil.finalize()
    terms = Ownership(rentals=rentals)
    rule = CollectionRule(contract=nouns.address, name="Rentable Nouns", licence="CC0", ownership=terms)
    plain = api.policy_of(chain)
    policy = plain.model_copy(update={"collections": (*plain.collections, rule)})
    monkeypatch.setattr(api, "policy_of", lambda chain: policy)
    return nouns


def test_a_rented_token_is_shown_denied_and_the_client_agrees(
    own: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nouns = with_rentable(own, monkeypatch, Rentals.DENIED)
    here = Coordinator(own, tmp_path, write_small_base(tmp_path / "base"))
    answer = here.client.get("/api/v1/verdicts", headers=here.sign_in(ALICE)).json
    verdicts = {v.token: v for v in (Verdict.model_validate(one) for one in answer["verdicts"])}
    rented, free = (own.token(nouns, n) for n in (0, 1))
    assert verdicts[free].allow and not verdicts[rented].allow
    assert f"it is rented out to {own.bob.address}" in verdicts[rented].reason
    grant = here.grant(ALICE, (rented,), warrant="")
    assert "admits no rented token" in api.problem(here.give(grant, ALICE), 403, "not-allowed")

    snapshot = Snapshot.model_validate(answer["snapshot"])
    facts = read_facts(own.rpc, here.policy, verdicts, (own.alice.address,), snapshot)
    with pytest.raises(NotAllowed, match="broken or dishonest"):
        require_own_judgement(here.policy, list(verdicts.values()), facts)
    lost = unusable(own.rpc, here.policy, own.alice.address, verdicts, snapshot)
    assert lost == {rented}
    require_own_judgement(here.policy, list(verdicts.values()), facts, lost)
    here.service.database.close()


def test_a_token_that_two_members_hold_serves_the_one_who_granted_it_first(
    own: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nouns = with_rentable(own, monkeypatch, Rentals.RENTER_TOO)
    here = Coordinator(own, tmp_path, write_small_base(tmp_path / "base"))
    round_id, granted = opened(here, BOB, ALICE)
    task = here.exchange(round_id).next_task()
    assert task
    tokens = TrainTask.model_validate_json(task.body["task"]).tokens
    shared, unshared = (own.token(nouns, n) for n in (0, 1))
    first, later = here.ledger.grants(round_id)
    keys = {own.alice.address: ALICE, own.bob.address: BOB}
    assert shared in first.tokens and shared in later.tokens, "both hold it, and both granted it"
    assert shared in tokens[first.grant_id] and shared not in tokens[later.grant_id]
    assert unshared in tokens[granted[ALICE]] and unshared not in tokens[granted[BOB]]
    with pytest.raises(ContributionRefused, match="not among the tokens"):
        contribute_on(here, round_id, keys[later.member], later.grant_id, [shared], 1)
    contribute_on(here, round_id, keys[first.member], first.grant_id, [shared], 2)
    [denied] = [one for one in here.ledger.exclusions(round_id) if one.token == shared]
    assert f"It serves {first.member} in this round" in denied.reason
    here.service.database.close()
