"""The readers against a real chain, at a block that stays put, and against contracts and nodes that mean harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from conftest import Chain
from eth_utils.crypto import keccak

from contracts_abi.model import Token
from contracts_abi.readers import (
    DEFAULT_ADMIN_ROLE,
    finalized_snapshot,
    has_role,
    licence_signal,
    owners,
    token_uris,
    tokens_of,
)
from contracts_abi.rpc import Rpc
from deploy.devchain.anvil import ANVIL_KEYS, CHAIN_ID, FINALITY, Anvil
from deploy.devchain.deployment import Deployer, preset
from protocol.errors import BadInput, Conflict, Unreachable

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]

# Runtime code of contracts that answer every call in the same bad way.
SILENT = {
    "reverts": "60006000fd",
    "halts on an invalid opcode": "fe",
    "loops until its gas is gone": "5b600056",
    "underflows the stack": "50",
    "jumps nowhere": "60ff56",
    "answers nothing": "00",
    "answers 9 MiB of zeros": "629000006000f3",
}
BAD_STRINGS = {
    "answers a string of 2 MiB": "602060005262200000602052622000406000f3",
    "claims a string longer than its answer": f"60206000527f{32 * 'ff'}60205260406000f3",
    "answers a string that is not UTF-8": "6020600052600260205261fffe60f01b60405260606000f3",
}
ALL_ONES = f"7f{32 * 'ff'}60005260206000f3"  # no address, no bool, no string, and the largest of balances
YES_TO_EVERYTHING = "600160005260206000f3"


def place(chain: Chain, code: str) -> str:
    """Put runtime code at an address of its own."""
    address = "0x" + keccak(hexstr=code)[:20].hex()
    chain.rpc.call("anvil_setCode", address, "0x" + code)
    return address


def test_the_snapshot_is_the_newest_finalized_block(chain: Chain) -> None:
    head = chain.anvil.finalize()
    snapshot = finalized_snapshot(chain.rpc)
    block = chain.rpc.call("eth_getBlockByNumber", hex(snapshot.number), False)
    assert (snapshot.chain_id, snapshot.hash) == (CHAIN_ID, block["hash"])
    assert snapshot.number >= head
    assert abs(snapshot.timestamp - time.time()) < 300, "the dev chain's clock ran away"


def test_each_token_has_its_owner_and_one_never_minted_has_none(chain: Chain) -> None:
    snapshot = chain.snapshot()
    tokens = [chain.token(chain.cc0, n) for n in (0, 4, 8)] + [chain.token(chain.preset, 3)]
    unminted = chain.token(chain.cc0, 10**60)
    assert owners(chain.rpc, [*tokens, unminted], snapshot) == {
        tokens[0]: chain.alice.address,
        tokens[1]: chain.bob.address,
        tokens[2]: chain.carol.address,
        tokens[3]: chain.bob.address,
        unminted: None,
    }


def test_the_answer_stays_that_of_the_snapshot_after_a_sale(chain: Chain) -> None:
    token = chain.mint_spare(chain.commercial, chain.alice)
    before = chain.snapshot()
    chain.alice.transfer(chain.commercial, token.token_id, chain.buyer.address)
    after = chain.snapshot()

    assert owners(chain.rpc, [token], before) == {token: chain.alice.address}
    assert owners(chain.rpc, [token], after) == {token: chain.buyer.address}
    assert token in tokens_of(chain.rpc, token.contract, chain.alice.address, before)
    assert token not in tokens_of(chain.rpc, token.contract, chain.alice.address, after)


def test_a_sale_that_is_not_finalized_yet_does_not_count(chain: Chain) -> None:
    token = chain.mint_spare(chain.commercial, chain.alice)
    chain.snapshot()
    chain.alice.transfer(chain.commercial, token.token_id, chain.buyer.address)
    assert owners(chain.rpc, [token], finalized_snapshot(chain.rpc)) == {token: chain.alice.address}


def test_an_enumerable_collection_lists_a_wallets_tokens_in_order(chain: Chain) -> None:
    snapshot = chain.snapshot()
    listed = tokens_of(chain.rpc, chain.preset.address, chain.carol.address, snapshot)
    assert listed == [chain.token(chain.preset, n) for n in (6, 7, 8)]
    assert tokens_of(chain.rpc, chain.preset.address, chain.nobody.address, snapshot) == []


def test_token_uris_come_from_the_mint_or_the_base_uri(chain: Chain) -> None:
    on_chain, by_ipfs = chain.token(chain.cc0, 1), chain.token(chain.preset, 1)
    uris = token_uris(chain.rpc, [on_chain, by_ipfs, chain.token(chain.cc0, 10**9)], chain.snapshot())
    assert uris == {
        on_chain: 'data:application/json,{"name":"Noun 1"}',
        by_ipfs: "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi/1",
    }


def test_a_licence_is_read_where_one_is_announced(chain: Chain) -> None:
    snapshot = chain.snapshot()
    personal = licence_signal(chain.rpc, chain.personal.address, snapshot)
    commercial = licence_signal(chain.rpc, chain.commercial.address, snapshot)
    assert personal and personal.name == "PERSONAL" and personal.uri.startswith("ar://") and personal.uri.endswith("/4")
    assert commercial and commercial.name == "COMMERCIAL"
    assert licence_signal(chain.rpc, chain.cc0.address, snapshot) is None
    assert licence_signal(chain.rpc, chain.preset.address, snapshot) is None


def test_roles_are_those_of_access_control(chain: Chain) -> None:
    snapshot = chain.snapshot()
    contract = chain.cc0.address
    assert has_role(chain.rpc, contract, DEFAULT_ADMIN_ROLE, chain.admin.address, snapshot)
    assert not has_role(chain.rpc, contract, DEFAULT_ADMIN_ROLE, chain.alice.address, snapshot)


def test_an_address_without_a_contract_answers_nothing(chain: Chain) -> None:
    wallet, snapshot = chain.nobody.address, chain.snapshot()
    token = Token(chain_id=CHAIN_ID, contract=wallet, token_id=0)
    assert owners(chain.rpc, [token], snapshot) == {token: None}
    assert token_uris(chain.rpc, [token], snapshot) == {}
    assert tokens_of(chain.rpc, wallet, wallet, snapshot) == []
    assert licence_signal(chain.rpc, wallet, snapshot) is None
    assert not has_role(chain.rpc, wallet, DEFAULT_ADMIN_ROLE, wallet, snapshot)


def test_contracts_that_give_no_answer_spoil_no_other(chain: Chain) -> None:
    contracts = {place(chain, code): how for how, code in SILENT.items()}
    wallet, snapshot, good = chain.nobody.address, chain.snapshot(), chain.token(chain.cc0, 0)
    bad = [Token(chain_id=CHAIN_ID, contract=contract, token_id=7) for contract in contracts]

    assert owners(chain.rpc, [*bad, good], snapshot) == {**dict.fromkeys(bad), good: chain.alice.address}
    assert list(token_uris(chain.rpc, [*bad, good], snapshot)) == [good]
    for contract, how in contracts.items():
        assert tokens_of(chain.rpc, contract, wallet, snapshot) == [], how
        assert licence_signal(chain.rpc, contract, snapshot) is None, how
        assert not has_role(chain.rpc, contract, DEFAULT_ADMIN_ROLE, wallet, snapshot), how


def test_strings_without_end_or_sense_are_no_uris_and_spoil_no_other(chain: Chain) -> None:
    contracts = [place(chain, code) for code in (*BAD_STRINGS.values(), ALL_ONES)]
    snapshot, good = chain.snapshot(), chain.token(chain.cc0, 0)
    bad = [Token(chain_id=CHAIN_ID, contract=contract, token_id=7) for contract in contracts]
    assert list(token_uris(chain.rpc, [*bad, good], snapshot)) == [good]


def test_a_word_of_ones_is_no_owner_no_role_and_no_endless_list(chain: Chain) -> None:
    contract, wallet = place(chain, ALL_ONES), chain.nobody.address
    snapshot, token = chain.snapshot(), Token(chain_id=CHAIN_ID, contract=contract, token_id=2**256 - 1)
    assert owners(chain.rpc, [token], snapshot) == {token: None}
    assert not has_role(chain.rpc, contract, DEFAULT_ADMIN_ROLE, wallet, snapshot)
    assert tokens_of(chain.rpc, contract, wallet, snapshot) == [token]


def test_a_contract_that_says_yes_to_everything_has_no_licence(chain: Chain) -> None:
    contract = place(chain, YES_TO_EVERYTHING)
    assert licence_signal(chain.rpc, contract, chain.snapshot()) is None


def test_a_thousand_owners_are_asked_in_one_go(chain: Chain) -> None:
    tokens = [chain.token(chain.cc0, n) for n in range(1000, 2000)] + [chain.token(chain.cc0, 0)]
    snapshot = chain.snapshot()
    started = time.monotonic()
    found = owners(chain.rpc, tokens, snapshot)
    assert time.monotonic() - started < 5
    assert list(found) == tokens
    assert {token: owner for token, owner in found.items() if owner} == {tokens[-1]: chain.alice.address}


def test_a_token_of_another_chain_is_not_asked_here(chain: Chain) -> None:
    elsewhere = Token(chain_id=1, contract=chain.cc0.address, token_id=0)
    with pytest.raises(BadInput, match="not on chain 31337"):
        owners(chain.rpc, [elsewhere], chain.snapshot())


def test_a_reorganised_snapshot_is_named_and_never_passes_for_an_answer() -> None:
    with Anvil() as anvil:
        rpc, admin = Rpc(anvil.url), Deployer(anvil.url, ANVIL_KEYS[0])
        collection = admin.deploy(preset(), "Plain", "PLAIN", "ipfs://x/")
        admin.mint(collection, [admin.address])
        anvil.finalize()
        token, snapshot = Token(chain_id=CHAIN_ID, contract=collection.address, token_id=0), finalized_snapshot(rpc)
        assert owners(rpc, [token], snapshot) == {token: admin.address}

        anvil.reorg(FINALITY + 1)
        with pytest.raises(Conflict, match=r"Block 2 \(0x[0-9a-f]{64}\) is no longer in the chain"):
            owners(rpc, [token], snapshot)


def test_a_minter_without_the_role_is_refused(chain: Chain) -> None:
    with pytest.raises(Conflict, match="reverted"):
        chain.nobody.mint(chain.preset, [chain.nobody.address])


@contextmanager
def node_that_says(status: int, reply: object) -> Iterator[Rpc]:
    """A node that gives the same reply to everything; a callable gets the batch's ids."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = reply([call["id"] for call in asked]) if callable(reply) else reply
            body = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield Rpc(f"http://127.0.0.1:{server.server_port}/v2/secret-api-key", timeout_s=5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def every(**answer: object) -> object:
    return lambda ids: [{"jsonrpc": "2.0", "id": at, **answer} for at in ids]


@pytest.mark.parametrize(
    ("status", "reply"),
    [
        (502, b"<html>Bad gateway</html>"),
        (307, b""),
        (200, {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batches are not allowed"}}),
        (200, every(error={"code": -32005, "message": "daily request count exceeded"})),
        (200, every(error={"code": -32000, "message": "missing trie node"})),
        (200, every(error="no")),
        (200, []),
        (200, [7, None]),
    ],
)
def test_a_node_that_refuses_never_passes_for_a_contract_without_owner(
    chain: Chain, status: int, reply: object
) -> None:
    snapshot = chain.snapshot()
    with node_that_says(status, reply) as rpc, pytest.raises(Unreachable) as caught:
        owners(rpc, [chain.token(chain.cc0, 0)], snapshot)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_a_node_that_is_down_is_named_without_its_key() -> None:
    with node_that_says(200, []) as rpc:
        pass
    with pytest.raises(Unreachable, match=r"The chain at http://127.0.0.1:\d+ does not answer\. Check") as caught:
        finalized_snapshot(rpc)
    assert "secret" not in str(caught.value)


def test_a_node_without_finalized_blocks_is_told() -> None:
    with node_that_says(200, every(result=None)) as rpc, pytest.raises(Unreachable, match="no finalized block"):
        finalized_snapshot(rpc)


HOLD_A_CHAIN = """
import signal, time
from deploy.devchain.anvil import Anvil
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what it runs in the background
with Anvil() as anvil:
    print(anvil.url, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")),
        pytest.param(signal.SIGKILL, marks=pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")),
    ],
)
def test_the_chain_ends_with_the_process_that_started_it(how: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_A_CHAIN],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout
        rpc = Rpc(owner.stdout.readline().strip())
        assert rpc.call("eth_chainId") == hex(CHAIN_ID)
        owner.send_signal(how)
        owner.wait(20)
    assert ended(rpc), f"anvil outlived {how.name}"


def test_the_chain_ends_when_its_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), Anvil() as anvil:
        raise ZeroDivisionError
    assert ended(anvil.rpc)


def ended(rpc: Rpc) -> bool:
    """Whether the chain stops answering within five seconds."""
    for _ in range(100):
        try:
            rpc.call("eth_chainId")
        except Unreachable:
            return True
        time.sleep(0.05)
    return False
