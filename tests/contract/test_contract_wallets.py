"""Signatures of real Safes on a real chain: deployed and not, alone and together, before and after an owner goes."""

from __future__ import annotations

import json

import pytest
from conftest import Chain
from eth_abi.abi import encode
from eth_account import Account
from eth_utils.abi import function_signature_to_4byte_selector
from loopback import Server
from web3.contract import Contract

from contracts_abi.rpc import Rpc
from contracts_abi.signature_validator import BYTECODE
from contracts_abi.signatures import at_block, key_holder, message_hash, wallet_accepts
from deploy.devchain.anvil import ANVIL_KEYS, HERE
from deploy.devchain.deployment import licensed_nouns
from deploy.devchain.safes import SENTINEL, UNDEPLOYED, Plan, Safes, safe_signature
from protocol.errors import Conflict, Unreachable

pytestmark = pytest.mark.slow

ONE, TWO, THREE, STRANGER = ANVIL_KEYS[6:10]
OWNERS = [Account.from_key(key).address for key in (ONE, TWO, THREE)]
DIGEST, OTHER = message_hash("what was signed"), message_hash("something else")


@pytest.fixture(scope="module")
def safes(chain: Chain) -> Safes:
    return Safes(chain.admin)


@pytest.fixture(scope="module")
def alone(chain: Chain, safes: Safes) -> Contract:
    return safes.deploy(safes.plan(OWNERS[:1], 1, salt=1))


@pytest.fixture(scope="module")
def together(chain: Chain, safes: Safes) -> Contract:
    return safes.deploy(safes.plan(OWNERS, 2, salt=2))


@pytest.fixture(scope="module")
def planned(safes: Safes) -> Plan:
    return safes.plan(OWNERS, 2, salt=3)


def accepts(chain: Chain, safe: str, signature: str, digest: bytes = DIGEST) -> bool:
    return wallet_accepts(chain.rpc, safe, digest, bytes.fromhex(signature[2:]), chain.snapshot())


def test_a_safe_of_one_owner_accepts_what_that_owner_signed_and_nothing_else(chain: Chain, alone: Contract) -> None:
    signature = safe_signature(alone.address, DIGEST, [ONE])
    assert accepts(chain, alone.address, signature)
    assert not accepts(chain, alone.address, signature, OTHER)
    assert not accepts(chain, alone.address, safe_signature(alone.address, DIGEST, [STRANGER]))
    assert not accepts(chain, alone.address, safe_signature(chain.cc0.address, DIGEST, [ONE])), "for another Safe"


def test_a_safe_of_three_needs_two_of_them(chain: Chain, together: Contract) -> None:
    for keys in ([ONE, TWO], [THREE, ONE], [TWO, THREE]):
        assert accepts(chain, together.address, safe_signature(together.address, DIGEST, keys))
    for keys in ([ONE], [ONE, STRANGER]):
        assert not accepts(chain, together.address, safe_signature(together.address, DIGEST, keys))


def test_a_signature_holds_at_its_block_after_the_owner_that_made_it_has_gone(chain: Chain, safes: Safes) -> None:
    safe = safes.deploy(safes.plan(OWNERS[:1], 1, salt=4))
    signature = bytes.fromhex(safe_signature(safe.address, DIGEST, [ONE])[2:])
    before = chain.snapshot()
    safes.swap_owner(safe, SENTINEL, OWNERS[0], OWNERS[1], [ONE])
    after = chain.snapshot()
    assert at_block(chain.rpc, before)(safe.address, DIGEST, signature)
    assert not at_block(chain.rpc, after)(safe.address, DIGEST, signature)
    assert accepts(chain, safe.address, safe_signature(safe.address, DIGEST, [TWO]))


def test_a_message_that_a_safe_noted_on_chain_needs_no_signature(chain: Chain, safes: Safes, alone: Contract) -> None:
    assert not accepts(chain, alone.address, "0x")
    safes.note(alone, DIGEST, [ONE])
    assert accepts(chain, alone.address, "0x")
    assert not accepts(chain, alone.address, "0x", OTHER)


def test_a_safe_that_is_not_deployed_yet_signs_too(chain: Chain, safes: Safes, planned: Plan) -> None:
    wrapped = planned.signature(DIGEST, [ONE, THREE])
    assert accepts(chain, planned.address, wrapped)
    assert not accepts(chain, planned.address, wrapped, OTHER)
    assert not accepts(chain, planned.address, planned.signature(DIGEST, [ONE]))
    assert not accepts(chain, planned.address, safe_signature(planned.address, DIGEST, [ONE, THREE])), "not wrapped"
    assert chain.rpc.call("eth_getCode", planned.address, "latest") == "0x", "asking deployed it"
    safes.deploy(planned)
    assert accepts(chain, planned.address, wrapped), "it is deployed by now, and the signature is the same"


