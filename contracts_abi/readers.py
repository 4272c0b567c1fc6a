"""Questions to the chain, all asked at one pinned block (EIP-1898 with ``requireCanonical``).

Contracts are hostile: one that reverts, burns its gas, answers garbage or without end gives no answer, and never
spoils what is asked of the others. A node that does not answer raises Unreachable, and a block that is no longer
in the chain raises Conflict: neither ever passes for an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address

from contracts_abi.model import LicenceSignal, Snapshot, Token
from contracts_abi.rpc import CallReverted, Rpc
from protocol.errors import BadInput, Conflict, Unreachable

DEFAULT_ADMIN_ROLE = bytes(32)
CANT_BE_EVIL = bytes.fromhex("649a51a8")
MAX_LISTED = 10_000
"""Tokens of one wallet in one contract that are listed; the balance is the contract's own claim."""
CALL_GAS = 5_000_000
"""For every call but tokenURI, which may draw a picture: a thousand calls to a contract that loops still end."""
MAX_URI_BYTES = 2**20
MAX_NAME_BYTES = 256

_ERC165 = bytes.fromhex("01ffc9a7")
_NOT_ERC165 = bytes.fromhex("ffffffff")
_NOBODY = "0x" + 40 * "0"

_Call = tuple[str, str, Sequence[object]]
"""Contract, signature and arguments."""


