"""ENS names that point to content: ``contenthash`` (EIP-1577) of a name's resolver, asked directly."""

from __future__ import annotations

from eth_utils.crypto import keccak

from contracts_abi.asking import address_of, ask, calldata, decode
from contracts_abi.model import Address, Snapshot
from contracts_abi.rpc import Rpc
from contracts_abi.transaction import Transaction
from protocol.errors import BadInput, NotFound
from protocol.unixfs import Cid

REGISTRY = "0x00000000000C2E074eC69A0dFb2997BA6C7d2e1e"
"""ENS on mainnet and its test networks."""
_IPFS = bytes.fromhex("e301")
"""The multicodec ``ipfs-ns``."""


def namehash(name: str) -> bytes:
    """The node of a name (EIP-137), which has to be in its normal form already.

    Raises:
        BadInput: an empty label, or characters that only ENSIP-15 can tell the normal form of.
    """
    node = bytes(32)
    for label in reversed(name.split(".")):
        if not label or label != label.lower() or not label.isascii() or not label.replace("-", "a").isalnum():
            raise BadInput(f"{name!r} is no name in plain small letters, digits and hyphens.", "Write it as dao.eth.")
        node = keccak(node + keccak(label.encode()))
    return node


def content_of(rpc: Rpc, name: str, snapshot: Snapshot, registry: Address = REGISTRY) -> Cid | None:
    """The CID that ``name`` points to; None for none, or for what is not on IPFS.

    Raises:
        NotFound: the name has no resolver.
    """
    [answer] = ask(
        rpc, [(_resolver(rpc, name, snapshot, registry), "contenthash(bytes32)", [namehash(name)])], snapshot
    )
    data: bytes = decode("bytes", answer) or b""
    if not data.startswith(_IPFS):
        return None
    try:
        cid, end = Cid.read(data, len(_IPFS))
    except BadInput:
        return None
    return cid if end == len(data) else None


def point(rpc: Rpc, name: str, cid: Cid, snapshot: Snapshot, registry: Address = REGISTRY) -> Transaction | None:
    """What makes ``name`` point to ``cid``; None where it does already.

    Raises:
        NotFound: the name has no resolver.
    """
    if content_of(rpc, name, snapshot, registry) == cid:
        return None
    data = calldata("setContenthash(bytes32,bytes)", [namehash(name), _IPFS + bytes(cid)])
    return Transaction(to=_resolver(rpc, name, snapshot, registry), data=data, what=f"point {name} to {cid}")


def _resolver(rpc: Rpc, name: str, snapshot: Snapshot, registry: Address) -> Address:
    [answer] = ask(rpc, [(registry, "resolver(bytes32)", [namehash(name)])], snapshot)
    resolver = address_of(answer)
    if resolver is None:
        raise NotFound(f"{name} has no resolver at {registry}.", "Register the name and give it a resolver first.")
    return resolver
