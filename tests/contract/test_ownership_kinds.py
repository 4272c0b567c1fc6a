"""Who holds a token, by kind of collection, on a real chain: wallets, units, punks, rentals, pools, accounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from conftest import Chain
from web3 import Web3
from web3.contract import Contract

from contracts_abi.asking import codes
from contracts_abi.model import Token
from contracts_abi.ownership import accounts, cryptopunks
from contracts_abi.ownership.holding import Holding, holders, holdings
from contracts_abi.ownership.kinds import kinds_of
from contracts_abi.ownership.question import Claim
from contracts_abi.ownership.terms import Kind, Ownership, Rentals, Staking
from contracts_abi.readers import token_uris
from deploy.devchain.anvil import CHAIN_ID
from deploy.devchain.deployment import Deployer, multi_token, ours
from protocol.errors import BadInput

pytestmark = pytest.mark.slow
SALT = bytes(31) + b"\x07"


@dataclass(frozen=True)
class Collections:
    """Beside the four of the chain: units, punks, tokens that can be rented, a pool, and accounts."""

    chain: Chain
    units: Contract
    punks: Contract
    nouns: Contract
    """Rentable. Tokens 0-9 are alice's, 10-19 bob's at first."""
    pool: Contract
    implementation: Contract

    def account_of(self, token: Token) -> Contract:
        """The token's account, made by the real registry."""
        arguments = (self.implementation.address, SALT, CHAIN_ID, token.contract, token.token_id)
        registry = Web3(Web3.HTTPProvider(self.chain.url)).eth.contract(accounts.REGISTRY, abi=REGISTRY_ABI)
        self.chain.admin.act(registry, "createAccount", *arguments)
        address = registry.functions.account(*arguments).call()
        return Web3(Web3.HTTPProvider(self.chain.url)).eth.contract(address, abi=self.implementation.abi)


_BOUND = [
    {"name": name, "type": kind}
    for name, kind in (
        ("implementation", "address"),
        ("salt", "bytes32"),
        ("chainId", "uint256"),
        ("tokenContract", "address"),
        ("tokenId", "uint256"),
    )
]
REGISTRY_ABI = [
    {
        "type": "function",
        "name": name,
        "stateMutability": "nonpayable" if name == "createAccount" else "view",
        "inputs": _BOUND,
        "outputs": [{"name": "", "type": "address"}],
    }
    for name in ("createAccount", "account")
]


@pytest.fixture(scope="module")
def there(chain: Chain) -> Collections:
    nouns = chain.admin.deploy(ours("RentableNouns"))
    implementation = chain.admin.deploy(ours("TokenBoundAccount"))
    code = implementation.functions.registryCode().call()
    chain.rpc.call("anvil_setCode", accounts.REGISTRY, "0x" + code.hex())
    chain.admin.act(nouns, "mintMany", chain.alice.address, 0, 10)
    chain.admin.act(nouns, "mintMany", chain.bob.address, 10, 10)
    return Collections(
        chain,
        units=chain.admin.deploy(multi_token(), "ipfs://units/{id}.json"),
        punks=chain.admin.deploy(ours("Punks")),
        nouns=nouns,
        pool=chain.admin.deploy(ours("StakingPool")),
        implementation=implementation,
    )


def named(collection: Contract, token_id: int, standard: str = "erc721") -> Token:
    return Token.parse(f"eip155:{CHAIN_ID}/{standard}:{collection.address}/{token_id}")


def asked(
    there: Collections, wallet: Deployer, tokens: list[Token], terms: Ownership | None = None
) -> dict[Token, Holding]:
    """Of one wallet, at a new snapshot, under one collection's terms."""
    by_contract: Mapping[str, Ownership] = {token.contract: terms for token in tokens} if terms else {}
    claims = [Claim(token, wallet.address) for token in tokens]
    found = holdings(there.chain.rpc, claims, by_contract, there.chain.snapshot())
    assert list(found) == claims
    return {claim.token: holding for claim, holding in found.items()}


def test_a_wallet_holds_what_ownerof_says(there: Collections) -> None:
    chain = there.chain
    tokens = [chain.token(chain.cc0, 0), chain.token(chain.cc0, 4), chain.token(chain.preset, 10**20)]
    found = asked(there, chain.alice, tokens)
    assert [one.holds for one in found.values()] == [True, False, False]
    assert [one.owner for one in found.values()] == [chain.alice.address, chain.bob.address, None]


