"""``python -m bench.chain``: what it costs to confirm who holds 10,000 tokens, and to read 10,000 logs, on loopback.

Anvil and this process share the machine. Ways that take minutes are timed on fewer tokens and scaled up; the table
says so.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak
from web3 import Web3
from web3.contract import Contract

from contracts_abi.asking import calldata
from contracts_abi.logs import event_topic, scan
from contracts_abi.model import Snapshot, Token
from contracts_abi.ownership.holding import holdings
from contracts_abi.ownership.question import Claim
from contracts_abi.ownership.since import held_since
from contracts_abi.readers import finalized_snapshot
from contracts_abi.rpc import Rpc
from deploy.devchain.anvil import ANVIL_KEYS, Anvil
from deploy.devchain.deployment import Deployer, multi_token, ours

MINTS_A_TRANSACTION = 1000
CALLS_AT_ONCE = 1000
SAMPLE = 500
CONFIRM_S, FASTER_THAN_WEB3, OVER_MULTICALL, LOGS_FASTER = 2.0, 10.0, 3.0, 5.0
OURS, UNITS, SINCE = "coterie, ERC-721", "coterie, ERC-1155", "coterie, holding times"
WEB3, MULTICALL, MULTICALL_WEB3 = "web3.py, one by one", "Multicall3, raw", "Multicall3 through web3.py"
SCAN, GET_LOGS, EVENTS = "coterie", "web3.py eth.get_logs", "web3.py events.Transfer.get_logs"

Way = Callable[[Sequence[int]], object]


@dataclass(frozen=True)
class World:
    """A chain with ``count`` tokens of one owner, and as many ids with a unit each."""

    rpc: Rpc
    web3: Web3
    owner: str
    nouns: Contract
    units: Contract
    aggregate: Contract
    snapshot: Snapshot

    def claims(self, contract: Contract, ids: Sequence[int], standard: str) -> list[Claim]:
        return [
            Claim(Token.parse(f"eip155:{self.snapshot.chain_id}/{standard}:{contract.address}/{one}"), self.owner)
            for one in ids
        ]


def main() -> None:
    """Measure, print the tables, then a line for each bar; a missed bar is no error."""
    parser = argparse.ArgumentParser(description="Time the confirmation of ownership and the reading of logs.")
    parser.add_argument("--tokens", type=int, default=10_000, help="how many")
    parser.add_argument("--repeat", type=int, default=3, help="how often each way is timed; the median counts")
    told = parser.parse_args()
    ids = range(told.tokens)
    with Anvil() as anvil:
        world = _world(anvil, told.tokens)
        confirmed = _table("who holds", ids, told.repeat, _confirming(world, told.tokens), {WEB3: SAMPLE})
        read = _table("reading logs", ids, told.repeat, _reading(world), {})
    print()
    _bar(f"chain-confirm-{told.tokens}-seconds", confirmed[OURS], CONFIRM_S)
    _bar(f"chain-confirm-{told.tokens}-units-seconds", confirmed[UNITS], CONFIRM_S)
    _bar("chain-confirm-faster-than-web3", confirmed[WEB3] / confirmed[OURS], FASTER_THAN_WEB3, at_least=True)
    _bar("chain-confirm-over-multicall3", confirmed[OURS] / confirmed[MULTICALL], OVER_MULTICALL)
    _bar("chain-logs-faster-than-web3", read[GET_LOGS] / read[SCAN], LOGS_FASTER, at_least=True)


def _world(anvil: Anvil, count: int) -> World:
    admin = Deployer(anvil.url, ANVIL_KEYS[0])
    nouns, units = admin.deploy(ours("RentableNouns")), admin.deploy(multi_token(), "")
    for first in range(0, count, MINTS_A_TRANSACTION):
        ids = range(first, min(first + MINTS_A_TRANSACTION, count))
        admin.act(nouns, "mintMany", admin.address, first, len(ids))
        admin.act(units, "mintBatch", admin.address, list(ids), [1] * len(ids), b"")
    aggregate = admin.deploy(ours("Aggregate"))
    anvil.finalize()
    web3 = Web3(Web3.HTTPProvider(anvil.url))
    rpc = Rpc(anvil.url)
    return World(rpc, web3, admin.address, nouns, units, aggregate, finalized_snapshot(rpc))


def _confirming(world: World, count: int) -> dict[str, Way]:
    """Each way answers for every id, at the snapshot, and is checked."""

    nouns, units = (
        world.claims(contract, range(count), standard)
        for contract, standard in ((world.nouns, "erc721"), (world.units, "erc1155"))
    )

    def held(claims: Sequence[Claim]) -> Way:
        def ask(ids: Sequence[int]) -> None:
            found = holdings(world.rpc, claims, {}, world.snapshot)
            _require(sum(one.holds for one in found.values()) == len(ids))

        return ask

    def since(ids: Sequence[int]) -> None:
        tokens = [claim.token for claim in nouns]
        _require(None not in held_since(world.rpc, tokens, world.snapshot).values())

    def one_by_one(ids: Sequence[int]) -> None:
        block = world.snapshot.number
        owners = [world.nouns.functions.ownerOf(one).call(block_identifier=block) for one in ids]
        _require(set(owners) == {world.owner})

    def through_web3(ids: Sequence[int]) -> None:
        for at in range(0, len(ids), CALLS_AT_ONCE):
            calls = [(world.nouns.address, True, data) for data in _owner_calls(ids[at : at + CALLS_AT_ONCE])]
            answers = world.aggregate.functions.aggregate3(calls).call(block_identifier=world.snapshot.number)
            _require(all(ok and _is(world.owner, data) for ok, data in answers))

    def raw(ids: Sequence[int]) -> None:
        selector = keccak(text="aggregate3((address,bool,bytes)[])")[:4]
        block = {"blockHash": world.snapshot.hash, "requireCanonical": True}
        for at in range(0, len(ids), CALLS_AT_ONCE):
            calls = [(world.nouns.address, True, data) for data in _owner_calls(ids[at : at + CALLS_AT_ONCE])]
            data = "0x" + (selector + encode(["(address,bool,bytes)[]"], [calls])).hex()
            answer = world.rpc.call("eth_call", {"to": world.aggregate.address, "data": data}, block)
            [answers] = decode(["(bool,bytes)[]"], bytes.fromhex(answer[2:]))
            _require(all(ok and _is(world.owner, one) for ok, one in answers))

    return {
        OURS: held(nouns),
        UNITS: held(units),
        SINCE: since,
        MULTICALL: raw,
        MULTICALL_WEB3: through_web3,
        WEB3: one_by_one,
    }


def _reading(world: World) -> dict[str, Way]:
    """All Transfer logs of the collection, with the ids in them."""
    topic, last = event_topic("Transfer(address,address,uint256)"), world.snapshot.number

    def ours_(ids: Sequence[int]) -> None:
        stretches = scan(world.rpc, world.nouns.address, [(topic,)], 0, last)
        _require(sorted(log.number(3) for one in stretches for log in one.logs) == list(ids))

    def get_logs(ids: Sequence[int]) -> None:
        wanted: Any = {"address": world.nouns.address, "topics": [topic], "fromBlock": 0, "toBlock": last}
        logs = world.web3.eth.get_logs(wanted)
        _require(sorted(int.from_bytes(log["topics"][3], "big") for log in logs) == list(ids))

    def events(ids: Sequence[int]) -> None:
        logs = world.nouns.events.Transfer().get_logs(from_block=0, to_block=last)
        _require(sorted(log["args"]["tokenId"] for log in logs) == list(ids))

    return {SCAN: ours_, GET_LOGS: get_logs, EVENTS: events}


def _table(
    what: str, ids: Sequence[int], repeat: int, ways: dict[str, Way], sampled: dict[str, int]
) -> dict[str, float]:
    """Way → median seconds for all ids, printed as they come."""
    print(f"\n| {what}: {len(ids)} tokens | seconds | |\n|---|---|---|", flush=True)
    found = {}
    for name, way in ways.items():
        some = ids[: sampled.get(name, len(ids))]
        times = []
        for _ in range(repeat):
            began = time.perf_counter()
            way(some)
            times.append(time.perf_counter() - began)
        found[name] = median(times) * len(ids) / len(some)
        note = f"timed on {len(some)} and scaled" if len(some) < len(ids) else ""
        print(f"| {name} | {found[name]:.2f} | {note} |", flush=True)
    return found


def _owner_calls(ids: Sequence[int]) -> list[bytes]:
    return [bytes.fromhex(calldata("ownerOf(uint256)", [one])[2:]) for one in ids]


def _is(owner: str, answer: bytes) -> bool:
    return answer[12:].hex() == owner[2:].lower()


def _require(right: bool) -> None:
    if not right:
        raise AssertionError("A way that is timed gave a wrong answer.")


def _bar(name: str, measured: float, limit: float, at_least: bool = False) -> None:
    met = measured >= limit if at_least else measured <= limit
    print(f"bar {name} {measured:.4g} {limit:g} {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
