"""Vaults on a real chain: what a cold wallet delegated counts for the hot one, as long as it owns and delegates it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import Chain
from eth_account import Account
from masking_parts import node, terms_for
from round_parts import write_small_base
from test_coordinator_api import ALICE, Coordinator, policy_of, problem
from web3.contract import Contract

from client.nfts import _granted
from client.node.secret import OwnChain, require_members
from client.wallet.grant import StoredGrant
from contracts_abi.delegation import MAX_VAULTS, REGISTRY, RIGHTS, delegated, held_or_lent, vaults_of
from contracts_abi.model import Token
from contracts_abi.signatures import at_block
from coordinator.eligibility.verdicts import recheck, verdicts_for
from coordinator.rounds.parts import Part, once_each
from coordinator.watching.forks import Forks
from coordinator.watching.lapses import Watched
from coordinator.watching.watcher import Watcher
from deploy.devchain.deployment import Deployer, delegate_registry
from protocol.contribution import TrainTask
from protocol.errors import NotAllowed
from protocol.grant import Grant, RoundPlan, SignedGrant, sign
from protocol.masking import SecretRound, weights_of
from protocol.modes import Mode
from protocol.policy import OnTransfer, Policy, judge

pytestmark = pytest.mark.slow
EVERYTHING = bytes(32)


@pytest.fixture(scope="module")
def registry(chain: Chain) -> Contract:
    """At the address that it has on every chain."""
    deployed = chain.admin.deploy(delegate_registry())
    code = chain.rpc.call("eth_getCode", deployed.address, "latest")
    chain.rpc.call("anvil_setCode", REGISTRY, code)
    return deployed.w3.eth.contract(REGISTRY, abi=delegate_registry().abi)


class Vault:
    """A cold wallet with one Noun and one token of the COMMERCIAL collection, and a hot wallet that owns nothing."""

    def __init__(self, chain: Chain, registry: Contract, cold: Deployer, hot: Deployer, hot_key: str = ALICE) -> None:
        self.chain, self.registry, self.cold, self.hot, self.hot_key = chain, registry, cold, hot, hot_key
        self.noun = chain.mint_spare(chain.cc0, cold)
        self.commercial = chain.mint_spare(chain.commercial, cold)

    def send(self, function: str, *arguments: object) -> None:
        self.cold.send([{"to": REGISTRY, "data": self.registry.encode_abi(function, args=arguments)}])

    def delegate(self, token: Token, rights: bytes = EVERYTHING, enable: bool = True) -> None:
        self.send("delegateERC721", self.hot.address, token.contract, token.token_id, rights, enable)

    def delegate_all(self, rights: bytes = EVERYTHING, enable: bool = True) -> None:
        self.send("delegateAll", self.hot.address, rights, enable)

    def tokens(self) -> set[Token]:
        policy = policy_of(self.chain)
        return {v.token for v in verdicts_for(self.chain.rpc, policy, self.hot.address, self.chain.snapshot())}

    def recheck(self, *tokens: Token) -> dict[Token, str]:
        """Token → why it is denied, empty where it is allowed."""
        policy, grant = policy_of(self.chain), given(self.chain, self.hot.address, tokens)
        found = recheck(self.chain.rpc, policy, grant, self.chain.snapshot())
        return {verdict.token: "" if verdict.allow else verdict.reason for verdict in found}


def given(chain: Chain, member: str, tokens: tuple[Token, ...]) -> Grant:
    policy = policy_of(chain)
    return Grant(
        dao=policy.dao,
        chain_id=policy.chain_id,
        member=member,
        purpose=policy.purpose,
        tokens=tokens,
        node_key="02" + "0" * 96,
        policy_hash=policy.digest(),
        base_hash="ab" * 32,
        expires=2**33,
    )


@pytest.fixture
def vault(chain: Chain, registry: Contract) -> Iterator[Vault]:
    """A fresh pair of wallets each time."""
    pair = [Account.create().key.hex() for _ in range(2)]
    for key in pair:
        chain.rpc.call("anvil_setBalance", Account.from_key(key).address, hex(10**20))
    yield Vault(chain, registry, *(Deployer(chain.url, key) for key in pair), pair[1])


def test_what_a_vault_delegated_is_found_and_nothing_else(vault: Vault) -> None:
    assert vault.tokens() == set()
    vault.delegate(vault.noun)
    assert vault.tokens() == {vault.noun}
    assert vault.recheck(vault.noun)[vault.noun] == ""
    assert "not to the member" in vault.recheck(vault.commercial)[vault.commercial]
    vault.delegate_all()
    assert vault.tokens() == {vault.noun, vault.commercial}


def test_the_reason_names_the_vault(vault: Vault) -> None:
    vault.delegate_all()
    found = verdicts_for(vault.chain.rpc, policy_of(vault.chain), vault.hot.address, vault.chain.snapshot())
    assert all(f"in the vault {vault.cold.address}" in verdict.reason for verdict in found)
    assert next(v for v in found if v.token == vault.commercial).warrant


def test_a_delegation_of_our_right_alone_is_enough_and_of_another_is_not(vault: Vault) -> None:
    vault.delegate(vault.noun, RIGHTS)
    vault.delegate(vault.commercial, b"airdrops".ljust(32, b"\0"))
    assert vault.tokens() == {vault.noun}
    vault.send("delegateContract", vault.hot.address, vault.commercial.contract, RIGHTS, True)
    assert vault.tokens() == {vault.noun, vault.commercial}


def test_a_delegation_that_was_taken_back_counts_no_more(vault: Vault) -> None:
    vault.delegate_all()
    assert len(vault.tokens()) == 2
    vault.delegate_all(enable=False)
    assert vault.tokens() == set()
    assert vault.recheck(vault.noun)[vault.noun]


def test_a_delegation_outlives_a_sale_but_gives_nothing(vault: Vault) -> None:
    vault.delegate_all()
    vault.cold.transfer(vault.chain.cc0, vault.noun.token_id, vault.chain.buyer.address)
    snapshot = vault.chain.snapshot()
    stale = {(vault.noun, vault.hot.address): vault.cold.address}
    assert delegated(vault.chain.rpc, stale, snapshot), "the registry still says yes for the seller"
    assert vault.tokens() == {vault.commercial}
    assert vault.chain.buyer.address in vault.recheck(vault.noun, vault.commercial)[vault.noun]


def test_questions_are_asked_at_the_snapshot_not_now(vault: Vault) -> None:
    before = vault.chain.snapshot()
    vault.delegate_all()
    assert verdicts_for(vault.chain.rpc, policy_of(vault.chain), vault.hot.address, before) == []


def test_strangers_who_delegate_nothing_of_worth_hide_no_vault(vault: Vault, registry: Contract) -> None:
    for _ in range(MAX_VAULTS + 5):
        stranger = Account.create().address
        vault.chain.rpc.call("anvil_impersonateAccount", stranger)
        vault.chain.rpc.call("anvil_setBalance", stranger, hex(10**20))
        data = registry.encode_abi("delegateAll", args=[vault.hot.address, EVERYTHING, True])
        vault.chain.rpc.call("eth_sendTransaction", {"from": stranger, "to": REGISTRY, "data": data})
    vault.delegate_all()
    snapshot = vault.chain.snapshot()
    assert vaults_of(vault.chain.rpc, vault.hot.address, [vault.chain.cc0.address], snapshot) == [vault.cold.address]


def test_a_vaults_sale_or_change_of_mind_ends_what_was_trained_on_it(vault: Vault) -> None:
    verdict = judge(policy_of(vault.chain), vault.commercial, None)
    bound = verdict.model_copy(update={"on_transfer": OnTransfer.EXCLUDE, "allow": True})
    watched = Watched("c1", vault.hot.address, 0, (bound,))
    ended: list[str] = []

    class Ledger:
        """Not a ledger: one contribution to watch, and what has ended it."""

        def watched(self) -> list[Watched]:
            return [watched]

        def end_contributions(self, lapses: list, snapshot: object) -> None:
            ended.extend(lapse.reason for lapse in lapses)

        def snapshots(self) -> dict[str, object]:
            return {}

    rpc, ledger = vault.chain.rpc, Ledger()
    forks = Forks(rpc, ledger, lambda grant, at: [])
    watcher = Watcher(rpc, ledger, vault.chain.snapshot, policy_of(vault.chain).ownership, forks)
    vault.delegate(vault.commercial)
    watcher.step()
    assert ended == []
    vault.delegate(vault.commercial, enable=False)
    watcher.step()
    assert len(ended) == 1 and vault.cold.address in ended[0]


def test_the_members_own_machine_sees_it_the_same_way(vault: Vault) -> None:
    policy = policy_of(vault.chain)
    grant = given(vault.chain, vault.hot.address, (vault.noun, vault.commercial))
    stored = StoredGrant(grant=grant, signature="0x", policy=policy, coordinator="", gateways=())
    vault.delegate(vault.noun)
    seen = {v.token: v.allow for v in _granted(vault.chain.rpc, stored, vault.chain.snapshot())}
    assert seen == {vault.noun: True, vault.commercial: False}


def test_where_there_is_no_registry_nobody_delegated(vault: Vault) -> None:
    vault.delegate_all()
    code = vault.chain.rpc.call("eth_getCode", REGISTRY, "latest")
    try:
        vault.chain.rpc.call("anvil_setCode", REGISTRY, "0x")
        assert vault.tokens() == set()
    finally:
        vault.chain.rpc.call("anvil_setCode", REGISTRY, code)


def test_a_token_counts_once_in_a_round_for_the_earlier_grant(vault: Vault) -> None:
    vault.delegate_all()
    policy, snapshot = policy_of(vault.chain), vault.chain.snapshot()
    parts = []
    for member, tokens in ((vault.hot, (vault.noun,)), (vault.cold, (vault.noun, vault.commercial))):
        grant = given(vault.chain, member.address, tokens)
        parts.append(Part(grant, tuple(recheck(vault.chain.rpc, policy, grant, snapshot))))
    assert [part.admitted for part in once_each(parts)] == [{vault.noun}, {vault.commercial}]
    assert [part.admitted for part in once_each(parts[::-1])] == [{vault.noun, vault.commercial}, frozenset()]
    later = once_each(parts)[1]
    assert any("granted it first" in verdict.reason for verdict in later.verdicts)


def test_in_a_secret_sum_a_vaults_tokens_count_for_the_hot_wallet_while_it_may_act(vault: Vault) -> None:
    """What the others' machines ask their own chain nodes before they add anything up."""
    chain, keys = vault.chain, [Account.create().key.hex() for _ in range(2)]
    others = [chain.mint_spare(chain.cc0, Deployer(chain.url, key)) for key in keys]
    vault.delegate(vault.noun)

    def asked() -> None:
        require_members(*secret_round(chain, {vault.hot_key: vault.noun, **dict(zip(keys, others, strict=True))}))

    asked()
    vault.delegate(vault.noun, enable=False)
    with pytest.raises(NotAllowed, match=f"{vault.hot.address}, who takes part .* does not own it"):
        asked()