def test_kinds_are_asked_of_the_contract_unless_the_policy_names_them(there: Collections) -> None:
    chain, silent = there.chain, there.punks.address
    contracts = [chain.cc0.address, there.units.address, silent, there.nouns.address, chain.nobody.address]
    snapshot = chain.snapshot()
    assert list(kinds_of(chain.rpc, contracts, {}, snapshot).values()) == [
        Kind.ERC721,
        Kind.ERC1155,
        Kind.ERC721,
        Kind.ERC721,
        Kind.ERC721,
    ]
    told = {silent: Ownership(kind=Kind.CRYPTOPUNKS)}
    assert kinds_of(chain.rpc, [silent], told, snapshot) == {silent: Kind.CRYPTOPUNKS}
    mainnet = snapshot.model_copy(update={"chain_id": 1})
    assert kinds_of(chain.rpc, [cryptopunks.CONTRACT], {}, mainnet) == {cryptopunks.CONTRACT: Kind.CRYPTOPUNKS}


def test_everyone_with_a_unit_of_an_erc1155_id_holds_it(there: Collections) -> None:
    chain = there.chain
    for wallet, token_id, units in ((chain.alice, 1, 2), (chain.bob, 1, 1), (chain.bob, 2, 5)):
        chain.admin.act(there.units, "mint", wallet.address, token_id, units, b"")
    tokens = [named(there.units, token_id, "erc1155") for token_id in (1, 2, 3)]
    assert [one.holds for one in asked(there, chain.alice, tokens).values()] == [True, False, False]
    assert [one.holds for one in asked(there, chain.bob, tokens).values()] == [True, True, False]
    assert [one.holds for one in asked(there, chain.nobody, tokens).values()] == [False, False, False]


def test_many_ids_of_many_wallets_are_asked_together(there: Collections) -> None:
    chain, ids = there.chain, list(range(1000, 1250))
    chain.admin.act(there.units, "mintBatch", chain.carol.address, ids, [1] * len(ids), b"")
    tokens = [named(there.units, token_id, "erc1155") for token_id in ids]
    claims = [Claim(token, wallet.address) for wallet in (chain.carol, chain.nobody) for token in tokens]
    found = holdings(chain.rpc, claims, {}, chain.snapshot())
    assert {claim.wallet for claim, one in found.items() if one.holds} == {chain.carol.address}
    assert sum(one.holds for one in found.values()) == len(ids)


def test_a_token_by_the_wrong_standards_name_is_nobodys(there: Collections) -> None:
    chain = there.chain
    chain.admin.act(there.units, "mint", chain.alice.address, 5, 1, b"")
    wrong = [named(there.units, 5, "erc721"), named(chain.cc0, 0, "erc1155")]
    assert [one.holds for one in asked(there, chain.alice, wrong).values()] == [False, False]
    right = [named(there.units, 5, "erc1155"), named(chain.cc0, 0)]
    assert [one.asset for one in right] == [one.asset for one in wrong]


def test_the_uri_of_an_erc1155_id_has_the_id_filled_in(there: Collections) -> None:
    token = named(there.units, 0xBEEF, "erc1155")
    found = token_uris(there.chain.rpc, [token], there.chain.snapshot())
    assert found == {token: f"ipfs://units/{'0' * 60}beef.json"}


def test_a_punk_is_whose_the_state_says_also_where_the_event_names_nobody(there: Collections) -> None:
    chain, terms = there.chain, Ownership(kind=Kind.CRYPTOPUNKS)
    chain.alice.act(there.punks, "getPunk", 100)
    chain.bob.act(there.punks, "enterBidForPunk", 100)
    chain.alice.act(there.punks, "acceptBidForPunk", 100)
    [bought] = there.punks.events.PunkBought().get_logs(from_block=0)
    assert int(bought["args"]["toAddress"], 16) == 0, "this contract lacks the original's flaw"

    token, unclaimed = named(there.punks, 100), named(there.punks, 101)
    assert asked(there, chain.bob, [token, unclaimed], terms)[token].holds
    assert asked(there, chain.alice, [token], terms)[token].owner == chain.bob.address
    assert asked(there, chain.bob, [unclaimed], terms)[unclaimed] == Holding(False, None)