def finalized_snapshot(rpc: Rpc) -> Snapshot:
    """The newest finalized block; raises Unreachable when the node has none."""
    chain_id, block = rpc.batch([("eth_chainId", ()), ("eth_getBlockByNumber", ("finalized", False))])
    try:
        return Snapshot(
            chain_id=int(chain_id, 16),
            number=int(block["number"], 16),
            hash=block["hash"],
            timestamp=int(block["timestamp"], 16),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable(
            f"The chain at {rpc.host} names no finalized block.", "Wait for one, or configure another RPC URL."
        ) from error


def owners(rpc: Rpc, tokens: Iterable[Token], snapshot: Snapshot) -> dict[Token, str | None]:
    """Who owns each token (checksummed), None where nobody does: burned, never minted, or no answer."""
    asked = _on_this_chain(tokens, snapshot)
    answers = _ask(rpc, [(token.contract, "ownerOf(uint256)", [token.token_id]) for token in asked], snapshot)
    return {token: _owner(answer) for token, answer in zip(asked, answers, strict=True)}


def tokens_of(rpc: Rpc, contract: str, wallet: str, snapshot: Snapshot) -> list[Token]:
    """The wallet's tokens in an ERC721Enumerable contract, in order; none where the contract doesn't enumerate."""
    [answer] = _ask(rpc, [(contract, "balanceOf(address)", [wallet])], snapshot)
    balance = _decode("uint256", answer) or 0
    calls = [
        (contract, "tokenOfOwnerByIndex(address,uint256)", [wallet, index]) for index in range(min(balance, MAX_LISTED))
    ]
    ids = {_decode("uint256", answer) for answer in _ask(rpc, calls, snapshot)} - {None}
    return sorted(Token(chain_id=snapshot.chain_id, contract=contract, token_id=token_id) for token_id in ids)


def token_uris(rpc: Rpc, tokens: Iterable[Token], snapshot: Snapshot) -> dict[Token, str]:
    """Each token's metadata URI (at most ``MAX_URI_BYTES``); tokens that have none are left out."""
    asked = _on_this_chain(tokens, snapshot)
    calls = [(token.contract, "tokenURI(uint256)", [token.token_id]) for token in asked]
    answers = _ask(rpc, calls, snapshot, gas=None)
    uris = {token: _string(answer, MAX_URI_BYTES) for token, answer in zip(asked, answers, strict=True)}
    return {token: uri for token, uri in uris.items() if uri}


def licence_signal(rpc: Rpc, contract: str, snapshot: Snapshot) -> LicenceSignal | None:
    """The Can't Be Evil licence that the contract announces, None where it announces none by ERC-165."""
    supports = [
        (contract, "supportsInterface(bytes4)", [interface]) for interface in (_ERC165, _NOT_ERC165, CANT_BE_EVIL)
    ]
    *supported, name, uri = _ask(
        rpc, [*supports, (contract, "getLicenseName()", []), (contract, "getLicenseURI()", [])], snapshot
    )
    if [_decode("bool", answer) for answer in supported] != [True, False, True]:
        return None
    licence, text = _string(name, MAX_NAME_BYTES), _string(uri, MAX_URI_BYTES)
    return LicenceSignal(name=licence, uri=text) if licence and text else None


def has_role(rpc: Rpc, contract: str, role: bytes, account: str, snapshot: Snapshot) -> bool:
    """Whether OpenZeppelin's AccessControl at ``contract`` gives ``account`` the 32-byte ``role``."""
    [answer] = _ask(rpc, [(contract, "hasRole(bytes32,address)", [role, account])], snapshot)
    return _decode("bool", answer) is True


def _on_this_chain(tokens: Iterable[Token], snapshot: Snapshot) -> list[Token]:
    asked = list(dict.fromkeys(tokens))
    for token in asked:
        if token.chain_id != snapshot.chain_id:
            raise BadInput(f"{token} is not on chain {snapshot.chain_id}.", "Ask that token's own chain.")
    return asked


def calls_at(rpc: Rpc, transactions: Sequence[Mapping[str, str]], snapshot: Snapshot) -> list[Any]:
    """What ``eth_call`` answers to each transaction at ``snapshot``, CallReverted where a contract gives no answer.

    Raises:
        Unreachable: the node does not answer, or has not got the block.
        Conflict: the block is no longer in the chain.
    """
    block = {"blockHash": snapshot.hash, "requireCanonical": True}
    try:
        return rpc.batch([("eth_call", (transaction, block)) for transaction in transactions])
    except Unreachable:
        _require_canonical(rpc, snapshot)
        raise


def _ask(rpc: Rpc, calls: Sequence[_Call], snapshot: Snapshot, gas: int | None = CALL_GAS) -> list[Any]:
    limit = {"gas": hex(gas)} if gas else {}
    transactions = [
        {"to": contract, "data": _calldata(signature, arguments), **limit} for contract, signature, arguments in calls
    ]
    return calls_at(rpc, transactions, snapshot)


def _require_canonical(rpc: Rpc, snapshot: Snapshot) -> None:
    """Every node words the refusal of a reorganised block differently: ask which block has its place now."""
    block = rpc.call("eth_getBlockByNumber", hex(snapshot.number), False)
    if not isinstance(block, dict) or block.get("hash") != snapshot.hash:
        raise Conflict(
            f"Block {snapshot.number} ({snapshot.hash}) is no longer in the chain at {rpc.host}.",
            "Take a new finalized snapshot and ask again.",
        )


def _calldata(signature: str, arguments: Sequence[object]) -> str:
    types = [kind for kind in signature[signature.index("(") + 1 : -1].split(",") if kind]
    return "0x" + (function_signature_to_4byte_selector(signature) + encode(types, arguments)).hex()


def _decode(kind: str, answer: object) -> Any:
    """The one value that an answer holds, None when it holds none of this ABI type."""
    if isinstance(answer, CallReverted) or not isinstance(answer, str):
        return None
    try:
        [value] = decode([kind], bytes.fromhex(answer.removeprefix("0x")))
    except (DecodingError, OverflowError, ValueError):
        return None
    return value


def _owner(answer: object) -> str | None:
    owner = _decode("address", answer)
    return to_checksum_address(owner) if owner and owner != _NOBODY else None


def _string(answer: object, max_bytes: int) -> str | None:
    data = _decode("bytes", answer)
    if not data or len(data) > max_bytes:
        return None
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return None