def secret_round(chain: Chain, owned: Mapping[str, Token]) -> tuple[SecretRound, TrainTask, Grant, Policy, OwnChain]:
    """As it opens now: by wallet key the one token that each member granted. The first checks the others."""
    policy, snapshot = policy_of(chain), chain.snapshot()
    grants = [
        given(chain, Account.from_key(key).address, (token,)).model_copy(update={"node_key": node(number).public})
        for number, (key, token) in enumerate(owned.items())
    ]
    task = TrainTask(
        round_id="r1",
        dao=policy.dao,
        plan=RoundPlan(mode=Mode.SECAGG),
        policy_hash=policy.digest(),
        base_hash=grants[0].base_hash,
        snapshot=snapshot,
        tokens={grant.grant_id: grant.tokens for grant in grants},
    )
    weights = weights_of(policy, {grant.node_key: 1 for grant in grants})
    signed = tuple(SignedGrant(grant=g, signature=sign(g, key)) for g, key in zip(grants, owned, strict=True))
    asks = OwnChain(
        lambda claims: held_or_lent(chain.rpc, claims, policy.ownership, snapshot), at_block(chain.rpc, snapshot)
    )
    return SecretRound(terms=terms_for(weights), others=signed), task, grants[0], policy, asks


def test_a_hot_wallet_grants_its_vaults_tokens_over_http(chain: Chain, registry: Contract, tmp_path: Path) -> None:
    """Bob's wallet is the vault, alice's the hot one."""
    here = Coordinator(chain, tmp_path, write_small_base(tmp_path / "base"))
    noun = chain.mint_spare(chain.cc0, chain.bob)
    vault = Vault(chain, registry, chain.bob, chain.alice)
    chain.anvil.finalize()
    grant = here.grant(ALICE, (noun,), warrant="")
    assert "not to the member" in problem(here.give(grant, ALICE), 403, "not-allowed")
    vault.delegate(noun)
    chain.anvil.finalize()
    assert here.give(grant, ALICE).status_code == 201
    shown = here.client.get("/me/nfts", headers=here.sign_in(ALICE)).text
    card = next(one for one in shown.split('<li class="card') if str(noun) in one)
    assert f'the vault <span class="address" title="{chain.bob.address}"' in card and "Included" in card
    assert "until" in card and "may act for the vault" in shown
    vault.delegate(noun, enable=False)
    here.service.database.close()
