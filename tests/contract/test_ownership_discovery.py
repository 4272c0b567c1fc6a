"""What a wallet holds, found without enumeration: in the logs, by an indexer, by asking; and confirmed on the chain."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from conftest import Chain
from web3.contract import Contract

from contracts_abi.logs import Pace, scan
from contracts_abi.model import Snapshot
from contracts_abi.ownership.checkpoints import Checkpoint, CheckpointFolder
from contracts_abi.ownership.discovery import Sources, held_tokens, received
from contracts_abi.ownership.indexer import Indexer
from contracts_abi.ownership.terms import Kind, Ownership, Rentals, Staking
from contracts_abi.readers import finalized_snapshot
from contracts_abi.rpc import Rpc
from deploy.devchain.anvil import ANVIL_KEYS, FINALITY, Anvil
from deploy.devchain.deployment import Deployer, multi_token, ours
from protocol.errors import Unreachable

pytestmark = pytest.mark.slow
KEY = "the-secret-key"


@pytest.fixture(scope="module")
def nouns(chain: Chain) -> Contract:
    """Not enumerable: 0-4 are alice's, 5-9 bob's; 1 went from alice to bob, 5 from bob to alice and back."""
    contract = chain.admin.deploy(ours("RentableNouns"))
    chain.admin.act(contract, "mintMany", chain.alice.address, 0, 5)
    chain.anvil.mine(40)
    chain.admin.act(contract, "mintMany", chain.bob.address, 5, 5)
    chain.alice.transfer(contract, 1, chain.bob.address)
    chain.bob.transfer(contract, 5, chain.alice.address)
    chain.anvil.mine(40)
    chain.alice.transfer(contract, 5, chain.bob.address)
    return contract


def ids(rpc: Rpc, wallet: Deployer, contract: Contract, snapshot: Snapshot, **told: Any) -> list[int]:
    terms = told.pop("terms", Ownership())
    found = held_tokens(rpc, wallet.address, {contract.address: terms}, snapshot, Sources(**told))
    assert all(one.holds for one in found.values())
    return [token.token_id for token in found]


class Provider(Rpc):
    """The chain's node behind a provider's limits: some blocks a question, some logs an answer. Not a chain itself."""

    def __init__(
        self, url: str, blocks: int = 10**9, logs: int = 10**9, says: str = "block range is too large"
    ) -> None:
        super().__init__(url)
        self.blocks, self.logs, self.says = blocks, logs, says
        self.asked: list[tuple[int, int]] = []

    def _post(self, calls: Any) -> dict[int, dict[str, Any]]:
        replies = super()._post(calls)
        for at, (method, params) in enumerate(calls):
            if method != "eth_getLogs":
                continue
            low, high = (int(params[0][end], 16) for end in ("fromBlock", "toBlock"))
            self.asked.append((low, high))
            if high - low + 1 > self.blocks or len(replies[at].get("result", ())) > self.logs:
                replies[at] = {"id": at, "error": {"code": -32005, "message": self.says}}
        return replies


def test_a_collection_that_does_not_enumerate_is_found_in_its_logs(chain: Chain, nouns: Contract) -> None:
    snapshot = chain.snapshot()
    assert ids(chain.rpc, chain.alice, nouns, snapshot) == [0, 2, 3, 4]
    assert ids(chain.rpc, chain.bob, nouns, snapshot) == [1, 5, 6, 7, 8, 9]
    assert ids(chain.rpc, chain.nobody, nouns, snapshot) == []


def test_units_come_by_single_and_by_batch(chain: Chain) -> None:
    units = chain.admin.deploy(multi_token(), "")
    chain.admin.act(units, "mint", chain.alice.address, 3, 1, b"")
    chain.admin.act(units, "mintBatch", chain.alice.address, [8, 9, 2**200], [1, 2, 1], b"")
    chain.alice.act(units, "safeTransferFrom", chain.alice.address, chain.bob.address, 9, 2, b"")
    chain.alice.act(units, "safeTransferFrom", chain.alice.address, chain.alice.address, 3, 1, b"")
    snapshot = chain.snapshot()
    assert ids(chain.rpc, chain.alice, units, snapshot) == [3, 8, 2**200]
    assert ids(chain.rpc, chain.bob, units, snapshot) == [9]
    found = held_tokens(chain.rpc, chain.bob.address, {units.address: Ownership()}, snapshot)
    assert [str(token).split(":")[1].split("/")[1] for token in found] == ["erc1155"]


def test_punks_are_asked_for_one_by_one(chain: Chain) -> None:
    punks = chain.admin.deploy(ours("Punks"))
    for index in (0, 77, 9_999):
        chain.alice.act(punks, "getPunk", index)
    chain.alice.act(punks, "transferPunk", chain.bob.address, 77)
    snapshot, terms = chain.snapshot(), Ownership(kind=Kind.CRYPTOPUNKS)
    assert ids(chain.rpc, chain.alice, punks, snapshot, terms=terms) == [0, 9_999]
    assert ids(chain.rpc, chain.bob, punks, snapshot, terms=terms) == [77]
    assert ids(chain.rpc, chain.nobody, punks, snapshot, terms=terms) == []


def test_staked_and_rented_tokens_are_found_too(chain: Chain) -> None:
    nouns, pool = chain.admin.deploy(ours("RentableNouns")), chain.admin.deploy(ours("StakingPool"))
    chain.admin.act(nouns, "mintMany", chain.alice.address, 0, 3)
    chain.alice.act(nouns, "approve", pool.address, 1)
    chain.alice.act(pool, "stake", nouns.address, 1)
    chain.alice.act(nouns, "setUser", 2, chain.carol.address, 2**40)
    snapshot = chain.snapshot()
    staking = Ownership(staking=(Staking(contract=pool.address, function="stakerOf(address,uint256)"),))
    assert ids(chain.rpc, chain.alice, nouns, snapshot) == [0, 2]
    assert ids(chain.rpc, chain.alice, nouns, snapshot, terms=staking) == [0, 1, 2]
    assert ids(chain.rpc, chain.carol, nouns, snapshot, terms=Ownership(rentals=Rentals.RENTER_TOO)) == [2]


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"blocks": 10}, "Under the Free tier plan, eth_getLogs is limited to a 10 block range"),
        ({"blocks": 1}, "exceed maximum block range"),
        ({"logs": 5}, "query returned more than 5 results"),
        ({"blocks": 7, "logs": 5}, "query timeout exceeded"),
    ],
)
def test_a_providers_limits_are_found_out_and_kept_to(
    chain: Chain, nouns: Contract, limits: dict[str, int], says: str
) -> None:
    snapshot = chain.snapshot()
    provider = Provider(chain.url, **limits, says=says)
    assert ids(provider, chain.bob, nouns, snapshot) == [1, 5, 6, 7, 8, 9]


def test_stretches_are_halved_on_a_refusal_and_grow_back(chain: Chain, nouns: Contract) -> None:
    last = chain.snapshot().number
    provider, pace = Provider(chain.url, blocks=20), Pace(64)
    for backwards in (False, True):
        got = list(scan(provider, nouns.address, [()], 0, last, backwards=backwards, pace=pace))
        ordered = got[::-1] if backwards else got
        assert [one.first for one in ordered] == [0, *(one.last + 1 for one in ordered[:-1])], "a gap, or twice"
        assert ordered[-1].last == last and len([log for one in got for log in one.logs]) >= 13
        assert all(one.last - one.first < 20 for one in got)
    sizes = [high - low + 1 for low, high in provider.asked]
    refused = sum(size > 20 for size in sizes)
    assert sizes[:3] == [64, 32, 16] and refused < len(sizes) / 3, sizes
    assert {17, 19} & set(sizes), "it never grew back"


def test_a_limit_on_requests_is_no_reason_to_ask_for_less(chain: Chain, nouns: Contract) -> None:
    provider = Provider(chain.url, blocks=1, says="429: too many requests, rate limit reached")
    with pytest.raises(Unreachable, match="too many requests"):
        list(scan(provider, nouns.address, [()], 0, 100))
    assert len(provider.asked) == 1


def test_a_node_that_refuses_a_single_block_is_told(chain: Chain, nouns: Contract) -> None:
    provider = Provider(chain.url, blocks=0, says="logs are pruned")
    with pytest.raises(Unreachable, match="logs are pruned"):
        list(scan(provider, nouns.address, [()], 0, 100))


def test_the_next_look_goes_on_where_the_last_one_ended(chain: Chain, nouns: Contract, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    first, provider = chain.snapshot(), Provider(chain.url)
    assert ids(provider, chain.alice, nouns, first, checkpoints=folder) == [0, 2, 3, 4]
    chain.admin.act(nouns, "mintMany", chain.alice.address, 100, 1)
    second = chain.snapshot()
    provider.asked.clear()
    assert ids(provider, chain.alice, nouns, second, checkpoints=CheckpointFolder(tmp_path)) == [0, 2, 3, 4, 100]
    assert {low for low, _ in provider.asked} == {first.number + 1}
    provider.asked.clear()
    assert ids(provider, chain.alice, nouns, second, checkpoints=folder) == [0, 2, 3, 4, 100]
    assert provider.asked == [], "nothing was left to read"
    chain.alice.transfer(nouns, 100, chain.nobody.address)
    assert ids(provider, chain.alice, nouns, chain.snapshot(), checkpoints=folder) == [0, 2, 3, 4], (
        "a kept token is no proof"
    )
    chain.nobody.transfer(nouns, 100, chain.admin.address)


def test_a_look_that_is_cut_short_is_gone_on_with(chain: Chain, nouns: Contract, tmp_path: Path) -> None:
    snapshot, provider = chain.snapshot(), Provider(chain.url, blocks=3)
    sources = Sources(CheckpointFolder(tmp_path), patience_s=0.0)
    looks = 0
    while True:
        looks += 1
        try:
            found = received(provider, nouns.address, chain.bob.address, snapshot, Ownership(), sources)
            break
        except Unreachable as unfinished:
            assert "not read to their end" in unfinished.message and "goes on from there" in unfinished.hint
        assert looks < 10**4
        sources = Sources(CheckpointFolder(tmp_path), patience_s=0.05)
    assert found == {1, 5, 6, 7, 8, 9} and looks > 1


@pytest.mark.parametrize("damage", ["{", "{}", '{"through": -1, "hash": "", "token_ids": []}'])
def test_a_checkpoint_that_cannot_be_read_costs_time_only(
    chain: Chain, nouns: Contract, tmp_path: Path, damage: str
) -> None:
    snapshot = chain.snapshot()
    ids(chain.rpc, chain.alice, nouns, snapshot, checkpoints=CheckpointFolder(tmp_path))
    [file] = tmp_path.iterdir()
    file.write_text(damage)
    assert ids(chain.rpc, chain.alice, nouns, snapshot, checkpoints=CheckpointFolder(tmp_path)) == [0, 2, 3, 4]


def test_a_checkpoint_from_before_a_fork_begins_anew(tmp_path: Path) -> None:
    with Anvil() as anvil:
        rpc, admin = Rpc(anvil.url), Deployer(anvil.url, ANVIL_KEYS[0])
        nouns = admin.deploy(ours("RentableNouns"))
        anvil.mine(3)
        admin.act(nouns, "mintMany", admin.address, 0, 2)
        anvil.finalize()
        folder, before = CheckpointFolder(tmp_path), finalized_snapshot(rpc)
        assert ids(rpc, admin, nouns, before, checkpoints=folder) == [0, 1]

        anvil.reorg(FINALITY + 2)  # the mint never happened
        anvil.finalize()
        after = finalized_snapshot(rpc)
        kept = folder.load(before.chain_id, nouns.address, admin.address)
        assert kept == Checkpoint(through=before.number, hash=before.hash, token_ids=("0", "1"))
        assert received(rpc, nouns.address, admin.address, after, Ownership(), Sources(folder)) == set()
        again = folder.load(before.chain_id, nouns.address, admin.address)
        assert again == Checkpoint(through=after.number, hash=after.hash, token_ids=())


# The indexer ----------------------------------------------------------------------------------------------------------


@contextmanager
def alchemy(entries: list[Any], fault: str = "") -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """A server on loopback that speaks the format of Alchemy's NFT API v3, two entries a page; what it was asked."""
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            asked.append(query)
            status = 200 if parts.path == f"/nft/v3/{KEY}/getNFTsForOwner" else 401
            wanted = {one.lower() for one in query["contractAddresses[]"]}
            mine = [one for one in entries if address_in(one).lower() in {"", *wanted}]
            at = int(query.get("pageKey", ["0"])[0])
            page = {
                "ownedNfts": mine[at : at + 2],
                "totalCount": len(mine),
                "validAt": {"blockNumber": 1, "blockHash": None, "blockTimestamp": None},
                "pageKey": str(at + 2) if at + 2 < len(mine) or fault == "endless" else None,
            }
            body = {"no json": b"<html>", "no list": b'{"ownedNfts": 7}', "no object": b"[]"}.get(
                fault, json.dumps(page).encode()
            )
            self.send_response(429 if fault == "limited" else 307 if fault == "redirect" else status)
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    def address_in(one: Any) -> str:
        contract = one.get("contract") or {} if isinstance(one, dict) else {}
        return str(one.get("contractAddress", contract.get("address", ""))) if isinstance(one, dict) else ""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def entry(contract: Contract, token_id: int) -> dict[str, Any]:
    """As the API answers without metadata."""
    return {"contractAddress": contract.address.lower(), "tokenId": str(token_id), "balance": "1"}


