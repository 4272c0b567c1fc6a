"""OpenZeppelin's ``StandardMerkleTree`` (``standard-v1`` of @openzeppelin/merkle-tree 1.0): roots that contracts check.

A leaf is keccak(keccak(abi.encode(value))), a pair is hashed in sorted order, so ``MerkleProof.verify`` takes a proof
as it is, and the order of the values does not matter.
"""

from collections.abc import Sequence
from functools import cached_property

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from protocol.errors import BadInput


class MerkleTree:
    """The tree over ``values``, each a tuple of the ABI types ``encoding``. ``nodes[0]`` is the root."""

    def __init__(self, encoding: Sequence[str], values: Sequence[Sequence[object]]) -> None:
        """Raises BadInput when there is nothing to commit to."""
        if not values:
            raise BadInput("A Merkle tree needs one value at least.")
        self.encoding, self.values = tuple(encoding), tuple(values)
        leaves = sorted((keccak(keccak(encode(self.encoding, value))), at) for at, value in enumerate(values))
        size = 2 * len(leaves) - 1
        self.places = {at: size - 1 - place for place, (_, at) in enumerate(leaves)}
        """Value → its leaf among the nodes."""
        self._leaves = [leaf for leaf, _ in leaves]

    @cached_property
    def nodes(self) -> list[bytes]:
        """The leaves lie at the end, the smallest last; the children of i at 2i + 1 and 2i + 2."""
        inner = len(self._leaves) - 1
        nodes = [b""] * inner + self._leaves[::-1]
        for at in reversed(range(inner)):
            left, right = nodes[2 * at + 1], nodes[2 * at + 2]
            nodes[at] = keccak(min(left, right) + max(left, right))
        return nodes

    @property
    def root(self) -> bytes:
        """32 bytes."""
        return self.nodes[0]

    def proof(self, at: int) -> list[bytes]:
        """The hashes beside the way from the value number ``at`` to the root."""
        place, hashes = self.places[at], []
        while place:
            hashes.append(self.nodes[place + 1 if place % 2 else place - 1])
            place = (place - 1) // 2
        return hashes