def test_a_deployment_of_something_else_proves_nothing(chain: Chain, safes: Safes, planned: Plan) -> None:
    strangers = safes.plan([Account.from_key(STRANGER).address], 1, salt=5)
    empty = safes.plan(OWNERS, 2, salt=6).address
    assert accepts(chain, strangers.address, strangers.signature(DIGEST, [STRANGER]))
    assert not accepts(chain, empty, strangers.signature(DIGEST, [STRANGER]))
    assert not accepts(chain, chain.alice.address, strangers.signature(DIGEST, [STRANGER]))


def test_a_wallet_that_stands_is_not_prepared_by_the_signature(chain: Chain, safes: Safes) -> None:
    """A wrapped signature may bring any call: here the one by which a stranger makes a blank Safe their own."""
    blank = safes.deploy(safes.blank(salt=7))
    theft = safes.setup([Account.from_key(STRANGER).address], 1)
    inner = bytes.fromhex(safe_signature(blank.address, DIGEST, [STRANGER])[2:])
    wrapped = encode(["address", "bytes", "bytes"], [blank.address, theft, inner])
    assert not accepts(chain, blank.address, "0x" + (wrapped + UNDEPLOYED).hex())
    chain.buyer.send([{"to": blank.address, "data": "0x" + theft.hex()}])
    assert accepts(chain, blank.address, "0x" + (wrapped + UNDEPLOYED).hex()), "really theirs now"


@pytest.mark.parametrize("wrapped", [b"", b"\x01", b"\xff" * 96])
def test_a_signature_that_is_wrapped_wrongly_is_refused(chain: Chain, alone: Contract, wrapped: bytes) -> None:
    assert not accepts(chain, alone.address, "0x" + (wrapped + UNDEPLOYED).hex())


def test_what_is_no_wallet_accepts_nothing(chain: Chain) -> None:
    echo = "0x" + "0" * 39 + "4"  # the precompile that answers with what it was asked
    for account in (chain.alice.address, chain.cc0.address, echo):
        assert not accepts(chain, account, "0x" + "11" * 65)


def answering(chain: Chain, runtime: bytes) -> str:
    """The address of a contract of this code."""
    creation = bytes.fromhex(f"61{len(runtime):04x}80600c6000396000f3") + runtime
    [receipt] = chain.admin.send([{"data": "0x" + creation.hex()}])
    assert chain.rpc.call("eth_getCode", receipt["contractAddress"], "latest") == "0x" + runtime.hex()
    return str(receipt["contractAddress"])


def test_a_wallet_that_sends_us_elsewhere_or_never_ends_is_no_wallet_and_is_not_followed(chain: Chain) -> None:
    with Server(lambda path, query: (200, {}, b"{}")) as elsewhere:
        lookup = function_signature_to_4byte_selector("OffchainLookup(address,string[],bytes,bytes4,bytes)")
        kinds = ["address", "string[]", "bytes", "bytes4", "bytes"]
        error = lookup + encode(kinds, [chain.cc0.address, [f"{elsewhere.url}/{{data}}"], b"", b"\0" * 4, b""])
        reverts = bytes.fromhex(f"61{len(error):04x}600e60003961{len(error):04x}6000fd")
        ends_never = bytes.fromhex("5b600056")
        for runtime in (reverts + error, ends_never):
            assert not accepts(chain, answering(chain, runtime), "0x" + "11" * 65)
        assert elsewhere.asked == []


def test_a_node_that_is_down_or_has_lost_the_block_says_nothing_about_a_signature(
    chain: Chain, alone: Contract
) -> None:
    signature = bytes.fromhex(safe_signature(alone.address, DIGEST, [ONE])[2:])
    snapshot = chain.snapshot()
    with pytest.raises(Unreachable):
        wallet_accepts(Rpc("http://127.0.0.1:9"), alone.address, DIGEST, signature, snapshot)
    gone = snapshot.model_copy(update={"hash": "0x" + "ab" * 32})
    with pytest.raises(Conflict, match="no longer in the chain"):
        wallet_accepts(chain.rpc, alone.address, DIGEST, signature, gone)


def test_a_key_is_recognised_without_any_chain() -> None:
    owner = Account.from_key(ONE)
    signature = bytes(owner.unsafe_sign_hash(DIGEST).signature)
    assert key_holder(DIGEST, signature) == owner.address
    assert key_holder(DIGEST, signature[:64] + bytes([signature[64] - 27])) == owner.address
    for other in (b"", signature[:64], signature + b"\0", bytes(65), signature[:64] + b"\x07"):
        assert key_holder(DIGEST, other) is None


def test_the_validator_is_what_its_source_compiles_to() -> None:
    licensed_nouns()  # compiles what has changed, all of the folder
    artifact = json.loads((HERE / "build/SignatureValidator.json").read_bytes())
    assert artifact["bytecode"] == "0x" + BYTECODE.hex()
