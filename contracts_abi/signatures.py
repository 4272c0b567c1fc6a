"""Whose signature it is: an account's own key (ECDSA), or a contract wallet's word on it (ERC-1271, ERC-6492).

A contract wallet answers for the block it is asked at: a Safe whose owners have changed no longer takes what it took
before, and still does when it is asked at the old block. So a signature is kept together with its block. Many
signatures say the same thing (high s, other owners of a Safe): none is ever a key to anything.

A wallet under test is its owner's contract: it is asked with little gas, at one pinned block, and nothing that it
answers leads anywhere else (there is no CCIP-read here).
"""

from __future__ import annotations

from collections.abc import Callable

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from contracts_abi.asking import calls_at
from contracts_abi.model import Address, Snapshot
from contracts_abi.rpc import Rpc
from contracts_abi.signature_validator import BYTECODE
from protocol.errors import NotAllowed

MAX_BYTES = 8192
"""A Safe's signature has 65 bytes an owner, an undeployed one's the owners and the deployment besides."""
WALLET_GAS = 5_000_000
"""Enough to deploy a wallet and ask it; a wallet that needs more gives no answer."""

_IS_VALID = function_signature_to_4byte_selector("isValidSignature(bytes32,bytes)")
_UNDEPLOYED = bytes.fromhex(16 * "6492")

AskWallet = Callable[[Address, bytes, bytes], bool]
"""Account, 32-byte hash, signature → whether the account, as a contract wallet, accepts it."""


def signature_bytes(text: str) -> bytes:
    """The bytes of a hex signature; empty ones are a Safe's way to say that it noted the message on chain.

    Raises:
        NotAllowed: no hex, or too long to be a signature.
    """
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise NotAllowed("The signature cannot be read.", "Send it in hex, as the wallet gave it.") from error
    if len(data) > MAX_BYTES:
        raise NotAllowed(f"A signature has at most {MAX_BYTES} bytes.", "Send what the wallet gave, and nothing else.")
    return data


def message_hash(text: str) -> bytes:
    """What ``personal_sign`` signs (EIP-191, version 0x45)."""
    data = text.encode()
    return keccak(b"\x19Ethereum Signed Message:\n" + str(len(data)).encode() + data)


def key_holder(digest: bytes, signature: bytes) -> Address | None:
    """The account whose key made this signature (r ‖ s ‖ v, v of 0, 1, 27 or 28); None where nobody's did."""
    if len(signature) != 65:
        return None
    v = signature[64] - 27 if signature[64] >= 27 else signature[64]
    try:
        key = Signature(signature[:64] + bytes([v])).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError, ValueError):
        return None
    return key.to_checksum_address()


def wallet_accepts(rpc: Rpc, account: Address, digest: bytes, signature: bytes, snapshot: Snapshot) -> bool:
    """Whether the contract wallet at ``account`` accepts ``signature`` over ``digest`` at ``snapshot``.

    Raises:
        Unreachable: the node does not answer: that is no word on the signature.
        Conflict: the block is no longer in the chain.
    """
    question = _question(account, digest, signature)
    if question is None:
        return False
    call, yes = question
    [answer] = calls_at(rpc, [{**call, "gas": hex(WALLET_GAS)}], snapshot)
    return isinstance(answer, str) and answer.lower().startswith(yes)


def at_block(rpc: Rpc, snapshot: Snapshot) -> AskWallet:
    """Contract wallets asked at ``snapshot``."""
    return lambda account, digest, signature: wallet_accepts(rpc, account, digest, signature, snapshot)


def _question(account: Address, digest: bytes, signature: bytes) -> tuple[dict[str, str], str] | None:
    """What to call, and the word (0x-prefixed hex) that is a yes; None for an ERC-6492 signature wrapped wrongly."""
    if not signature.endswith(_UNDEPLOYED):
        data = _IS_VALID + encode(["bytes32", "bytes"], [digest, signature])
        return {"to": account, "data": "0x" + data.hex()}, "0x" + _IS_VALID.ljust(32, b"\0").hex()
    kinds = ["address", "bytes", "bytes"]
    try:  # ERC-6492: the factory, its calldata and the wallet's own signature, wrapped together
        wrapped = decode(kinds, signature[: -len(_UNDEPLOYED)])
    except (DecodingError, OverflowError):
        return None
    data = BYTECODE + encode(["address", "bytes32", *kinds], [account, digest, *wrapped])
    return {"data": "0x" + data.hex()}, "0x" + (1).to_bytes(32, "big").hex()
