"""Membership, licences for single tokens and licences in metadata, asked of real contracts on a real chain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Chain
from eth_utils.crypto import keccak
from round_parts import write_small_base
from test_coordinator_api import ALICE, BOB, Coordinator, problem
from typer.testing import CliRunner
from web3.contract import Contract

from client.wallet.grant import require_own_judgement
from contracts_abi.facts import read_facts
from contracts_abi.licences import licence_signals, metadata_licences
from contracts_abi.membership import read_holding, read_standing
from contracts_abi.model import LicenceSignal, Snapshot
from coordinator.cli import app
from coordinator.eligibility.verdicts import opening_verdicts, recheck, verdicts_for
from deploy.devchain.deployment import openzeppelin, person_badge, token_licensed_nouns
from protocol.errors import NotAllowed
from protocol.grant import Grant
from protocol.policy import AdminRole, CollectionRule, Policy, judge
from protocol.policy.membership import (
    AllOf,
    Answers,
    AnyOf,
    HoldsErc20,
    HoldsErc721,
    HoldsErc1155,
    HoldsSoulbound,
    OnList,
)

pytestmark = pytest.mark.slow
CC_BY = "https://creativecommons.org/licenses/by/4.0/"
ETHER = 10**18


def send(chain: Chain, contract: Contract, function: str, *arguments: object) -> None:
    chain.admin.send([{"to": contract.address, "data": contract.encode_abi(function, args=arguments)}])


@pytest.fixture(scope="module")
def badge(chain: Chain) -> Contract:
    """Alice has a badge and 40 points."""
    there = chain.admin.deploy(person_badge())
    send(chain, there, "issue", chain.alice.address, 40)
    return there


@pytest.fixture(scope="module")
def shares(chain: Chain) -> Contract:
    """Alice has three quarters of a share, bob one and a half."""
    there = chain.admin.deploy(openzeppelin("ERC20PresetMinterPauser"), "Shares", "SHR")
    send(chain, there, "mint", chain.alice.address, 3 * ETHER // 4)
    send(chain, there, "mint", chain.bob.address, 3 * ETHER // 2)
    return there


@pytest.fixture(scope="module")
def passes(chain: Chain) -> Contract:
    """Alice has two passes of kind 7."""
    there = chain.admin.deploy(openzeppelin("ERC1155PresetMinterPauser"), "ipfs://none")
    send(chain, there, "mint", chain.alice.address, 7, 2, b"")
    return there


@pytest.fixture(scope="module")
def by_token(chain: Chain) -> Contract:
    """Alice's tokens: 0 under CC BY, 1 under CC BY and revoked, 2 under nothing."""
    there = chain.admin.deploy(token_licensed_nouns(), "Nouns each under its own", "TNOUN", "ipfs://none/")
    chain.admin.mint(there, [chain.alice.address] * 3)
    for number in (0, 1):
        send(chain, there, "setLicence", number, CC_BY)
    send(chain, there, "revokeLicence", 1)
    return there


def policy_of(chain: Chain, **fields: object) -> Policy:
    return Policy(
        **{
            "dao": "Nouns-on-anvil",
            "purpose": "One shared model of our Nouns.",
            "chain_id": 31337,
            "admin": AdminRole(contract=chain.cc0.address),
            "collections": (CollectionRule(contract=chain.cc0.address, name="Nouns", licence="CC0"),),
            "accept_holder_warrant": True,
            **fields,
        }
    )


