"""Since when a token has been its owner's, told by the logs, believed only where the state agrees."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from conftest import Chain
from web3.contract import Contract

from contracts_abi.model import Snapshot, Token
from contracts_abi.ownership.since import HeldSince, block_at, held_since
from contracts_abi.ownership.terms import Kind, Ownership
from contracts_abi.rpc import Rpc
from deploy.devchain.anvil import CHAIN_ID
from deploy.devchain.deployment import Deployer, multi_token, ours
from protocol.errors import BadInput, Unreachable

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class History:
    """Rentable Nouns whose moves are known by their blocks."""

    chain: Chain
    nouns: Contract
    minted: int
    sold: int
    """Token 1 went from alice to bob here, 2 to bob and, later, back."""
    returned: int


def now(chain: Chain) -> int:
    return int(chain.rpc.call("eth_blockNumber"), 16)


def time_of(chain: Chain, block: int) -> int:
    return int(chain.rpc.call("eth_getBlockByNumber", hex(block), False)["timestamp"], 16)


@pytest.fixture(scope="module")
def there(chain: Chain) -> History:
    nouns = chain.admin.deploy(ours("RentableNouns"))
    chain.admin.act(nouns, "mintMany", chain.alice.address, 0, 250)
    minted = now(chain)
    chain.anvil.mine(30)
    chain.alice.transfer(nouns, 2, chain.bob.address)
    chain.alice.transfer(nouns, 1, chain.bob.address)
    sold = now(chain)
    chain.anvil.mine(30)
    chain.bob.transfer(nouns, 2, chain.alice.address)
    returned = now(chain)
    chain.alice.transfer(nouns, 3, chain.alice.address)
    return History(chain, nouns, minted, sold, returned)


def named(collection: Contract, token_id: int, standard: str = "erc721") -> Token:
    return Token.parse(f"eip155:{CHAIN_ID}/{standard}:{collection.address}/{token_id}")


def blocks(found: dict[Token, HeldSince | None]) -> list[int | None]:
    return [one and one.block for one in found.values()]


def test_a_token_is_held_since_its_last_transfer_to_its_owner(there: History) -> None:
    chain, tokens = there.chain, [named(there.nouns, n) for n in (0, 1, 2, 3, 999)]
    found = held_since(chain.rpc, tokens, chain.snapshot())
    assert list(found) == tokens
    assert blocks(found) == [there.minted, there.sold, there.returned, there.minted, None]
    assert found[tokens[1]] == HeldSince(there.sold, time_of(chain, there.sold))


def test_at_an_older_snapshot_the_answer_is_that_of_then(there: History) -> None:
    block = there.chain.rpc.call("eth_getBlockByNumber", hex(there.sold + 1), False)
    then = Snapshot(chain_id=CHAIN_ID, number=there.sold + 1, hash=block["hash"], timestamp=int(block["timestamp"], 16))
    assert blocks(held_since(there.chain.rpc, [named(there.nouns, 2)], then)) == [there.sold - 1]


def test_many_tokens_are_asked_in_parts(there: History) -> None:
    tokens = [named(there.nouns, n) for n in range(250)]
    found = blocks(held_since(there.chain.rpc, tokens, there.chain.snapshot()))
    assert found[4:] == [there.minted] * 246


def test_nobody_looks_further_back_than_asked(there: History) -> None:
    chain, floor = there.chain, there.sold + 5
    tokens = [named(there.nouns, n) for n in (0, 1, 2, 999)]
    found = held_since(chain.rpc, tokens, chain.snapshot(), not_before=floor)
    assert found[tokens[0]] == found[tokens[1]] == HeldSince(floor, time_of(chain, floor), exact=False)
    assert found[tokens[2]] == HeldSince(there.returned, time_of(chain, there.returned))
    assert found[tokens[3]] is None, "nobody's token is held by nobody, however far one looks"


def test_a_block_is_found_by_its_time(there: History) -> None:
    chain, snapshot = there.chain, there.chain.snapshot()
    for timestamp in (0, time_of(chain, there.sold), time_of(chain, there.sold) + 1, snapshot.timestamp + 10**6):
        found = block_at(chain.rpc, timestamp, snapshot)
        assert found == snapshot.number or time_of(chain, found) >= timestamp
        assert found == 0 or time_of(chain, found - 1) < timestamp


def test_a_collection_whose_logs_do_not_fit_its_state_is_not_believed(chain: Chain) -> None:
    """The state says bob (by a storage write that logs nothing), the last event says alice."""
    nouns = chain.admin.deploy(ours("RentableNouns"))
    chain.admin.act(nouns, "mintMany", chain.alice.address, 7, 1)
    token, snapshot = named(nouns, 7), chain.snapshot()
    [held] = held_since(chain.rpc, [token], snapshot).values()
    assert held
    chain.rpc.call("anvil_setCode", nouns.address, "0x73" + chain.bob.address[2:].lower() + "60005260206000f3")
    assert held_since(chain.rpc, [token], chain.snapshot()) == {token: None}


def test_a_token_whose_logs_are_nowhere_is_not_known(chain: Chain) -> None:
    silent = chain.admin.deploy(ours("RentableNouns"))
    chain.rpc.call("anvil_setCode", silent.address, "0x73" + chain.bob.address[2:].lower() + "60005260206000f3")
    token = named(silent, 7)
    assert held_since(chain.rpc, [token], chain.snapshot()) == {token: None}


def test_a_unit_is_held_since_the_wallet_last_had_none(chain: Chain) -> None:
    units, alice = chain.admin.deploy(multi_token(), ""), chain.alice.address

    def move(sender: Deployer, token_id: int, amount: int, to: str) -> int:
        if sender is chain.admin:
            chain.admin.act(units, "mint", to, token_id, amount, b"")
        else:
            sender.act(units, "safeTransferFrom", sender.address, to, token_id, amount, b"")
        return now(chain)

    first = move(chain.admin, 1, 2, alice)
    move(chain.admin, 1, 5, alice)
    move(chain.alice, 1, 6, chain.bob.address)
    move(chain.admin, 2, 1, alice)
    move(chain.alice, 2, 1, chain.bob.address)
    again = move(chain.bob, 2, 1, alice)
    chain.admin.act(units, "mintBatch", alice, [3, 3, 4], [1, 1, 1], b"")
    batch = now(chain)
    move(chain.alice, 3, 2, alice)

    tokens, snapshot = [named(units, n, "erc1155") for n in (1, 2, 3, 4, 5)], chain.snapshot()
    assert blocks(held_since(chain.rpc, tokens, snapshot, wallet=alice)) == [first, again, batch, batch, None]
    assert blocks(held_since(chain.rpc, tokens, snapshot, wallet=chain.bob.address)) == [
        first + 2,
        None,
        None,
        None,
        None,
    ]
    assert blocks(held_since(chain.rpc, tokens, snapshot)) == [None] * 5, "an id has no one owner"
    late = held_since(chain.rpc, tokens[:2], snapshot, wallet=alice, not_before=again)
    assert list(late.values()) == [
        HeldSince(again, time_of(chain, again), exact=False),
        HeldSince(again, time_of(chain, again)),
    ]


def test_a_punk_is_held_since_its_events_say_so_and_a_zero_receiver_says_nothing(chain: Chain) -> None:
    punks, since = chain.admin.deploy(ours("Punks")), {}
    chain.alice.act(punks, "getPunk", 1)
    since[1] = now(chain)
    chain.alice.act(punks, "getPunk", 2)
    chain.alice.act(punks, "transferPunk", chain.bob.address, 2)
    since[2] = now(chain)
    for index in (3, 4):
        chain.alice.act(punks, "getPunk", index)
        chain.bob.act(punks, "enterBidForPunk", index)
        chain.alice.act(punks, "acceptBidForPunk", index)
    chain.bob.act(punks, "transferPunk", chain.alice.address, 4)
    since[4] = now(chain)
    terms = {punks.address: Ownership(kind=Kind.CRYPTOPUNKS)}
    tokens = [named(punks, n) for n in (1, 2, 3, 4, 5)]
    found = held_since(chain.rpc, tokens, chain.snapshot(), terms=terms)
    assert blocks(found) == [since[1], since[2], None, since[4], None]


def test_holding_times_of_several_collections_come_together(there: History) -> None:
    chain = there.chain
    tokens = [named(there.nouns, 1), chain.token(chain.cc0, 0)]
    found = held_since(chain.rpc, tokens, chain.snapshot())
    assert found[tokens[0]] and found[tokens[1]] and found[tokens[1]].block < there.minted
    terms = {there.nouns.address: Ownership(since=there.sold + 1)}
    assert held_since(chain.rpc, tokens[:1], chain.snapshot(), terms=terms) == {tokens[0]: None}


def test_patience_ends_the_reading_and_a_strange_chain_is_not_asked(there: History) -> None:
    chain, token = there.chain, named(there.nouns, 0)
    with pytest.raises(Unreachable, match="not read to their end"):
        held_since(chain.rpc, [token], chain.snapshot(), patience_s=-1.0)
    with pytest.raises(BadInput, match="not on chain"):
        held_since(chain.rpc, [token.model_copy(update={"chain_id": 1})], chain.snapshot())


class Timeless(Rpc):
    """The chain's node, without the time of any block."""

    def batch(self, calls):  # type: ignore[no-untyped-def]
        got = super().batch(calls)
        return [
            {"hash": one["hash"]} if method == "eth_getBlockByNumber" else one
            for (method, _), one in zip(calls, got, strict=True)
        ]


def test_a_node_that_tells_no_times_is_told(there: History) -> None:
    snapshot = there.chain.snapshot()
    with pytest.raises(Unreachable, match="does not tell a block's time"):
        held_since(Timeless(there.chain.url), [named(there.nouns, 0)], snapshot)
