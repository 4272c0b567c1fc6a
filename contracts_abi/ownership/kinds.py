"""Which kind a collection is: what the policy says, else what its contract says by ERC-165."""

from collections.abc import Iterable, Mapping

from contracts_abi.asking import ask, decode
from contracts_abi.model import Address, Snapshot
from contracts_abi.ownership import cryptopunks, erc721, erc1155
from contracts_abi.ownership.question import Resolver
from contracts_abi.ownership.terms import Kind, Ownership
from contracts_abi.rpc import Rpc

RESOLVERS: Mapping[Kind, Resolver] = {
    Kind.ERC721: erc721.questions,
    Kind.ERC1155: erc1155.questions,
    Kind.CRYPTOPUNKS: cryptopunks.questions,
}

_INTERFACES = tuple(bytes.fromhex(one) for one in ("01ffc9a7", "ffffffff", "80ac58cd", "d9b67a26"))
"""ERC-165, what no contract may support, ERC-721, ERC-1155."""


def kinds_of(
    rpc: Rpc, contracts: Iterable[Address], terms: Mapping[Address, Ownership], snapshot: Snapshot
) -> dict[Address, Kind]:
    """The kind of each contract; one that says nothing of itself is asked as ERC-721, as the oldest are."""
    found: dict[Address, Kind] = {}
    unknown = []
    for contract in dict.fromkeys(contracts):
        told = terms.get(contract, Ownership()).kind
        if told:
            found[contract] = told
        elif (snapshot.chain_id, contract) == (1, cryptopunks.CONTRACT):
            found[contract] = Kind.CRYPTOPUNKS
        else:
            unknown.append(contract)
    calls = [(contract, "supportsInterface(bytes4)", [one]) for contract in unknown for one in _INTERFACES]
    answers = [decode("bool", answer) for answer in ask(rpc, calls, snapshot)]
    for at, contract in enumerate(unknown):
        said = answers[at * len(_INTERFACES) : (at + 1) * len(_INTERFACES)]
        found[contract] = Kind.ERC1155 if said[:2] == [True, False] and said[2:] == [False, True] else Kind.ERC721
    return found
