"""CryptoPunks: older than ERC-721; ``punkIndexToAddress`` is the state, and the only thing to be trusted.

Of its events one sort lies: a bid that is accepted logs ``PunkBought`` with a zero receiver, because the contract
clears the bid before it reads the bidder from it.
"""

from collections.abc import Iterator, Sequence

from contracts_abi.asking import Call, address_of
from contracts_abi.model import Address
from contracts_abi.ownership.question import Claim, Question

CONTRACT: Address = "0xb47e3cd837dDF8e4c57F05d70Ab865de6e193BBB"
"""On chain 1."""
PUNKS = 10_000


def questions(claims: Sequence[Claim]) -> Iterator[Question]:
    """One for each claim."""
    for claim in claims:
        yield Question(
            owner_call(claim.token.contract, claim.token.token_id), (claim,), lambda answer: [address_of(answer)]
        )


def owner_call(contract: Address, index: int) -> Call:
    """Asks for the owner of one punk; the zero address owns those that were never claimed."""
    return contract, "punkIndexToAddress(uint256)", [index]