def test_an_indexer_spares_the_logs_and_what_it_says_is_confirmed(chain: Chain, nouns: Contract) -> None:
    with_metadata = {"contract": {"address": nouns.address}, "tokenId": "3", "tokenType": "ERC721", "balance": "1"}
    hints = [entry(nouns, 0), entry(nouns, 1), with_metadata, entry(nouns, 10**9), entry(nouns, 0)]
    provider = Provider(chain.url)
    with alchemy(hints) as (url, asked):
        assert ids(provider, chain.alice, nouns, chain.snapshot(), indexer=Indexer(url + "/", KEY)) == [0, 3]
    assert provider.asked == []
    assert len(asked) == 3
    assert asked[0] == {
        "owner": [chain.alice.address],
        "withMetadata": ["false"],
        "pageSize": ["100"],
        "contractAddresses[]": [nouns.address],
    }
    assert [one.get("pageKey") for one in asked] == [None, ["2"], ["4"]]


def test_an_enumerable_collection_asks_no_indexer(chain: Chain) -> None:
    with alchemy([]) as (url, asked):
        terms = {chain.cc0.address: Ownership()}
        found = held_tokens(chain.rpc, chain.bob.address, terms, chain.snapshot(), Sources(indexer=Indexer(url, KEY)))
    assert {chain.token(chain.cc0, n) for n in (3, 4, 5)} <= set(found) and asked == []