# Membership -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_membership_is_read_off_the_chain(
    chain: Chain, badge: Contract, shares: Contract, passes: Contract
) -> None:
    questions = (
        HoldsErc721(contract=chain.cc0.address),
        HoldsErc1155(contract=passes.address, token_id=7),
        HoldsErc1155(contract=passes.address, token_id=8),
        HoldsErc20(contract=shares.address),
        HoldsSoulbound(contract=badge.address),
        Answers(contract=badge.address, function="isHuman(address)"),
        Answers(contract=badge.address, function="score(address)", returns="uint256", at_least=40),
    )
    snapshot = chain.snapshot()
    alice = read_holding(chain.rpc, questions, (chain.alice.address,), snapshot)
    assert [alice[one] for one in questions] == [3, 2, 0, 3 * ETHER // 4, 1, 1, 40]
    nobody = read_holding(chain.rpc, questions, (chain.nobody.address,), snapshot)
    assert [nobody[one] for one in questions] == [0] * 7


def test_a_token_that_can_be_handed_on_is_not_soulbound_and_a_contract_that_is_silent_is_no_member_s_friend(
    chain: Chain,
) -> None:
    silent = "0x" + keccak(hexstr="60006000fd")[:20].hex()
    chain.rpc.call("anvil_setCode", silent, "0x60006000fd")
    snapshot = chain.snapshot()
    for one in (
        HoldsSoulbound(contract=chain.cc0.address),
        HoldsErc721(contract=silent),
        Answers(contract=silent, function="isHuman(address)"),
        Answers(contract=chain.cc0.address, function="balanceOf(address)", returns="bool"),
        HoldsErc20(contract=chain.nobody.address),
    ):
        assert not read_standing(chain.rpc, one, (chain.alice.address,), snapshot).member, one


def test_balances_of_all_wallets_count_together_and_of_scores_the_best(
    chain: Chain, badge: Contract, shares: Contract
) -> None:
    both, snapshot = (chain.alice.address, chain.bob.address, chain.alice.address), chain.snapshot()
    two = HoldsErc20(contract=shares.address, at_least=2 * ETHER)
    assert read_standing(chain.rpc, two, both, snapshot).member
    assert not read_standing(chain.rpc, two, both[:1], snapshot).member
    best = Answers(contract=badge.address, function="score(address)", returns="uint256", at_least=41)
    assert not read_standing(chain.rpc, best, both, snapshot).member


def test_all_and_any_combine_and_the_reason_says_what_is_missing(
    chain: Chain, badge: Contract, shares: Contract
) -> None:
    human = Answers(contract=badge.address, function="isHuman(address)", name="the badge")
    rich = HoldsErc20(contract=shares.address, at_least=ETHER, name="shares")
    listed = OnList(addresses=(chain.carol.address,))
    snapshot = chain.snapshot()
    wanted = AnyOf(any=(AllOf(all=(human, rich)), listed))
    assert read_standing(chain.rpc, wanted, (chain.carol.address,), snapshot).member
    alice = read_standing(chain.rpc, wanted, (chain.alice.address,), snapshot)
    assert not alice.member
    assert f"It holds {3 * ETHER // 4} of shares, and the policy asks for {ETHER} or more." in alice.reason
    assert "It is not on the policy's list." in alice.reason


def test_whoever_is_no_member_gets_no_verdict_in_favour_and_no_grant(
    chain: Chain, tmp_path: Path, badge: Contract
) -> None:
    human = Answers(contract=badge.address, function="isHuman(address)", name="the badge")
    policy = policy_of(chain, membership=human)
    here = Coordinator(chain, tmp_path, write_small_base(tmp_path / "base"), policy)
    try:
        token = chain.token(chain.cc0, 0)
        assert here.give(here.grant(ALICE, (token,), warrant=""), ALICE).status_code == 201
        sentence = problem(here.client.get("/api/v1/verdicts", headers=here.sign_in(BOB)), 403, "not-allowed")
        assert "Its owner is no member: the badge answers isHuman(address) with no." in sentence
        own = (chain.token(chain.cc0, 3),)
        refused = here.give(here.grant(BOB, own, warrant=""), BOB)
        assert "is not admitted: Its owner is no member" in problem(refused, 403, "not-allowed")
    finally:
        here.service.database.close()


def test_a_member_who_lost_the_membership_is_out_at_the_next_opening(chain: Chain) -> None:
    badge = chain.admin.deploy(openzeppelin("ERC721PresetMinterPauserAutoId"), "Badges", "BDG", "")
    chain.admin.mint(badge, [chain.alice.address])
    policy = policy_of(chain, membership=HoldsErc721(contract=badge.address, name="badges"))
    token = chain.token(chain.cc0, 0)
    grant = Grant.model_construct(member=chain.alice.address, tokens=(token,))
    assert [one.allow for one in recheck(chain.rpc, policy, grant, chain.snapshot())] == [True]
    chain.alice.transfer(badge, 0, chain.buyer.address)
    found = {one.token: one for one in opening_verdicts(chain.rpc, policy, grant, chain.snapshot())}
    assert (found[token].allow, found[token].rule) == (False, "membership")


# Licences -------------------------------------------------------------------------------------------------------------


def test_a_licence_for_each_token_is_read_with_whether_it_is_in_force(chain: Chain, by_token: Contract) -> None:
    tokens = [chain.token(by_token, number) for number in range(3)]
    plain = chain.token(chain.cc0, 0)
    found = licence_signals(chain.rpc, [*tokens, plain], chain.snapshot())
    assert found[tokens[0]] == (LicenceSignal(name="", uri=CC_BY, standard="ERC-5218"),)
    assert found[tokens[1]] == (LicenceSignal(name="", uri=CC_BY, standard="ERC-5218", active=False),)
    assert found[tokens[2]] == (LicenceSignal(name="", uri="", standard="ERC-5218", active=False),)
    assert found[plain] == ()


def test_verdicts_go_by_each_token_s_licence(chain: Chain, by_token: Contract) -> None:
    policy = policy_of(chain, collections=(CollectionRule(contract=by_token.address, name="Nouns each under its own"),))
    found = verdicts_for(chain.rpc, policy, chain.alice.address, chain.snapshot())
    assert [(one.allow, one.licence) for one in found] == [(True, "CC-BY-4.0"), (False, "CC-BY-4.0"), (False, None)]


def test_can_t_be_evil_is_read_for_every_token_of_the_contract(chain: Chain) -> None:
    tokens = [chain.token(chain.commercial, number) for number in (0, 1)]
    found = licence_signals(chain.rpc, tokens, chain.snapshot())
    assert [[one.name for one in found[token]] for token in tokens] == [["COMMERCIAL"], ["COMMERCIAL"]]


def test_a_licence_in_metadata_counts_where_these_are_on_the_chain(chain: Chain) -> None:
    minted = [
        f'data:application/json,{{"license":"{CC_BY}"}}',
        "data:application/json;base64,eyJsaWNlbnNlIjoiQ0MwIn0=",
        'data:application/json,{"license":["CC0"]}',
        "data:application/json,{broken",
        "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi/1",
    ]
    first = chain.cc0.functions.totalSupply().call()
    chain.admin.mint_with_uris(chain.cc0, [(chain.buyer.address, uri) for uri in minted])
    tokens = [chain.token(chain.cc0, first + at) for at in range(len(minted))]
    snapshot = chain.snapshot()
    assert metadata_licences(chain.rpc, tokens, snapshot) == {tokens[0]: CC_BY, tokens[1]: "CC0"}
    rule = CollectionRule(contract=chain.cc0.address, name="Nouns", metadata=True)
    policy = policy_of(chain, collections=(rule,))
    facts = read_facts(chain.rpc, policy, tokens, (chain.buyer.address,), snapshot)
    assert [judge(policy, token, facts[token]).allow for token in tokens] == [True, True, False, False, False]
    silent = policy.model_copy(update={"collections": (rule.model_copy(update={"metadata": False}),)})
    assert read_facts(chain.rpc, silent, tokens, (), snapshot)[tokens[0]].metadata_licence is None


def test_a_round_whose_tokens_cannot_be_published_together_does_not_open(chain: Chain, tmp_path: Path) -> None:
    clash = tuple(
        CollectionRule(contract=contract.address, name=licence, licence=licence)
        for contract, licence in ((chain.cc0, "CC-BY-SA-4.0"), (chain.preset, "CC-BY-NC-SA-4.0"))
    )
    here = Coordinator(chain, tmp_path, write_small_base(tmp_path / "base"), policy_of(chain, collections=clash))
    try:
        here.join(ALICE)
        here.join(BOB)
        sentence = problem(here.start(here.order()), 409, "conflict")
        assert "cannot be published under one licence: CC-BY-NC-SA-4.0 and CC-BY-SA-4.0 each ask" in sentence
    finally:
        here.service.database.close()


# The command ----------------------------------------------------------------------------------------------------------


def test_policy_check_explains_every_verdict_for_people_and_for_programs(
    chain: Chain, tmp_path: Path, shares: Contract
) -> None:
    rules = tuple(
        CollectionRule(contract=contract.address, name=name, licence=licence)
        for contract, name, licence in ((chain.cc0, "Nouns", "CC0"), (chain.personal, "Personal Nouns", None))
    )
    member = HoldsErc20(contract=shares.address, at_least=ETHER, name="shares")
    policy = policy_of(chain, collections=rules, membership=member)
    file = tmp_path / "policy.json"
    file.write_bytes(policy.canonical())
    chain.anvil.finalize()
    asked = ["policy", "check", str(file), "--wallet", chain.bob.address, "--rpc", chain.url]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    for words in ("is a member", "Nouns", "admitted", "denied", "CBE-PERSONAL", "3 of 6 tokens are admitted"):
        assert words in shown.output
    printed = CliRunner().invoke(app, [*asked, "--json"])
    document = json.loads(printed.output)
    assert document["policy_hash"] == policy.digest()
    assert document["member"]["member"] is True
    assert [one["allow"] for one in document["verdicts"]].count(True) == 3
    stranger = CliRunner().invoke(app, [*asked[:4], chain.carol.address, *asked[5:]])
    assert "is no member: It holds 0 of shares" in stranger.output.replace("\n", " ")
    assert "The policy asks for 1, so this wallet takes no part." in stranger.output


# The member's own judgement -------------------------------------------------------------------------------------------


def test_the_member_s_client_asks_its_own_node_about_membership(chain: Chain, badge: Contract) -> None:
    human = Answers(contract=badge.address, function="isHuman(address)", name="the badge")
    asking, easy = policy_of(chain, membership=human), policy_of(chain)
    snapshot: Snapshot = chain.snapshot()
    claimed = verdicts_for(chain.rpc, easy, chain.bob.address, snapshot)
    facts = read_facts(chain.rpc, asking, [one.token for one in claimed], (chain.bob.address,), snapshot)
    with pytest.raises(NotAllowed, match="by its policy it is denied: Its owner is no member"):
        require_own_judgement(asking, claimed, facts)


# Holding time ---------------------------------------------------------------------------------------------------------


def test_a_token_counts_only_when_the_chain_s_logs_say_that_it_was_held_long_enough(chain: Chain) -> None:
    spare = chain.mint_spare(chain.cc0, chain.alice)
    minted = chain.snapshot().number
    chain.anvil.finalize()
    chain.alice.transfer(chain.cc0, spare.token_id, chain.buyer.address)
    snapshot = chain.snapshot()
    old, new = chain.token(chain.cc0, 0), spare
    policy = policy_of(chain, minimum_holding_blocks=snapshot.number - minted)
    facts = read_facts(chain.rpc, policy, [old, new], (chain.buyer.address,), snapshot)
    found = {token: judge(policy, token, facts[token]) for token in (old, new)}
    assert found[old].allow
    assert (found[new].allow, found[new].rule) == (False, "holding time")
    assert "blocks, and the policy asks for" in found[new].reason
    days = policy_of(chain, minimum_holding_days=1)
    young = read_facts(chain.rpc, days, [old], (chain.alice.address,), snapshot)
    assert judge(days, old, young[old]).reason == "Its owner has had it for 0 days, and the policy asks for 1."
