"""Questions to the chain, all asked at one pinned block (EIP-1898 with ``requireCanonical``).

Contracts are hostile: one that reverts, burns its gas, answers garbage or without end gives no answer, and never
spoils what is asked of the others. A node that does not answer raises Unreachable, and a block that is no longer
in the chain raises Conflict: neither ever passes for an answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from contracts_abi.asking import address_of, ask, decode, on_this_chain
from contracts_abi.model import LicenceSignal, Snapshot, Token
from contracts_abi.rpc import Rpc
from protocol.errors import Unreachable

DEFAULT_ADMIN_ROLE = bytes(32)
CANT_BE_EVIL = bytes.fromhex("649a51a8")
MAX_LISTED = 10_000
"""Tokens of one wallet in one contract that are listed; the balance is the contract's own claim."""
MAX_URI_BYTES = 2**20
MAX_NAME_BYTES = 256

_URI_OF = {"erc721": "tokenURI(uint256)", "erc1155": "uri(uint256)"}
_ERC165 = bytes.fromhex("01ffc9a7")
_NOT_ERC165 = bytes.fromhex("ffffffff")


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


def latest_snapshot(rpc: Rpc) -> Snapshot:
    """The newest block, which a fork may still take back: for acts that are asked about again, not for verdicts."""
    chain_id, block = rpc.batch([("eth_chainId", ()), ("eth_getBlockByNumber", ("latest", False))])
    number, timestamp = int(block["number"], 16), int(block["timestamp"], 16)
    return Snapshot(chain_id=int(chain_id, 16), number=number, hash=block["hash"], timestamp=timestamp)


def owners(rpc: Rpc, tokens: Iterable[Token], snapshot: Snapshot) -> dict[Token, str | None]:
    """Who owns each token (checksummed), None where nobody does: burned, never minted, or no answer."""
    asked = on_this_chain(tokens, snapshot)
    answers = ask(rpc, [(token.contract, "ownerOf(uint256)", [token.token_id]) for token in asked], snapshot)
    return {token: address_of(answer) for token, answer in zip(asked, answers, strict=True)}


def tokens_of(rpc: Rpc, contract: str, wallet: str, snapshot: Snapshot) -> list[Token]:
    """The wallet's tokens in an ERC721Enumerable contract, in order; none where the contract doesn't enumerate."""
    [answer] = ask(rpc, [(contract, "balanceOf(address)", [wallet])], snapshot)
    balance = decode("uint256", answer) or 0
    calls = [
        (contract, "tokenOfOwnerByIndex(address,uint256)", [wallet, index]) for index in range(min(balance, MAX_LISTED))
    ]
    ids = {decode("uint256", answer) for answer in ask(rpc, calls, snapshot)} - {None}
    return sorted(Token(chain_id=snapshot.chain_id, contract=contract, token_id=token_id) for token_id in ids)


def token_uris(rpc: Rpc, tokens: Iterable[Token], snapshot: Snapshot) -> dict[Token, str]:
    """Each token's metadata URI (at most ``MAX_URI_BYTES``); tokens that have none are left out.

    In an ERC-1155 contract's answer ``{id}`` stands for the id, as 64 hex digits (ERC-1155, "Metadata").
    """
    asked = on_this_chain(tokens, snapshot)
    calls = [(token.contract, _URI_OF[token.standard], [token.token_id]) for token in asked]
    answers = ask(rpc, calls, snapshot, gas=None)
    uris = {token: _string(answer, MAX_URI_BYTES) for token, answer in zip(asked, answers, strict=True)}
    return {
        token: uri.replace("{id}", f"{token.token_id:064x}") if token.standard == "erc1155" else uri
        for token, uri in uris.items()
        if uri
    }


def licence_signal(rpc: Rpc, contract: str, snapshot: Snapshot) -> LicenceSignal | None:
    """The Can't Be Evil licence that the contract announces, None where it announces none by ERC-165."""
    supports = [
        (contract, "supportsInterface(bytes4)", [interface]) for interface in (_ERC165, _NOT_ERC165, CANT_BE_EVIL)
    ]
    *supported, name, uri = ask(
        rpc, [*supports, (contract, "getLicenseName()", []), (contract, "getLicenseURI()", [])], snapshot
    )
    if [decode("bool", answer) for answer in supported] != [True, False, True]:
        return None
    licence, text = _string(name, MAX_NAME_BYTES), _string(uri, MAX_URI_BYTES)
    return LicenceSignal(name=licence, uri=text) if licence and text else None


def has_role(rpc: Rpc, contract: str, role: bytes, account: str, snapshot: Snapshot) -> bool:
    """Whether OpenZeppelin's AccessControl at ``contract`` gives ``account`` the 32-byte ``role``."""
    [answer] = ask(rpc, [(contract, "hasRole(bytes32,address)", [role, account])], snapshot)
    return decode("bool", answer) is True


def is_safe_owner(rpc: Rpc, safe: str, account: str, snapshot: Snapshot) -> bool:
    """Whether ``account`` is one of the owners of the Safe at ``safe`` (its OwnerManager's ``isOwner``)."""
    [answer] = ask(rpc, [(safe, "isOwner(address)", [account])], snapshot)
    return decode("bool", answer) is True


def _string(answer: object, max_bytes: int) -> str | None:
    data = decode("bytes", answer)
    if not data or len(data) > max_bytes:
        return None
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return None