@pytest.mark.parametrize(
    ("rentals", "owner_may", "renter_may"), [("ignored", 1, 0), ("denied", 0, 0), ("renter-too", 1, 1)]
)
def test_a_rented_token_is_for_whom_the_policy_says(
    there: Collections, rentals: str, owner_may: bool, renter_may: bool
) -> None:
    chain, token = there.chain, named(there.nouns, 1)
    until = int(chain.rpc.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16) + 10**6
    chain.alice.act(there.nouns, "setUser", 1, chain.carol.address, until)
    terms = Ownership(rentals=Rentals(rentals))
    owner, renter, other = (asked(there, one, [token], terms)[token] for one in (chain.alice, chain.carol, chain.bob))
    assert (owner.holds and not owner.denied, renter.holds and not renter.denied) == (owner_may, renter_may)
    assert not other.holds
    assert owner.owner == renter.owner == chain.alice.address, "renting out is no transfer"
    if rentals == "denied":
        assert owner.holds and owner.denied == f"it is rented out to {chain.carol.address} until {until}"


def test_a_rental_that_has_ended_means_nothing(there: Collections) -> None:
    chain, token = there.chain, named(there.nouns, 2)
    chain.alice.act(there.nouns, "setUser", 2, chain.carol.address, 1_000)
    for rentals in (Rentals.DENIED, Rentals.RENTER_TOO):
        found = asked(there, chain.alice, [token], Ownership(rentals=rentals))[token]
        assert (found.holds, found.denied, found.rental) == (True, "", None)
        assert not asked(there, chain.carol, [token], Ownership(rentals=rentals))[token].holds


def test_a_collection_that_knows_no_rentals_is_asked_in_vain(there: Collections) -> None:
    chain, token = there.chain, there.chain.token(there.chain.cc0, 0)
    assert asked(there, chain.alice, [token], Ownership(rentals=Rentals.DENIED))[token].holds


@pytest.mark.parametrize(("function", "output"), [("stakerOf(address,uint256)", 0), ("stakes(address,uint256)", 1)])
def test_a_staked_token_is_its_stakers_where_the_policy_names_the_pool(
    there: Collections, function: str, output: int
) -> None:
    chain, token_id = there.chain, 3 + output
    token = named(there.nouns, token_id)
    chain.alice.act(there.nouns, "approve", there.pool.address, token_id)
    chain.alice.act(there.pool, "stake", there.nouns.address, token_id)
    pool = Staking(contract=there.pool.address, function=function, output=output)

    assert asked(there, chain.alice, [token])[token] == Holding(False, there.pool.address)
    terms = Ownership(staking=(pool,))
    through = (f"staked in {there.pool.address}",)
    assert asked(there, chain.alice, [token], terms)[token] == Holding(True, chain.alice.address, through)
    assert asked(there, chain.bob, [token], terms)[token] == Holding(False, chain.alice.address, through)

    chain.alice.act(there.pool, "unstake", there.nouns.address, token_id)
    assert asked(there, chain.alice, [token], terms)[token] == Holding(True, chain.alice.address)


def test_a_pool_that_answers_no_address_has_no_staker(there: Collections) -> None:
    chain, token = there.chain, named(there.nouns, 5)
    chain.alice.act(there.nouns, "approve", there.pool.address, 5)
    chain.alice.act(there.pool, "stake", there.nouns.address, 5)
    for function, output in (("stakes(address,uint256)", 7), ("nothing(uint256)", 0)):
        pool = Staking(contract=there.pool.address, function=function, output=output)
        found = asked(there, chain.alice, [token], Ownership(staking=(pool,)))[token]
        assert (found.holds, found.owner) == (False, None), function


@pytest.mark.parametrize(
    "function", ["stakerOf", "stakerOf()", "stakerOf(bytes32)", "f(uint256,uint256)", "a b(uint256)"]
)
def test_a_staking_function_is_an_abi_signature_about_one_token(function: str) -> None:
    with pytest.raises(ValueError, match="function"):
        Staking(contract="0x" + "11" * 20, function=function)