@pytest.mark.parametrize("fault", ["limited", "redirect", "no json", "no list", "no object", "endless"])
def test_an_indexer_that_fails_is_done_without_and_never_shows_its_key(
    chain: Chain, nouns: Contract, fault: str
) -> None:
    with alchemy([entry(nouns, 0)], fault) as (url, _):
        indexer = Indexer(url, KEY)
        with pytest.raises(Unreachable) as caught:
            indexer.token_ids(chain.alice.address, [nouns.address])
        assert ids(chain.rpc, chain.alice, nouns, chain.snapshot(), indexer=indexer) == [0, 2, 3, 4]
    shown = f"{caught.value!r} {caught.value.__cause__!r} {indexer!r}"
    assert KEY not in shown and "indexer_key" in caught.value.hint


def test_an_indexer_that_is_down_is_told_without_its_key(chain: Chain, nouns: Contract) -> None:
    with alchemy([]) as (url, _):
        pass
    with pytest.raises(Unreachable, match="gave no answer") as caught:
        Indexer(url, KEY).token_ids(chain.alice.address, [nouns.address])
    assert KEY not in str(caught.value) and caught.value.__cause__ is None
    assert isinstance(caught.value.__context__, requests.RequestException) and caught.value.__suppress_context__


def test_entries_that_name_no_token_are_passed_over(chain: Chain, nouns: Contract) -> None:
    bad: list[Any] = [
        7,
        {},
        {"tokenId": "1"},
        {"contract": None, "tokenId": "1"},
        entry(nouns, 2**256),
        entry(nouns, -1),
    ]
    with alchemy([*bad, {**entry(nouns, 0), "tokenId": "many"}, entry(nouns, 4)]) as (url, _):
        assert Indexer(url, KEY).token_ids(chain.alice.address, [nouns.address]) == {nouns.address: [4]}
