"""Who gets what of a reward for a release: by the weights in its manifest, as files that contracts can check. Pure.

OpenZeppelin's ``StandardMerkleTree`` over (address, uint256), so that ``MerkleProof.verify`` takes a proof as it is.
0xSplits: recipients with percentages of at most four decimals that add up to 100.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from contracts_abi.model import Address
from protocol.errors import BadInput
from protocol.manifest import Manifest
from protocol.merkle import MerkleTree

PERCENT_STEPS = 1_000_000
"""0xSplits counts in millionths of the whole."""
_LEAF = ("address", "uint256")


class Reward(NamedTuple):
    """What one member may claim, in the token's smallest unit."""

    member: Address
    amount: int


def weights_of(manifest: Manifest) -> dict[Address, int]:
    """Member → the weight of its contributions in the merge, of those that counted, by address.

    Raises:
        BadInput: nobody counted.
    """
    weights: dict[Address, int] = {}
    for one in manifest.contributions:
        if one.weight:
            weights[one.member] = weights.get(one.member, 0) + one.weight
    if not weights:
        raise BadInput("No contribution to this release has a weight.", "Choose another release.")
    return dict(sorted(weights.items(), key=lambda item: item[0].lower()))


def divided(amount: int, weights: Mapping[Address, int]) -> list[Reward]:
    """``amount`` by ``weights`` in whole units, to the last one: the largest remainders get what is left.

    Invariant: the parts add up to ``amount``, and each is less than one unit from its exact part.
    """
    if not 0 < amount < 2**256:
        raise BadInput(f"{amount} cannot be divided.", "Name a whole number of the token's smallest unit, above zero.")
    total = sum(weights.values())
    parts = {member: amount * weight // total for member, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda member: (-(amount * weights[member] % total), member.lower()))
    for member in by_remainder[: amount - sum(parts.values())]:
        parts[member] += 1
    return [Reward(member, parts[member]) for member in weights]


class RewardTree:
    """The Merkle tree over rewards of distinct members."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self.rewards = tuple(one for one in rewards if one.amount)
        self._tree = MerkleTree(_LEAF, self.rewards)

    @property
    def root(self) -> bytes:
        """What a distributor contract is made with."""
        return self._tree.root

    def proof(self, member: Address) -> list[bytes]:
        """The hashes beside the way from the member's leaf to the root.

        Raises:
            BadInput: the member gets nothing.
        """
        at = next((at for at, one in enumerate(self.rewards) if one.member == member), None)
        if at is None:
            raise BadInput(f"{member} gets nothing.", "Ask for a member that the release's manifest names.")
        return self._tree.proof(at)

    def dump(self) -> dict[str, Any]:
        """What ``StandardMerkleTree.load`` reads."""
        return {
            "format": "standard-v1",
            "leafEncoding": list(_LEAF),
            "tree": ["0x" + node.hex() for node in self._tree.nodes],
            "values": [
                {"value": [one.member, str(one.amount)], "treeIndex": self._tree.places[at]}
                for at, one in enumerate(self.rewards)
            ],
        }


def splits(weights: Mapping[Address, int]) -> dict[str, Any]:
    """The recipients of a 0xSplits contract, as its SDK takes them; whoever is below a millionth gets none."""
    shares = [one for one in divided(PERCENT_STEPS, weights) if one.amount]
    return {
        "recipients": [
            {"address": one.member, "percentAllocation": one.amount * 100 / PERCENT_STEPS} for one in shares
        ],
        "distributorFeePercent": 0,
    }