def test_a_token_in_an_account_is_the_owners_of_the_token_it_is_bound_to(there: Collections) -> None:
    chain, inner = there.chain, named(there.nouns, 6)
    account = there.account_of(named(there.nouns, 10))
    chain.alice.transfer(there.nouns, 6, account.address)

    assert asked(there, chain.bob, [inner])[inner] == Holding(False, account.address)
    terms = Ownership(accounts=True)
    through = (f"in the account {account.address}",)
    assert asked(there, chain.bob, [inner], terms)[inner] == Holding(True, chain.bob.address, through)
    assert not asked(there, chain.alice, [inner], terms)[inner].holds

    chain.bob.transfer(there.nouns, 10, chain.carol.address)
    assert asked(there, chain.carol, [inner], terms)[inner].holds, "the account goes with its token"


def test_accounts_within_accounts_are_followed(there: Collections) -> None:
    chain, inner = there.chain, named(there.nouns, 7)
    outer_account, inner_account = (there.account_of(named(there.nouns, token_id)) for token_id in (11, 12))
    chain.alice.transfer(there.nouns, 7, inner_account.address)
    chain.bob.transfer(there.nouns, 12, outer_account.address)
    found = asked(there, chain.bob, [inner], Ownership(accounts=True))[inner]
    assert found.holds and len(found.through) == 2


def test_an_account_that_owns_itself_is_nobodys_and_ends_the_search(there: Collections) -> None:
    chain, token = there.chain, named(there.nouns, 13)
    account = there.account_of(token)
    chain.bob.transfer(there.nouns, 13, account.address)
    assert not asked(there, chain.bob, [token], Ownership(accounts=True))[token].holds


def test_an_account_that_the_registry_did_not_make_is_not_believed(there: Collections) -> None:
    chain, inner = there.chain, named(there.nouns, 8)
    real = there.account_of(named(there.nouns, 14))
    [code] = codes(chain.rpc, [real.address], chain.snapshot())
    fake = Web3.to_checksum_address("0x" + "f4" * 20)
    chain.rpc.call("anvil_setCode", fake, "0x" + code.hex())
    chain.alice.transfer(there.nouns, 8, fake)

    assert asked(there, chain.bob, [inner], Ownership(accounts=True))[inner] == Holding(False, fake)
    assert accounts.bound_token(real.address, code, CHAIN_ID) == named(there.nouns, 14)
    assert accounts.bound_token(fake, code, CHAIN_ID) is None
    assert accounts.bound_token(real.address, code, 1) is None
    assert accounts.bound_token(real.address, code[:-1] + b"\x63", CHAIN_ID) is None
    assert accounts.bound_token(real.address, b"", CHAIN_ID) is None


def test_an_account_whose_code_names_another_owner_is_nobodys(there: Collections) -> None:
    """An implementation may be anyone's: what it says must be what the chain says."""
    chain, inner = there.chain, named(there.nouns, 9)
    liar = Web3.to_checksum_address("0x" + "11" * 20)
    chain.rpc.call("anvil_setCode", liar, "0x" + f"73{chain.carol.address[2:].lower()}60005260206000f3")
    account = Collections(chain, there.units, there.punks, there.nouns, there.pool, _At(liar)).account_of(
        named(there.nouns, 15)
    )
    chain.alice.transfer(there.nouns, 9, account.address)
    for wallet in (chain.bob, chain.carol):
        found = asked(there, wallet, [inner], Ownership(accounts=True))[inner]
        assert (found.holds, found.owner) == (False, None)


def test_whose_tokens_are_is_told_without_a_claim(there: Collections) -> None:
    chain = there.chain
    tokens = [chain.token(chain.cc0, 0), chain.token(chain.cc0, 99), named(there.units, 1, "erc1155")]
    assert list(holders(chain.rpc, tokens, {}, chain.snapshot()).values()) == [chain.alice.address, None, None]


def test_a_claim_about_another_chain_is_not_asked_here(there: Collections) -> None:
    chain = there.chain
    elsewhere = Token(chain_id=1, contract=chain.cc0.address, token_id=0)
    with pytest.raises(BadInput, match="not on chain 31337"):
        holdings(chain.rpc, [Claim(elsewhere, chain.alice.address)], {}, chain.snapshot())


@dataclass(frozen=True)
class _At:
    """An implementation of which only the address is known."""

    address: str
    abi: tuple[()] = ()
